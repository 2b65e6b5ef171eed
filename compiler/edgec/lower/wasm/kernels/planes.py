"""Merging the planes of codes at load (docs/bundle-format.md, weight segments)."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.kernels.builder import Expr, KernelBuilder, PrimFunc, bind, load, store


def _mask(value: int) -> Expr:
    return T.Broadcast(T.uint8(value), 16)


def _shift(amount: int) -> Expr:
    return T.Broadcast(T.uint8(amount), 16)


def merge_bits2() -> PrimFunc:
    """Parameters: target, source, length (source bytes, a multiple of 16)."""
    with KernelBuilder() as k:
        target = k.buffer("target", "uint8")
        source = k.buffer("source", "uint8")
        length = k.scalar("length")
        with T.serial(0, tirx.truncdiv(length, 16)) as i:
            packed = bind(load(source, i * 16, 16))
            for part in range(2):
                bits = bind(T.shift_right(packed, _shift(4 * part)))
                low = T.shift_left(T.bitwise_and(bits, _mask(3)), _shift(2))
                high = T.shift_left(T.bitwise_and(bits, _mask(12)), _shift(4))
                at = i * 32 + 16 * part
                store(target, at, T.bitwise_or(load(target, at, 16), T.bitwise_or(low, high)), 16)
    return k.func


def merge_bit1() -> PrimFunc:
    """Parameters: target, source, length (source bytes, a multiple of 16), shift (0 or 1)."""
    with KernelBuilder() as k:
        target = k.buffer("target", "uint8")
        source = k.buffer("source", "uint8")
        length = k.scalar("length")
        shift = k.scalar("shift")
        amount = T.Broadcast(T.Cast("uint8", shift), 16)
        with T.serial(0, tirx.truncdiv(length, 16)) as i:
            packed = bind(load(source, i * 16, 16))
            for part in range(4):
                bits = bind(T.shift_right(packed, _shift(2 * part)))
                low = T.bitwise_and(bits, _mask(1))
                high = T.shift_left(T.bitwise_and(bits, _mask(2)), _shift(3))
                nibbles = T.shift_left(T.bitwise_or(low, high), amount)
                at = i * 64 + 16 * part
                store(target, at, T.bitwise_or(load(target, at, 16), nibbles), 16)
    return k.func


def merge_byte1() -> PrimFunc:
    """Parameters: target, source, length (source bytes, a multiple of 16), shift (0 to 7)."""
    with KernelBuilder() as k:
        target = k.buffer("target", "uint8")
        source = k.buffer("source", "uint8")
        length = k.scalar("length")
        shift = k.scalar("shift")
        amount = T.Broadcast(T.Cast("uint8", shift), 16)
        with T.serial(0, tirx.truncdiv(length, 16)) as i:
            packed = bind(load(source, i * 16, 16))
            for part in range(8):
                bits = T.bitwise_and(T.shift_right(packed, _shift(part)), _mask(1))
                at = i * 128 + 16 * part
                store(target, at, T.bitwise_or(load(target, at, 16), T.shift_left(bits, amount)), 16)
    return k.func
