"""Arithmetic sequences."""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.graph_dims import symbols, to_tir
from edgec.lower.wasm.kernels.builder import KernelBuilder, PrimFunc, store
from edgec.passes.dims import Dim


def arithmetic_sequence(*, start: Dim, step: int, length: Dim, dtype: str) -> PrimFunc:
    """`output[i] = start + i * step`. Parameters: output, symbols of `start` and `length`."""
    with KernelBuilder() as k:
        output = k.buffer("output", dtype)
        variables = {name: k.scalar(name) for name in symbols([start, length])}
        first = to_tir(start, variables)
        with T.parallel(0, to_tir(length, variables)) as i:
            store(output, i, T.Cast(dtype, first + i * step), 1)
    return k.func
