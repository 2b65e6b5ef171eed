"""Lowering through TVM to WebAssembly. This package is the only one that imports tvm."""

from __future__ import annotations

from collections.abc import Callable

from edgec.ir import CompressedModel, LoweredModule
from edgec.ir.store import Store

__all__ = ["lower"]


def lower(
    compressed: CompressedModel,
    *,
    profile_kernels: bool = False,
    store: Store | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> LoweredModule:
    """Lower to one wasm module per variant of the plan.

    With `profile_kernels` they tell when each kernel has ended (docs/runtime-abi.md), and run in a profiler only.
    Object code that `store` has is taken from there.
    Raises `UnsupportedError` for graphs with no lowering and `DoesNotFitError` past 4 GiB.
    """
    from edgec.lower.wasm.decoder import lower_decoder
    from edgec.lower.wasm.graph import lower_graph

    program = lower_decoder(compressed) if compressed.model.kind == "decoder" else lower_graph(compressed)
    return program.build(compressed.plan.variants, profile_kernels=profile_kernels, store=store, progress=progress)
