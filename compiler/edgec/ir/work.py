"""What kernel calls have to do, as numbers: what the lowering knows and the planner turns into seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgec.ir.lowered import MemoryPlan

Amount = int | str | tuple[str, Any, Any]
"""A number, a parameter, or (operator, left, right) with one of + - * // min max."""

Arithmetic = Literal["codes", "int16", "float32", "scalar"]
"""What multiplies: codes of weights by 8-bit activations, 16 bits by 16 bits, floats, floats one at a time."""

_OPERATORS: Mapping[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b,
    "min": min,
    "max": max,
}


def evaluate(amount: Any, environment: Mapping[str, int]) -> int:
    """The value of a number, a parameter's name, or [operator, left, right]."""
    if isinstance(amount, int):
        return amount
    if isinstance(amount, str):
        return environment[amount]
    operator, left, right = amount
    return _OPERATORS[operator](evaluate(left, environment), evaluate(right, environment))


@dataclass(frozen=True)
class KernelWork:
    """One call. `products` are multiply-adds, padding included; `bits` those of the weights' codes."""

    kernel: str
    products: int = 0
    arithmetic: Arithmetic | None = None
    bits: int = 32
    group_size: int = 32  # weights that share a scale
    weights: int = 0  # bytes
    cache: int = 0  # bytes of keys and values
    moved: int = 0  # bytes of activations that a kernel without products reads and writes
    results: int = 0  # sums of products that become floats
    functions: int = 0  # exponentials, or functions made of one


@dataclass(frozen=True)
class Outline:
    """A program before it is compiled: its memory, and the calls of the entry points that were asked for."""

    memory: MemoryPlan
    steps: Mapping[str, tuple[KernelWork, ...]]


__all__ = ["Amount", "Arithmetic", "KernelWork", "Outline", "evaluate"]
