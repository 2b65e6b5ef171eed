"""16-bit floats as bits: float16 (IEEE 754 binary16) and bfloat16, to and from float32, rounded to nearest even.

The engines have no instruction for either and modules import no library, so these are shifts and adds. Source of the
float16 rounding: Giesen, "Float to half done quick", 2012 (adding a magic number lets the FPU round subnormals).
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

Expr = Any  # tvm's Python classes carry no types


def _int(value: int) -> Expr:
    return tirx.const(value, "int32")


def _bits(x: Expr) -> Expr:
    return tirx.reinterpret("int32", x)


def _float(bits: Expr) -> Expr:
    return tirx.reinterpret("float32", bits)


def decode(kind: str, bits: Expr) -> Expr:
    """float32 from a uint16 scalar; exact."""
    wide = tirx.Cast("int32", bits)
    if kind == "bfloat16":
        return _float(tirx.shift_left(wide, _int(16)))
    sign = tirx.shift_left(tirx.bitwise_and(wide, _int(0x8000)), _int(16))
    rest = tirx.shift_left(tirx.bitwise_and(wide, _int(0x7FFF)), _int(13))
    finite = _bits(_float(rest) * tirx.const(2.0**112, "float32"))
    special = tirx.bitwise_or(rest, _int(0x7F800000))
    magnitude = tirx.Select(rest >= _int(0x7C00 << 13), special, finite)
    return _float(tirx.bitwise_or(magnitude, sign))


def encode(kind: str, x: Expr) -> Expr:
    """uint16 from a float32 scalar."""
    bits = _bits(x)
    magnitude = tirx.bitwise_and(bits, _int(0x7FFFFFFF))
    sign = tirx.bitwise_and(tirx.shift_right(bits, _int(16)), _int(0x8000))
    if kind == "bfloat16":
        odd = tirx.bitwise_and(tirx.shift_right(magnitude, _int(16)), _int(1))
        rounded = tirx.shift_right(magnitude + _int(0x7FFF) + odd, _int(16))
        result = tirx.Select(magnitude > _int(0x7F800000), _int(0x7FC0), rounded)
        return tirx.Cast("uint16", tirx.bitwise_or(result, sign))
    odd = tirx.bitwise_and(tirx.shift_right(magnitude, _int(13)), _int(1))
    normal = tirx.shift_right(magnitude - _int(112 << 23) + _int(0xFFF) + odd, _int(13))
    subnormal = _bits(_float(magnitude) + tirx.const(0.5, "float32")) - _int(0x3F000000)
    special = tirx.Select(magnitude > _int(0x7F800000), _int(0x7E00), _int(0x7C00))
    small = tirx.Select(magnitude < _int(0x38800000), subnormal, normal)
    result = tirx.Select(magnitude >= _int(0x47800000), special, small)
    return tirx.Cast("uint16", tirx.bitwise_or(result, sign))
