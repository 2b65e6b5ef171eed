"""Soft caps of scores and logits: x becomes c * tanh(x / c) (Gemma 2)."""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.kernels import math
from edgec.lower.wasm.kernels.builder import Expr, KernelBuilder, PrimFunc, bind, load, splat, store


def capped(value: Expr, cap: float) -> Expr:
    """Of a `float32x4`."""
    inverse, bound = splat(1.0 / cap, "float32x4"), splat(cap, "float32x4")
    return math.tanh(bind(value * inverse)) * bound


def softcap(*, vectors: int, cap: float) -> PrimFunc:
    """In place. Parameters: values, of `vectors` times 4 floats."""
    with KernelBuilder() as k:
        values = k.buffer("values", "float32")
        with T.parallel(0, vectors) as i:
            store(values, i * 4, capped(load(values, i * 4), cap))
    return k.func
