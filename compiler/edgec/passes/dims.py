"""Arithmetic on dimensions: `int`, or `onnx_ir.SymbolicDim` over the names of the model's inputs.

A graph asks the same questions thousands of times, and sympy is slow, so answers are kept.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Sequence

import onnx_ir as ir

Dim = int | ir.SymbolicDim
_kept = functools.lru_cache(maxsize=1 << 16)
_COMPUTED = re.compile(r"\.dim[0-9]+$")  # of `computed_dims.Names`


def known(dim: Dim) -> bool:
    """False for a dimension of which not even an expression is known."""
    return isinstance(dim, int) or dim.value is not None


@_kept
def computed(dim: Dim) -> bool:
    """Whether a module may compute (a part of) the dimension while it runs: it may be 0, 1, or not what it meets."""
    return not isinstance(dim, int) and known(dim) and any(_COMPUTED.search(name) for name in dim.free_symbols())


@_kept
def normal(dim: Dim) -> Dim:
    """An `int` where the expression is a number."""
    if isinstance(dim, int):
        return int(dim)
    result = dim.evaluate({}) if dim.value is not None else dim
    return int(result) if isinstance(result, int) else result


@_kept
def add(a: Dim, b: Dim) -> Dim:
    return normal(a + b)


@_kept
def subtract(a: Dim, b: Dim) -> Dim:
    return normal(a - b)


@_kept
def multiply(a: Dim, b: Dim) -> Dim:
    return normal(a * b)


@_kept
def floor_divide(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if isinstance(a, int):
        return normal(ir.SymbolicDim(str(a)) // b)
    return normal(a // b)


@_kept
def minimum(a: Dim, b: Dim) -> Dim:
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else normal(ir.SymbolicDim(f"min({a}, {b})"))


def product(dims: Iterable[Dim]) -> Dim:
    result: Dim = 1
    for dim in dims:
        result = multiply(result, dim)
    return result


@_kept
def same(a: Dim, b: Dim) -> bool:
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    if not (known(a) and known(b)):
        return False
    return a == b or normal(a - b) == 0


def quotient(total: Sequence[Dim], parts: Sequence[Dim]) -> Dim:
    """product(total) / product(parts), equal factors cancelled first."""
    left, right = list(total), list(parts)
    for dim in list(right):
        match = next((i for i, other in enumerate(left) if same(other, dim)), None)
        if match is not None:
            del left[match]
            right.remove(dim)
    numbers = math.prod(d for d in left if isinstance(d, int)), math.prod(d for d in right if isinstance(d, int))
    symbols = [d for d in left if not isinstance(d, int)], [d for d in right if not isinstance(d, int)]
    if not symbols[1] and numbers[1] and numbers[0] % numbers[1] == 0:
        return multiply(product(symbols[0]), numbers[0] // numbers[1])
    return floor_divide(multiply(product(symbols[0]), numbers[0]), multiply(product(symbols[1]), numbers[1]))


def broadcast(shapes: Sequence[Sequence[Dim]]) -> list[Dim]:
    """The common shape of numpy broadcasting.

    Two different expressions are taken to be equal; of computed ones the lowering checks that they are, or are 1.
    """
    rank = max((len(shape) for shape in shapes), default=0)
    result: list[Dim] = []
    for axis in range(rank):
        dims = [shape[axis - rank + len(shape)] for shape in shapes if axis - rank + len(shape) >= 0]
        numbers = [d for d in dims if isinstance(d, int) and d != 1]
        symbols = [d for d in dims if not isinstance(d, int)]
        named = sorted((d for d in symbols if known(d)), key=computed)
        result.append(numbers[0] if numbers else named[0] if named else symbols[0] if symbols else 1)
    return result
