"""Transcendental functions as plain float32 arithmetic, so that no module imports a libm.

Every function takes and returns a TIR expression of type `float32` or `float32xN`. The operations
are adds, multiplies, a division and bit shuffles in a fixed order: the same bits on every engine,
scalar or vector. Relative errors (measured in `tests/lower/graph/test_math.py`):

    exp            <= 1e-7    0 below 2^-125, infinity above 2^128
    log            <= 1e-7    of max(1, |log x|); x normal, -infinity at 0 and below
    sigmoid, silu  <= 2e-7
    near_sigmoid, near_silu    <= 4e-6 for |x| <= 8, <= 8e-6 for |x| <= 80
    tanh, erf      <= 1.5e-7
    gelu           <= 3e-7    of max(1, |x|)
    sin, cos       <= 2e-7    absolute, |x| <= 8192

Coefficients are least-maximum fits in double precision, rounded to float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from tvm import tirx

from edgec.lower.wasm.kernels import math64
from edgec.lower.wasm.kernels.builder import bind

Expr = Any  # a tvm PrimExpr; tvm's Python classes carry no types

_EXP = (0.4999999403953552, 0.1666652113199234, 0.04166838899254799, 0.0083687175065279, 0.0013814594130963087)
_EXP2 = (1.0, 0.6931241750717163, 0.24024099111557007, 0.055906426161527634, 0.009582852944731712)
_LOG = (
    0.3333331346511841,
    -0.25000008940696716,
    0.2000211924314499,
    -0.16667994856834412,
    0.14219549298286438,
    -0.12405594438314438,
    0.11888190358877182,
    -0.11675628274679184,
    0.06746551394462585,
)
_TANH = (
    -0.3333333134651184,
    0.13333210349082947,
    -0.05394720286130905,
    0.021702965721488,
    -0.008182669058442116,
    0.0021475329995155334,
)
_ERF_SMALL = (
    0.12837915122509003,
    -0.37612485885620117,
    0.11281726509332657,
    -0.026763329282402992,
    0.004988305736333132,
    -0.0005965794553048909,
)
_ERF_LARGE = (
    -1.1286410093307495,
    -0.6351814866065979,
    -0.10618764907121658,
    0.02372021973133087,
    -0.0036229356192052364,
    0.00031806406332179904,
    -1.076363059837604e-05,
)
_PHI_ABOVE = (
    0.3989422619342804,
    0.03380937501788139,
    0.004370334092527628,
    0.0001484498498030007,
    3.0026619697309798e-06,
    -2.2001142241379057e-08,
    1.168674601537134e-10,
)
_PHI_BELOW = (1.0, 0.25141358375549316, 0.027858765795826912, 0.001704281778074801, 5.501729901880026e-05)


def lanes(x: Expr) -> int:
    """The number of lanes of a vector expression, 1 for a scalar."""
    dtype = str(x.ty.dtype)
    return int(dtype.rpartition("x")[2]) if "x" in dtype else 1


_ZERO: ContextVar[Expr | None] = ContextVar("zero", default=None)


@contextmanager
def computed_constants(size: Expr) -> Iterator[None]:
    """Inside, vectors of constants are computed from `size`, an int32 that is never negative, which LLVM cannot know.

    V8 makes each use of a literal vector with three instructions. A computed one is made once, before the loops, and
    then read from the stack by one.
    """
    token = _ZERO.set(bind(tirx.shift_right(size, tirx.const(31, "int32"))))
    try:
        yield
    finally:
        _ZERO.reset(token)


def element(x: Expr) -> str:
    """The type of a scalar expression, or of a vector's lanes."""
    return str(x.ty.dtype).partition("x")[0]


def constant(value: float, like: Expr, dtype: str | None = None) -> Expr:
    """`value` in as many lanes as `like` has, by default of the same type."""
    width = lanes(like)
    dtype = dtype or element(like)
    scalar = tirx.const(value, dtype)
    zero = _ZERO.get()
    if width == 1:
        return scalar
    if zero is not None:
        bits = int(np.array(value, dtype).view(np.int32))
        scalar = tirx.const(bits, "int32") + zero
        scalar = scalar if dtype == "int32" else tirx.reinterpret(dtype, scalar)
    return tirx.Broadcast(scalar, width)


def vector_type(dtype: str, like: Expr) -> str:
    width = lanes(like)
    return dtype if width == 1 else f"{dtype}x{width}"


