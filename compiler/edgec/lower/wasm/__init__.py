"""Lowering through TVM to WebAssembly. This package is the only one that imports tvm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from edgec.ir import CompressedModel, LoweredModule
from edgec.ir.lowered import ExitSlot
from edgec.ir.store import Store
from edgec.ir.work import Outline

if TYPE_CHECKING:
    from edgec.lower.wasm.program import Program

__all__ = ["lower", "outline"]


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
    module = _program(compressed).build(
        compressed.plan.variants, profile_kernels=profile_kernels, store=store, progress=progress
    )
    exits = (ExitSlot(h.layer, h.threshold, h.agreement, h.share, h.tokens) for h in compressed.exits)
    return replace(module, exits=tuple(exits))


def outline(compressed: CompressedModel, parameters: Mapping[str, Mapping[str, int]]) -> Outline:
    """The memory that `lower` would give it and what the calls of some entry points would do, without compiling
    anything.

    `parameters` are those of the entry points that are asked for. Raises what `lower` raises.
    """
    program = _program(compressed)
    steps = {name: program.foreseen(name, values) for name, values in parameters.items()}
    return Outline(program.place(), steps)


def _program(compressed: CompressedModel) -> Program:
    from edgec.lower.wasm.decoder import lower_decoder
    from edgec.lower.wasm.graph import lower_graph

    return lower_decoder(compressed) if compressed.model.kind == "decoder" else lower_graph(compressed)
