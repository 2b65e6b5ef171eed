"""Lowering through TVM to WebAssembly. This package is the only one that imports tvm."""

from __future__ import annotations

from collections.abc import Callable

from edgec.ir import CompressedModel, LoweredModule

__all__ = ["lower"]


def lower(compressed: CompressedModel, *, progress: Callable[[str, int, int], None] | None = None) -> LoweredModule:
    """Lower to one wasm module per variant of the plan.

    Raises `UnsupportedError` for graphs with no lowering and `DoesNotFitError` past 4 GiB.
    """
    from edgec.lower.wasm.decoder import lower_decoder
    from edgec.lower.wasm.graph import lower_graph

    program = lower_decoder(compressed) if compressed.model.kind == "decoder" else lower_graph(compressed)
    return program.build(compressed.plan.variants, progress=progress)
