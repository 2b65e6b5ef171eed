"""Inverse and hyperbolic functions of float32, from `math.py`; relative errors below 2e-6."""

from __future__ import annotations

import math as _math
from typing import Any

from tvm import tirx

from edgec.lower.wasm.kernels.math import constant, exp, let, log

Expr = Any  # tvm's Python classes carry no types

# atan on [0, tan(pi/8)]: Cephes, `atanf` (Moshier).
_ATAN = (-3.33329491539e-1, 1.99777106478e-1, -1.38776856032e-1, 8.05374449538e-2)


def _polynomial(x: Expr, coefficients: tuple[float, ...]) -> Expr:
    result = constant(coefficients[-1], x)
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + constant(coefficient, x)
    return result


def _odd_series(x: Expr, coefficients: tuple[float, ...]) -> Expr:
    """x + c0 x^3 + c1 x^5 ..."""
    return let(x * x, lambda square: x + x * square * _polynomial(square, coefficients))


def _odd(x: Expr, of_magnitude: Any) -> Expr:
    return let(of_magnitude(tirx.abs(x)), lambda value: tirx.Select(x < constant(0, x), constant(0, x) - value, value))


def atan(x: Expr) -> Expr:
    def positive(a: Expr) -> Expr:
        large, middle = constant(_math.tan(3 * _math.pi / 8), a), constant(_math.tan(_math.pi / 8), a)
        one = constant(1, a)
        reduced = tirx.Select(
            a > large,
            constant(-1, a) / tirx.max(a, one),
            tirx.Select(a > middle, (a - one) / (a + one), a),
        )
        base = tirx.Select(
            a > large,
            constant(_math.pi / 2, a),
            tirx.Select(a > middle, constant(_math.pi / 4, a), constant(0, a)),
        )
        return let(reduced, lambda r: base + _odd_series(r, _ATAN))

    return let(x, lambda v: _odd(v, lambda a: let(a, positive)))


def asin(x: Expr) -> Expr:
    """2 atan(x / (1 + sqrt(1 - x^2)))."""

    def of(v: Expr) -> Expr:
        one = constant(1, v)
        return constant(2, v) * atan(v / (one + tirx.sqrt((one - v) * (one + v))))

    return let(x, of)


def acos(x: Expr) -> Expr:
    """2 atan(sqrt(1 - x) / sqrt(1 + x)), which does not cancel near 1."""

    def of(v: Expr) -> Expr:
        one = constant(1, v)
        return constant(2, v) * atan(tirx.sqrt(one - v) / tirx.sqrt(one + v))

    return let(x, of)


def sinh(x: Expr) -> Expr:
    def of(v: Expr) -> Expr:
        half = constant(0.5, v)
        large = let(exp(v), lambda e: half * e - half / e)
        return tirx.Select(tirx.abs(v) < constant(0.5, v), _odd_series(v, (1 / 6, 1 / 120, 1 / 5040)), large)

    return let(x, of)


def cosh(x: Expr) -> Expr:
    return let(exp(tirx.abs(x)), lambda e: constant(0.5, e) * e + constant(0.5, e) / e)


def asinh(x: Expr) -> Expr:
    def positive(a: Expr) -> Expr:
        small = _odd_series(a, (-1 / 6, 3 / 40, -15 / 336, 105 / 3456))
        large = log(a + tirx.sqrt(a * a + constant(1, a)))
        return tirx.Select(a < constant(0.25, a), small, large)

    return let(x, lambda v: _odd(v, lambda a: let(a, positive)))


def acosh(x: Expr) -> Expr:
    def of(v: Expr) -> Expr:
        one = constant(1, v)
        return log(v + tirx.sqrt((v - one) * (v + one)))

    return let(x, of)


def atanh(x: Expr) -> Expr:
    def of(v: Expr) -> Expr:
        one = constant(1, v)
        small = _odd_series(v, (1 / 3, 1 / 5, 1 / 7, 1 / 9))
        return tirx.Select(tirx.abs(v) < constant(0.25, v), small, constant(0.5, v) * log((one + v) / (one - v)))

    return let(x, of)