def let(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """`body(value)` with `value` evaluated once."""
    if isinstance(value, tirx.Var):
        return body(value)
    variable = tirx.Var("t", value.ty)
    return tirx.Let(variable, value, body(variable))


def _horner(x: Expr, coefficients: tuple[float, ...]) -> Expr:
    result = constant(coefficients[-1], x)
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + constant(coefficient, x)
    return result


def _bits(x: Expr) -> Expr:
    return tirx.reinterpret(vector_type("int32", x), x)


def _from_bits(x: Expr) -> Expr:
    return tirx.reinterpret(vector_type("float32", x), x)


def _copy_sign(magnitude: Expr, sign: Expr) -> Expr:
    top = tirx.bitwise_and(_bits(sign), constant(-(2**31), sign, "int32"))
    return _from_bits(tirx.bitwise_or(_bits(magnitude), top))


def _abs(x: Expr) -> Expr:
    return _from_bits(tirx.bitwise_and(_bits(x), constant(2**31 - 1, x, "int32")))


def _places(count: int, like: Expr) -> Expr:
    """By how much bits are shifted: a literal, engines take three instructions more for one that is computed."""
    scalar = tirx.const(count, "int32")
    return scalar if lanes(like) == 1 else tirx.Broadcast(scalar, lanes(like))


_SHIFT = float(3 << 22)  # floats of this size have no digits behind the point


def nearest_integer(x: Expr) -> Expr:
    """int32 of |x| < 2^22, halves to even. Two instructions; WebAssembly's conversions look at every special value."""
    return _bits(x + constant(_SHIFT, x)) - constant(0x4B400000, x, "int32")


def exp(x: Expr) -> Expr:
    """e^x: x = k ln 2 + f, a polynomial in f, then k into the exponent."""

    if element(x) == "float64":
        return math64.exp(x)

    def from_input(x: Expr) -> Expr:
        clamped = tirx.max(tirx.min(x, constant(89.0, x)), constant(-86.99, x))
        # k may be 128, so one doubling stays out of the bits.
        value = let(clamped, lambda c: _exp(c, -1)) * constant(2.0, x)
        return tirx.Select(x < constant(-86.99, x), constant(0.0, x), value)

    return let(x, from_input)


def exp_below_zero(x: Expr) -> Expr:
    """`exp` of x <= 0 (or a little more), two instructions less."""

    def from_input(x: Expr) -> Expr:
        value = let(tirx.max(x, constant(-86.99, x)), lambda c: _exp(c, 0))
        return tirx.Select(x < constant(-86.99, x), constant(0.0, x), value)

    return let(x, from_input)


def _exp_negative(x: Expr) -> Expr:
    """e^-x as a part of a sum with 1, where the smallest and largest results need not be told apart from others."""
    clamped = tirx.max(tirx.min(constant(0.0, x) - x, constant(87.0, x)), constant(-86.99, x))
    return let(clamped, lambda c: _exp(c, 0))


def _exp(c: Expr, doublings: int) -> Expr:
    """e^c * 2^doublings for c from -86.99 to 89, if the result is a normal number."""
    shift = constant(_SHIFT, c)

    def reduced(y: Expr) -> Expr:
        # y holds a whole k in its last bits.
        scale = tirx.shift_left(_bits(y), _places(23, c)) + constant((127 + doublings) << 23, c, "int32")
        return let(y - shift, lambda k: with_rest(k, scale))

    def with_rest(k: Expr, scale: Expr) -> Expr:
        rest = (c - k * constant(0.693359375, c)) - k * constant(-2.12194440e-4, c)
        return let(rest, lambda f: (_horner(f, _EXP) * f * f + f + constant(1.0, f)) * _from_bits(scale))

    return let(c * constant(1.4426950408889634, c) + shift, reduced)


def log(x: Expr) -> Expr:
    """Natural logarithm of a positive, normal x; -infinity at 0."""
    if element(x) == "float64":
        return math64.log(x)

    def from_input(x: Expr) -> Expr:
        # The exponent that leaves a mantissa in [sqrt(1/2), sqrt(2)).
        shifted = _bits(x) - constant(0x3F3504F3, x, "int32")
        return let(tirx.shift_right(shifted, _places(23, x)), lambda e: with_exponent(x, e))

    def with_exponent(x: Expr, e: Expr) -> Expr:
        mantissa = _from_bits(_bits(x) - tirx.shift_left(e, _places(23, e)))
        return let(mantissa - constant(1.0, x), lambda m: with_mantissa(x, e.astype(vector_type("float32", x)), m))

    def with_mantissa(x: Expr, e: Expr, m: Expr) -> Expr:
        square = m * m
        tail = _horner(m, _LOG) * m * square + e * constant(-2.12194440e-4, x) - constant(0.5, x) * square
        value = (tail + m) + e * constant(0.693359375, x)
        return tirx.Select(x > constant(0.0, x), value, constant(float("-inf"), x))

    return let(x, from_input)


def sigmoid(x: Expr) -> Expr:
    return let(x, lambda v: constant(1.0, v) / (constant(1.0, v) + _exp_negative(v)))


def silu(x: Expr) -> Expr:
    """x * sigmoid(x), also called swish."""
    return let(x, lambda v: v / (constant(1.0, v) + _exp_negative(v)))


def near_sigmoid(x: Expr) -> Expr:
    """`sigmoid` to 17 bits, in two thirds of the instructions."""
    return let(x, lambda v: constant(1.0, v) / (constant(1.0, v) + _near_exp_negative(v)))


def near_silu(x: Expr) -> Expr:
    """`silu` to 17 bits."""
    return let(x, lambda v: v / (constant(1.0, v) + _near_exp_negative(v)))


def _near_exp_negative(x: Expr) -> Expr:
    """e^-x as 2^t: t = k + f, a polynomial in f, then k is added to its exponent."""
    exponent = tirx.min(x * constant(-1.4426950408889634, x), constant(126.0, x))

    def reduced(t: Expr, y: Expr) -> Expr:
        # y holds k in its last bits, and what is above them leaves at the top.
        whole = tirx.shift_left(_bits(y), _places(23, y))
        fraction = let(t - (y - constant(_SHIFT, t)), lambda f: _horner(f, _EXP2))
        return _from_bits(_bits(fraction) + whole)

    return let(tirx.max(exponent, constant(-125.0, x)), lambda t: let(t + constant(_SHIFT, t), lambda y: reduced(t, y)))


def tanh(x: Expr) -> Expr:
    def from_input(x: Expr) -> Expr:
        square = x * x
        small = let(square, lambda s: x + x * s * _horner(s, _TANH))
        # 1 - 2 / (e^2a + 1) cancels near 0, the polynomial does not.
        large = constant(1.0, x) - constant(2.0, x) / (exp(constant(2.0, x) * _abs(x)) + constant(1.0, x))
        return tirx.Select(_abs(x) < constant(0.625, x), small, _copy_sign(large, x))

    return let(x, from_input)


def erf(x: Expr) -> Expr:
    def from_input(x: Expr) -> Expr:
        small = let(x * x, lambda s: x + x * _horner(s, _ERF_SMALL))
        large = let(tirx.min(_abs(x), constant(4.0, x)), lambda a: constant(1.0, a) - exp(a * _horner(a, _ERF_LARGE)))
        return tirx.Select(_abs(x) < constant(0.9, x), small, _copy_sign(large, x))

    return let(x, from_input)


def gelu(x: Expr) -> Expr:
    """x * Phi(x) with the exact normal distribution function; Phi - 1/2 is a rational function of x up to 5.4."""

    def from_input(v: Expr) -> Expr:
        inside = tirx.max(tirx.min(v, constant(5.4, v)), constant(-5.4, v))
        half = let(inside, lambda t: let(t * t, lambda s: t * _horner(s, _PHI_ABOVE) / _horner(s, _PHI_BELOW)))
        return v * (constant(0.5, v) + half)

    return let(x, from_input)


def gelu_tanh(x: Expr) -> Expr:
    """The tanh approximation of `gelu` (`approximate="tanh"`): (1 + tanh u) / 2 is the sigmoid of 2 u."""

    def from_input(v: Expr) -> Expr:
        doubled = constant(1.5957691216057308, v) * (v + constant(0.044715, v) * v * v * v)
        return v / (constant(1.0, v) + _exp_negative(doubled))

    return let(x, from_input)


_SIN = (-0.16666667163372040, 0.008333330042660236, -0.00019839334823191166, 2.7183114184319857e-06)
_COS = (-0.5, 0.04166666045784950, -0.0013887316454201937, 2.4799044695100747e-05)


def _sine(x: Expr, quarter: int) -> Expr:
    """sin(x + quarter * pi / 2) by reduction to [-pi/4, pi/4] in three steps."""

    def from_input(x: Expr) -> Expr:
        return let(tirx.floor(x * constant(0.6366197723675814, x) + constant(0.5, x)), lambda k: with_turns(x, k))

    def with_turns(x: Expr, k: Expr) -> Expr:
        r = ((x - k * constant(1.5703125, x)) - k * constant(4.837512969970703e-4, x)) - k * constant(
            7.549790126404332e-8, x
        )
        return let(
            r, lambda r: let(k.astype(vector_type("int32", k)) + constant(quarter, k, "int32"), lambda q: pick(r, q))
        )

    def pick(r: Expr, q: Expr) -> Expr:
        sine = let(r * r, lambda s: r + r * s * _horner(s, _SIN))
        cosine = let(r * r, lambda s: constant(1.0, s) + s * _horner(s, _COS))
        one = constant(1, q, "int32")
        odd = tirx.bitwise_and(q, one)
        value = tirx.Select(tirx.EQ(odd, one), cosine, sine)
        sign = tirx.shift_left(tirx.bitwise_and(q, constant(2, q, "int32")), _places(30, q))
        return _from_bits(tirx.bitwise_xor(_bits(value), sign))

    return let(x, from_input)


def sin(x: Expr) -> Expr:
    return _sine(x, 0)


def cos(x: Expr) -> Expr:
    return _sine(x, 1)
