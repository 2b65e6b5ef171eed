"""exp and log of float64, as plain arithmetic like `math.py`; relative errors below 1e-15."""

from __future__ import annotations

import math
from typing import Any

from tvm import tirx

Expr = Any  # tvm's Python classes carry no types

# ln 2 in two parts, and the polynomial of log by Sun's fdlibm (e_log.c).
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_LOG = (
    6.666666666666735130e-01,
    3.999999999940941908e-01,
    2.857142874366239149e-01,
    2.222219843214978396e-01,
    1.818357216161805012e-01,
    1.531383769920937332e-01,
    1.479819860511658591e-01,
)


def _number(value: float) -> Expr:
    return tirx.const(value, "float64")


def _let(value: Expr, body: Any) -> Expr:
    variable = tirx.Var("t", value.ty)
    return tirx.Let(variable, value, body(variable))


def _power_of_two(exponent: Expr) -> Expr:
    """2^exponent for an int64 of a normal number."""
    shifted = tirx.shift_left(exponent + tirx.const(1023, "int64"), tirx.const(52, "int64"))
    return tirx.reinterpret("float64", shifted)


def _horner(x: Expr, coefficients: tuple[float, ...]) -> Expr:
    result = _number(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + _number(coefficient)
    return result


_TAYLOR = tuple(1 / math.factorial(i) for i in range(14))


def exp(x: Expr) -> Expr:
    """e^x = 2^k e^r; 2^k in two halves, so that its results may be subnormal."""

    def scaled(c: Expr, k: Expr) -> Expr:
        whole = tirx.Cast("int64", k)
        half = tirx.shift_right(whole, tirx.const(1, "int64"))
        value = _let((c - k * _number(_LN2_HIGH)) - k * _number(_LN2_LOW), lambda r: _horner(r, _TAYLOR))
        return value * _power_of_two(half) * _power_of_two(whole - half)

    def clamped(c: Expr) -> Expr:
        return _let(tirx.floor(c * _number(1 / math.log(2)) + _number(0.5)), lambda k: scaled(c, k))

    return _let(tirx.max(tirx.min(x, _number(710.0)), _number(-746.0)), clamped)


def log(x: Expr) -> Expr:
    """Natural logarithm of a positive, normal x; -infinity at 0 and below."""

    def of_mantissa(e: Expr, f: Expr) -> Expr:
        s = f / (_number(2.0) + f)
        square = _let(s * s, lambda z: z * _horner(z, _LOG))
        half = _number(0.5) * f * f
        return e * _number(_LN2_HIGH) - ((half - (s * (half + square) + e * _number(_LN2_LOW))) - f)

    def with_exponent(e: Expr) -> Expr:
        scaled = tirx.reinterpret("float64", bits - tirx.shift_left(e, tirx.const(52, "int64")))
        return _let(scaled - _number(1.0), lambda f: of_mantissa(tirx.Cast("float64", e), f))

    bits = tirx.reinterpret("int64", x)
    # The exponent that leaves a mantissa in [sqrt(1/2), sqrt(2)).
    exponent = tirx.shift_right(bits - tirx.const(0x3FE6A09E667F3BCD, "int64"), tirx.const(52, "int64"))
    return tirx.Select(x > _number(0.0), _let(exponent, with_exponent), _number(float("-inf")))
