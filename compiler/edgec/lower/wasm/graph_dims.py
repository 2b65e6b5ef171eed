"""Expressions of symbolic dimensions: their values, as TIR, and as scalars of a driver."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import onnx_ir as ir
import sympy  # type: ignore[import-untyped]
from tvm import tirx

from edgec.errors import UnsupportedError
from edgec.ir.work import Amount
from edgec.lower.wasm.program import Scalar
from edgec.lower.wasm.work import times
from edgec.passes.dims import Dim, computed

Expr = Any  # tvm's Python classes carry no types


def symbols(dims: Iterable[Dim]) -> list[str]:
    """Names of the symbolic dimensions in `dims`, sorted."""
    names: set[str] = set()
    for dim in dims:
        if not isinstance(dim, int):
            names |= dim.free_symbols()
    return sorted(names)


def upper_bound(dim: Dim, bounds: Mapping[str, int]) -> int:
    """The value of `dim` where every dimension has its upper bound; with computed ones, the largest that can be."""
    if isinstance(dim, int):
        return dim
    if computed(dim) and dim.free_symbols() <= bounds.keys():
        return max(0, _interval(dim, bounds)[1])
    value = dim.evaluate(dict(bounds))
    if not isinstance(value, int):
        missing = ", ".join(f"`{name}`" for name in sorted(dim.free_symbols() - set(bounds)))
        raise UnsupportedError(
            f"the symbolic dimension {missing or f'`{dim}`'} has no upper bound",
            hint="give it one with `--max-dim name=number`",
        )
    return value


def _interval(dim: Dim, bounds: Mapping[str, int]) -> tuple[int, int]:
    """The smallest and the largest value of `dim`; dimensions of inputs are at least 1, computed ones at least 0."""

    def combine(operator: str, a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
        if operator == "//":
            b = (max(1, b[0]), max(1, b[1]))
        ends = [_PYTHON[operator](x, y) for x in a for y in b]
        return min(ends), max(ends)

    def variable(name: str) -> tuple[int, int]:
        return (0 if computed(ir.SymbolicDim(name)) else 1), bounds[name]

    result: tuple[int, int] = fold(dim, lambda n: (n, n), variable, combine)
    return result


_PYTHON: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "min": min,
    "max": max,
}


def fold(
    dim: Dim,
    number: Callable[[int], Any],
    variable: Callable[[str], Any],
    operator: Callable[[str, Any, Any], Any],
) -> Any:
    """Evaluate `dim` with operators `+ - * //` (floor division of non-negative numbers), `min` and `max`."""
    if isinstance(dim, int):
        return number(dim)
    expression = dim._expr
    if expression is None:
        raise UnsupportedError(
            "a tensor has a dimension of unknown size", hint="simplify the model or fix its input sizes"
        )

    def walk(e: Any) -> Any:
        if e.is_Integer:
            return number(int(e))
        if e.is_Symbol:
            return variable(str(e))
        if e.is_Add:
            positive = [a for a in e.args if not a.could_extract_minus_sign()]
            negative = [-a for a in e.args if a.could_extract_minus_sign()]
            result = walk(positive[0]) if positive else number(0)
            for term in positive[1:]:
                result = operator("+", result, walk(term))
            for term in negative:
                result = operator("-", result, walk(term))
            return result
        if e.is_Mul and not any(a.is_Rational and not a.is_Integer for a in e.args):
            result = walk(e.args[0])
            for factor in e.args[1:]:
                result = operator("*", result, walk(factor))
            return result
        if e.is_Pow and e.exp.is_Integer and e.exp > 0:
            result = walk(e.base)
            for _ in range(int(e.exp) - 1):
                result = operator("*", result, walk(e.base))
            return result
        if isinstance(e, sympy.floor):
            numerator, denominator = sympy.fraction(sympy.together(e.args[0]))
            return operator("//", walk(sympy.expand(numerator)), walk(denominator))
        if isinstance(e, (sympy.Min, sympy.Max)):
            name = "min" if isinstance(e, sympy.Min) else "max"
            result = walk(e.args[0])
            for other in e.args[1:]:
                result = operator(name, result, walk(other))
            return result
        raise UnsupportedError(f"the dimension `{dim}` is too complicated", hint="fix the model's input sizes")

    return walk(expression)


_TIR: dict[str, Callable[[Expr, Expr], Expr]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "//": tirx.truncdiv,
    "min": tirx.min,
    "max": tirx.max,
}


def to_tir(dim: Dim, variables: Mapping[str, Expr]) -> Expr:
    """`dim` as an int32 expression; `variables` maps names to expressions."""
    return fold(dim, lambda n: tirx.const(n, "int32"), lambda name: variables[name], lambda op, a, b: _TIR[op](a, b))


def to_scalar(dim: Dim) -> Scalar:
    """`dim` as an operand of a driver, over the entry point's parameters."""

    def combine(operator: str, left: Scalar, right: Scalar) -> Scalar:
        if operator in ("min", "max"):
            raise UnsupportedError(f"the dimension `{dim}` is too complicated", hint="fix the model's input sizes")
        return (operator, left, right)

    result: Scalar = fold(dim, lambda n: n, lambda name: name, combine)
    return result


def to_amount(*dims: Dim) -> Amount:
    """The product of `dims` as an amount of work, over the entry point's parameters."""
    nothing: list[Amount] = [1]
    return times(*nothing, *(fold(dim, int, str, lambda operator, a, b: (operator, a, b)) for dim in dims))
