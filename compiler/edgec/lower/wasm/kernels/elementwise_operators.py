"""ONNX's elementwise operators as TIR expressions.

A function takes the node's attributes, the result's dtype (`float32`, `int32`, `int64`, `int8`,
`uint8` or `bool`) and the operands' expressions, scalars or vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.kernels import math, small_floats, trigonometry
from edgec.lower.wasm.kernels.activations import hard_swish
from edgec.lower.wasm.kernels.builder import Expr, bind
from edgec.lower.wasm.kernels.math import constant, element, vector_type

Attributes = Mapping[str, Any]
Operator = Callable[[Attributes, str, Sequence[Expr]], Expr]


def _like(value: float, x: Expr) -> Expr:
    return constant(value, x)


def _unary(function: Callable[[Expr], Expr]) -> Operator:
    return lambda attributes, dtype, args: function(args[0])


def _binary(function: Callable[[Expr, Expr], Expr]) -> Operator:
    return lambda attributes, dtype, args: function(args[0], args[1])


def _negate(x: Expr) -> Expr:
    return _like(0, x) - x if not element(x).startswith("float") else x * _like(-1.0, x)


def _sign(x: Expr) -> Expr:
    negative = tirx.Select(x < _like(0, x), _like(-1, x), _like(0, x))
    return tirx.Select(x > _like(0, x), _like(1, x), negative)


def _relu(x: Expr) -> Expr:
    return tirx.max(x, _like(0, x))


def _softplus(x: Expr) -> Expr:
    """log(1 + e^x) = max(x, 0) + log(1 + e^-|x|)."""
    return _relu(x) + math.log(_like(1, x) + math.exp(_negate(tirx.abs(x))))


def _elu(attributes: Attributes, dtype: str, args: Sequence[Expr]) -> Expr:
    x, alpha = args[0], attributes.get("alpha", 1.0)
    return tirx.Select(x > _like(0, x), x, _like(alpha, x) * (math.exp(x) - _like(1, x)))


def _selu(attributes: Attributes, dtype: str, args: Sequence[Expr]) -> Expr:
    alpha, gamma = attributes.get("alpha", 1.6732632423543772), attributes.get("gamma", 1.0507009873554805)
    return _like(gamma, args[0]) * _elu({"alpha": alpha}, dtype, args)


def _celu(attributes: Attributes, dtype: str, args: Sequence[Expr]) -> Expr:
    x, alpha = args[0], attributes.get("alpha", 1.0)
    negative = _like(alpha, x) * (math.exp(x * _like(1.0 / alpha, x)) - _like(1, x))
    return tirx.Select(x > _like(0, x), x, negative)


def _leaky_relu(attributes: Attributes, dtype: str, args: Sequence[Expr]) -> Expr:
    x = args[0]
    return tirx.Select(x < _like(0, x), x * _like(attributes.get("alpha", 0.01), x), x)


def _thresholded_relu(attributes: Attributes, dtype: str, args: Sequence[Expr]) -> Expr:
    x = args[0]
    return tirx.Select(x > _like(attributes.get("alpha", 1.0), x), x, _like(0, x))


def _hard_sigmoid(attributes: Attributes, dtype: str, args: Sequence[Expr]) -> Expr:
    x = args[0]
    line = x * _like(attributes.get("alpha", 0.2), x) + _like(attributes.get("beta", 0.5), x)
    return tirx.max(tirx.min(line, _like(1, x)), _like(0, x))


def _mish(x: Expr) -> Expr:
    """x tanh(log(1 + e^x)) = x n / (n + 2) with n = e^x (e^x + 2); from 20 on the factor is 1."""
    e = bind(math.exp(tirx.min(x, _like(20, x))))
    n = bind(e * (e + _like(2, x)))
    return x * (n / (n + _like(2, x)))


def _swish(attributes: Attributes, dtype: str, args: Sequence[Expr]) -> Expr:
    x, alpha = args[0], attributes.get("alpha", 1.0)
    return math.silu(x) if alpha == 1.0 else x * math.sigmoid(x * _like(alpha, x))


def _gelu(attributes: Attributes, dtype: str, args: Sequence[Expr]) -> Expr:
    return math.gelu_tanh(args[0]) if attributes.get("approximate", "none") == "tanh" else math.gelu(args[0])


def _clip(attributes: Attributes, dtype: str, args: Sequence[Expr]) -> Expr:
    """Bounds are operands; `attributes["bounds"]` says which of "low" and "high" are there."""
    x, *bounds = args
    for name, bound in zip(attributes["bounds"], bounds, strict=True):
        x = tirx.max(x, bound) if name == "low" else tirx.min(x, bound)
    return x


def _cast(attributes: Attributes, dtype: str, args: Sequence[Expr]) -> Expr:
    x = args[0]
    source = element(x)
    if source == dtype:
        return x
    if dtype == "bool":
        return x != _like(0, x)
    return T.Cast(vector_type(dtype, x), x)


def _bit_cast(dtype: str, x: Expr) -> Expr:
    if dtype == "bool":
        return T.Cast("uint8", x) != T.uint8(0)
    x = T.Cast("uint8", x) if element(x) == "bool" else x
    return x if element(x) == dtype else tirx.reinterpret(dtype, x)


def _shift(attributes: Attributes, dtype: str, args: Sequence[Expr]) -> Expr:
    """By the width or more nothing is left (-1 of a negative number, to the right); to LLVM that is undefined."""
    x, count = args
    bits = tirx.const(int("".join(c for c in dtype if c.isdigit())), dtype)
    left = attributes["direction"] == "LEFT"
    shift = tirx.shift_left if left else tirx.shift_right
    zero = tirx.const(0, dtype)
    rest = zero if left or dtype.startswith("uint") else tirx.Select(x < zero, tirx.const(-1, dtype), zero)
    valid = tirx.And(count >= zero, count < bits)
    return tirx.Select(valid, shift(x, tirx.Select(valid, count, zero)), rest)


def _is_infinite(attributes: Attributes, dtype: str, args: Sequence[Expr]) -> Expr:
    x = args[0]
    positive = tirx.And(x > _like(0, x), tirx.const(bool(attributes.get("detect_positive", 1)), "bool"))
    negative = tirx.And(x < _like(0, x), tirx.const(bool(attributes.get("detect_negative", 1)), "bool"))
    return tirx.And(tirx.abs(x) == _like(float("inf"), x), tirx.Or(positive, negative))


def _is_nan(x: Expr) -> Expr:
    """By bits: TVM takes `x == x` to be true."""
    if element(x) == "float64":
        bits = tirx.bitwise_and(tirx.reinterpret("int64", x), tirx.const(2**63 - 1, "int64"))
        return bits > tirx.const(0x7FF << 52, "int64")
    return tirx.bitwise_and(tirx.reinterpret("int32", x), tirx.const(2**31 - 1, "int32")) > tirx.const(
        255 << 23, "int32"
    )


def _round_float(attributes: Attributes, dtype: str, args: Sequence[Expr]) -> Expr:
    """A float32 that a smaller float holds."""
    kind = attributes["type"]
    code = small_floats.encode(kind, bind(_cast({}, "float32", args)), attributes["saturate"])
    return small_floats.decode(kind, bind(code))


def _wrap_integer(attributes: Attributes, dtype: str, args: Sequence[Expr]) -> Expr:
    """The low bits of an integer, as a signed or unsigned one of that width."""
    wide = _cast({}, "int32", args)
    free = tirx.const(32 - attributes["bits"], "int32")
    if dtype.startswith("uint"):
        return T.Cast(dtype, tirx.bitwise_and(wide, tirx.const((1 << attributes["bits"]) - 1, "int32")))
    return T.Cast(dtype, tirx.shift_right(tirx.shift_left(wide, free), free))


def _divide(attributes: Attributes, dtype: str, args: Sequence[Expr]) -> Expr:
    return args[0] / args[1] if dtype.startswith("float") else tirx.truncdiv(args[0], args[1])


def _mod(attributes: Attributes, dtype: str, args: Sequence[Expr]) -> Expr:
    a, b = args
    if dtype.startswith("float"):
        rest = bind(tirx.Select(tirx.abs(b) == _like(float("inf"), b), a, a - tirx.trunc(a / b) * b))
    else:
        rest = bind(tirx.truncmod(a, b))
    if attributes.get("fmod", 0) or dtype.startswith("uint"):
        return rest
    # The remainder of a division that rounds down has the divisor's sign.
    wrong = tirx.And(rest != _like(0, rest), _xor(rest < _like(0, rest), b < _like(0, b)))
    return tirx.Select(wrong, rest + b, rest)


def _power(attributes: Attributes, dtype: str, args: Sequence[Expr]) -> Expr:
    """e^(b log |a|); of a negative number an odd power is negative, and one that is not whole is NaN."""
    if not dtype.startswith("float"):
        return T.Cast(dtype, T.nearbyint(_power(attributes, "float64", [T.Cast("float64", args[0]), args[1]])))
    a, b = args[0], _cast({}, dtype, [args[1]])
    # Each part in a variable: TVM's passes take exponential time over nested ones.
    logarithm = bind(math.log(bind(tirx.abs(a))))
    magnitude = bind(math.exp(bind(b * logarithm)))
    half = b * _like(0.5, b)
    odd = tirx.floor(half) != half
    whole = tirx.Select(odd, _negate(magnitude), magnitude)
    of_negative = tirx.Select(tirx.floor(b) != b, _like(float("nan"), a), whole)
    value = tirx.Select(a < _like(0, a), of_negative, magnitude)
    return tirx.Select(b != _like(0, b), value, _like(1, b))


def _where(attributes: Attributes, dtype: str, args: Sequence[Expr]) -> Expr:
    return tirx.Select(args[0], args[1], args[2])


def _prelu(a: Expr, slope: Expr) -> Expr:
    return tirx.Select(a < _like(0, a), a * slope, a)


def _mean(attributes: Attributes, dtype: str, args: Sequence[Expr]) -> Expr:
    total = args[0]
    for other in args[1:]:
        total = total + other
    return total * _like(1 / len(args), total)


def _xor(a: Expr, b: Expr) -> Expr:
    return tirx.Or(tirx.And(a, tirx.Not(b)), tirx.And(tirx.Not(a), b))


# Those that work on vectors of float32 and int32; the others are computed one element at a time.
_VECTOR: dict[str, Operator] = {
    "Abs": _unary(tirx.abs),
    "Add": _binary(lambda a, b: a + b),
    "Ceil": _unary(tirx.ceil),
    "Celu": _celu,
    "Clip": _clip,
    "Cos": _unary(math.cos),
    "Div": _divide,
    "Elu": _elu,
    "Erf": _unary(math.erf),
    "Exp": _unary(math.exp),
    "Floor": _unary(tirx.floor),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(hard_swish),
    "Identity": _unary(lambda x: x),
    "LeakyRelu": _leaky_relu,
    "Log": _unary(math.log),
    "Max": _binary(tirx.max),
    "Mean": _mean,
    "Min": _binary(tirx.min),
    "Mish": _unary(_mish),
    "Mul": _binary(lambda a, b: a * b),
    "Neg": _unary(_negate),
    "PRelu": _binary(_prelu),
    "Reciprocal": _unary(lambda x: _like(1, x) / x),
    "Relu": _unary(_relu),
    "Round": _unary(tirx.nearbyint),
    "Selu": _selu,
    "Sigmoid": _unary(math.sigmoid),
    "Sign": _unary(_sign),
    "Sin": _unary(math.sin),
    "Softplus": _unary(_softplus),
    "Softsign": _unary(lambda x: x / (_like(1, x) + tirx.abs(x))),
    "Sqrt": _unary(tirx.sqrt),
    "Sub": _binary(lambda a, b: a - b),
    "Swish": _swish,
    "Tanh": _unary(math.tanh),
    "ThresholdedRelu": _thresholded_relu,
}

OPERATORS: dict[str, Operator] = {
    **_VECTOR,
    "DecodeFloat": lambda attributes, dtype, args: small_floats.decode(attributes["type"], args[0]),
    "EncodeFloat": lambda attributes, dtype, args: small_floats.encode(
        attributes["type"], _cast({}, "float32", args), attributes["saturate"]
    ),
    "RoundFloat": _round_float,
    "WrapInteger": _wrap_integer,
    "Acos": _unary(trigonometry.acos),
    "Acosh": _unary(trigonometry.acosh),
    "Asin": _unary(trigonometry.asin),
    "Asinh": _unary(trigonometry.asinh),
    "Atan": _unary(trigonometry.atan),
    "Atanh": _unary(trigonometry.atanh),
    "BitCast": lambda attributes, dtype, args: _bit_cast(dtype, args[0]),
    "BitShift": _shift,
    "BitwiseAnd": _binary(tirx.bitwise_and),
    "BitwiseNot": _unary(tirx.bitwise_not),
    "BitwiseOr": _binary(tirx.bitwise_or),
    "BitwiseXor": _binary(tirx.bitwise_xor),
    "Cosh": _unary(trigonometry.cosh),
    "IsInf": _is_infinite,
    "IsNaN": _unary(_is_nan),
    "Sinh": _unary(trigonometry.sinh),
    "Tan": _unary(lambda x: math.sin(x) / math.cos(x)),
    "And": _binary(tirx.And),
    "Cast": _cast,
    "Equal": _binary(lambda a, b: tirx.EQ(a, b)),
    "Greater": _binary(lambda a, b: a > b),
    "GreaterOrEqual": _binary(lambda a, b: a >= b),
    "Less": _binary(lambda a, b: a < b),
    "LessOrEqual": _binary(lambda a, b: a <= b),
    "Mod": _mod,
    "Not": _unary(tirx.Not),
    "Or": _binary(tirx.Or),
    "Pow": _power,
    "Where": _where,
    "Xor": _binary(_xor),
}

VECTOR_OPERATORS = frozenset(_VECTOR)

# Made of an exponential, a logarithm or a series.
SMOOTH_OPERATORS = frozenset(
    "Acos Acosh Asin Asinh Atan Atanh Celu Cos Cosh Elu Erf Exp Gelu Log Mish Pow Selu Sigmoid Sin Sinh Softplus Swish "
    "Tan Tanh".split()
)

# Fits for float32, bit for bit or in their number of terms.
FLOAT32_ONLY = frozenset("Acos Acosh Asin Asinh Atan Atanh Cos Cosh Erf Gelu Sin Sinh Tan Tanh".split())
