"""Floats of 16, 8 and 4 bits to and from float32, rounded to nearest even.

The engines have no instruction for them and modules import no library, so these are shifts and adds. Formats: IEEE 754
binary16, bfloat16, the OCP 8-bit floating point specification (E4M3, E5M2), their "fnuz" variants (Noune et al.,
"8-bit Numerical Formats for Deep Neural Networks", 2022) and E2M1 of OCP MX.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

Expr = Any  # tvm's Python classes carry no types


@dataclass(frozen=True)
class Format:
    """`exponent` and `mantissa` in bits; codes are without the sign. A value above `largest` overflows."""

    exponent: int
    mantissa: int
    bias: int
    largest: float
    infinity: int | None
    nan: int | None
    nan_is_minus_zero: bool = False  # "fnuz": the only NaN is the code of -0

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.mantissa

    @property
    def sign(self) -> int:
        return 1 << (self.bits - 1)

    @property
    def memory(self) -> str:
        return "uint16" if self.bits == 16 else "uint8"


FORMATS = {
    "float16": Format(5, 10, 15, 65504.0, 0x7C00, 0x7E00),
    "bfloat16": Format(8, 7, 127, 3.3895313892515355e38, 0x7F80, 0x7FC0),
    "float8_e4m3fn": Format(4, 3, 7, 448.0, None, 0x7F),
    "float8_e4m3fnuz": Format(4, 3, 8, 240.0, None, 0x80, nan_is_minus_zero=True),
    "float8_e5m2": Format(5, 2, 15, 57344.0, 0x7C, 0x7E),
    "float8_e5m2fnuz": Format(5, 2, 16, 57344.0, None, 0x80, nan_is_minus_zero=True),
    "float4_e2m1fn": Format(2, 1, 1, 6.0, None, None),
}


def _int(value: int) -> Expr:
    return tirx.const(value, "int32")


def _number(value: float) -> Expr:
    return tirx.const(value, "float32")


def _bits(x: Expr) -> Expr:
    return tirx.reinterpret("int32", x)


def _float(bits: Expr) -> Expr:
    return tirx.reinterpret("float32", bits)


def decode(kind: str, code: Expr) -> Expr:
    """float32 from a scalar code; exact."""
    f = FORMATS[kind]
    wide = tirx.Cast("int32", code)
    sign = tirx.shift_left(tirx.bitwise_and(wide, _int(f.sign)), _int(32 - f.bits))
    rest = tirx.bitwise_and(wide, _int(f.sign - 1))
    shifted = tirx.shift_left(rest, _int(23 - f.mantissa))
    magnitude = _bits(_float(shifted) * _number(2.0 ** (127 - f.bias)))  # subnormals too
    if f.infinity is not None:
        magnitude = tirx.Select(rest >= _int(f.infinity), tirx.bitwise_or(shifted, _int(0x7F800000)), magnitude)
    elif f.nan_is_minus_zero:
        return _float(tirx.Select(tirx.EQ(wide, _int(f.sign)), _int(0x7FC00000), tirx.bitwise_or(magnitude, sign)))
    elif f.nan is not None:
        magnitude = tirx.Select(rest >= _int(f.nan), _int(0x7FC00000), magnitude)
    return _float(tirx.bitwise_or(magnitude, sign))


def encode(kind: str, x: Expr, saturate: bool = False) -> Expr:
    """The code (of the format's `memory` type) of a float32 scalar. What is too large becomes infinite, else NaN,
    or with `saturate` the largest number."""
    f = FORMATS[kind]
    bits = _bits(x)
    magnitude = tirx.bitwise_and(bits, _int(0x7FFFFFFF))
    # Round to a multiple of the step between neighbours.
    exponent = tirx.max(tirx.shift_right(magnitude, _int(23)), _int(128 - f.bias))
    exponent = tirx.min(exponent, _int(254))
    if f.bias == 127:  # as wide as float32: the step may be too small for one
        odd = tirx.bitwise_and(tirx.shift_right(magnitude, _int(23 - f.mantissa)), _int(1))
        half = _int((1 << (22 - f.mantissa)) - 1)
        code = tirx.shift_right(magnitude + half + odd, _int(23 - f.mantissa))
        overflow = code >= _int(f.infinity or 0)
    else:
        step = _float(tirx.shift_left(exponent - _int(f.mantissa), _int(23)))
        rounded = tirx.nearbyint(_float(magnitude) / step) * step
        normal = tirx.shift_right(_bits(rounded), _int(23 - f.mantissa)) - _int((127 - f.bias) << f.mantissa)
        subnormal = tirx.Cast("int32", tirx.min(rounded, _number(1.0)) * _number(2.0 ** (f.bias - 1 + f.mantissa)))
        code = tirx.Select(rounded >= _number(2.0 ** (1 - f.bias)), normal, subnormal)
        overflow = rounded > _number(f.largest)
    too_large = f.infinity if f.infinity is not None else f.nan
    if saturate or too_large is None:
        too_large = _largest_code(f)
    code = tirx.Select(overflow, _int(too_large), code)
    nan = f.nan if f.nan is not None else f.sign  # minus zero where there is none
    code = tirx.Select(magnitude > _int(0x7F800000), _int(nan), code)
    sign = tirx.Select(bits < _int(0), _int(f.sign), _int(0))
    if f.nan_is_minus_zero:
        sign = tirx.Select(tirx.EQ(code, _int(0)), _int(0), sign)
    return tirx.Cast(f.memory, tirx.bitwise_or(code, sign))


def _largest_code(f: Format) -> int:
    if f.infinity is not None:
        return f.infinity - 1
    return f.nan - 1 if f.nan is not None and not f.nan_is_minus_zero else f.sign - 1
