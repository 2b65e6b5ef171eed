"""Activation functions that a linear or convolution kernel can apply in its epilogue."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from edgec.lower.wasm.kernels import math
from edgec.lower.wasm.kernels.builder import Expr


def _relu(x: Expr) -> Expr:
    return tirx.max(x, math.constant(0.0, x))


def _relu2(x: Expr) -> Expr:
    return math.let(_relu(x), lambda positive: positive * positive)


def _relu6(x: Expr) -> Expr:
    return tirx.min(_relu(x), math.constant(6.0, x))


def hard_swish(x: Expr) -> Expr:
    """x * max(0, min(1, x / 6 + 1/2))."""
    gate = tirx.max(
        tirx.min(x * math.constant(1 / 6, x) + math.constant(0.5, x), math.constant(1.0, x)), math.constant(0.0, x)
    )
    return x * gate


ACTIVATIONS: dict[str, Callable[[Expr], Expr]] = {
    "gelu": math.gelu,
    "gelu_tanh": math.gelu_tanh,
    "hard_swish": hard_swish,
    "near_sigmoid": math.near_sigmoid,
    "near_silu": math.near_silu,
    "relu": _relu,
    "relu2": _relu2,
    "relu6": _relu6,
    "sigmoid": math.sigmoid,
    "silu": math.silu,
    "tanh": math.tanh,
}

# Made of an exponential, which takes as long as many products.
SMOOTH = frozenset({"gelu", "gelu_tanh", "near_sigmoid", "near_silu", "sigmoid", "silu", "tanh"})

# What stands for an activation beside codes of 8 bits, which are a thousand times as coarse.
NEAR = {"sigmoid": "near_sigmoid", "silu": "near_silu"}
