"""Merging the planes of codes at load (docs/bundle-format.md, weight segments)."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.kernels.builder import Expr, KernelBuilder, PrimFunc, bind, load, store


def _mask(value: int) -> Expr:
    return T.Broadcast(T.uint8(value), 16)


def _shift(amount: int) -> Expr:
    return T.Broadcast(T.uint8(amount), 16)


def merge_bits2() -> PrimFunc:
    """Parameters: target, source, length (source bytes, a multiple of 16)."""

    def codes(packed: Expr, part: int) -> Expr:
        bits = bind(T.shift_right(packed, _shift(4 * part)))
        low = T.shift_left(T.bitwise_and(bits, _mask(3)), _shift(2))
        high = T.shift_left(T.bitwise_and(bits, _mask(12)), _shift(4))
        return T.bitwise_or(low, high)

    return _merge(2, codes, shifted=False)


def merge_bit1() -> PrimFunc:
    """Parameters: target, source, length (source bytes, a multiple of 16), shift (0 or 1)."""

    def codes(packed: Expr, part: int) -> Expr:
        bits = bind(T.shift_right(packed, _shift(2 * part)))
        low = T.bitwise_and(bits, _mask(1))
        high = T.shift_left(T.bitwise_and(bits, _mask(2)), _shift(3))
        return T.bitwise_or(low, high)

    return _merge(4, codes, shifted=True)


def merge_byte1() -> PrimFunc:
    """Parameters: target, source, length (source bytes, a multiple of 16), shift (0 to 7)."""
    return _merge(8, lambda packed, part: T.bitwise_and(T.shift_right(packed, _shift(part)), _mask(1)), shifted=True)


def _merge(parts: int, codes: Callable[[Expr, int], Expr], *, shifted: bool) -> PrimFunc:
    """ORs `codes(source vector, part)` into the `parts` target vectors of each source vector."""
    with KernelBuilder() as k:
        target = k.buffer("target", "uint8")
        source = k.buffer("source", "uint8")
        length = k.scalar("length")
        amount = T.Broadcast(T.Cast("uint8", k.scalar("shift")), 16) if shifted else None
        with T.serial(0, tirx.truncdiv(length, 16)) as i:
            packed = bind(load(source, i * 16, 16))
            for part in range(parts):
                value = codes(packed, part)
                value = value if amount is None else T.shift_left(value, amount)
                at = i * (16 * parts) + 16 * part
                store(target, at, T.bitwise_or(load(target, at, 16), value), 16)
    return k.func
