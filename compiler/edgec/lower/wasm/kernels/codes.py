"""How the codes of weights lie in memory, and how kernels read them.

One group is 8 rows by 32 features in the tile order of `edgec/ir/compressed.py`. A kernel multiplies
vectors of bytes, 4 rows by 4 features each: at `t`, `part` and `half` those of the rows `4 * half` ... and the
features `16 * part + 4 * t` ... Codes are unsigned. A relaxed dot product takes 7 bits, so 8-bit codes are cut in two
halves, whose products are added.

The groups of blocks 2 i and 2 i + 1 take turns, in codes, scales and zero points alike; a last block without a partner
lies by itself. A single row of activations takes two blocks at a time, and so reads their codes as one stream
(docs/decisions/0022), and four such streams in turns (docs/decisions/0032).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.ir.compressed import GROUP, ROWS
from edgec.lower.wasm.kernels import math
from edgec.lower.wasm.kernels.builder import Buffer, Expr, bind, load, splat, window


def in_turns(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`[blocks, groups, ...]` of a packed tensor in the order of memory, one group after the other."""
    blocks, groups, *rest = array.shape
    whole = blocks // 2 * 2
    pairs = array[:whole].reshape(-1, 2, groups, *rest).swapaxes(1, 2).reshape(-1, *rest)
    return np.concatenate([pairs, array[whole:].reshape(-1, *rest)])


def place_of_group(blocks: int | Expr | None, groups: int | Expr, block: Expr) -> Callable[[Expr], Expr]:
    """`group -> place` in the order of `in_turns`. `blocks` is their number, None if it is an even one."""
    odd = bind(tirx.truncmod(block, 2))
    start = bind((block - odd) * groups + odd)
    if blocks is None or (isinstance(blocks, int) and blocks % 2 == 0):
        return lambda group: start + group * 2
    partners = bind(tirx.Select(block - odd + 1 < blocks, T.int32(2), T.int32(1)))
    return lambda group: start + group * partners


@dataclass(frozen=True)
class CodeFormat:
    """`bits` is 4 (two codes to a byte), 7 or 8 (a byte each)."""

    bits: int

    @property
    def words(self) -> int:
        """int32 elements of a group."""
        return GROUP * ROWS * (1 if self.bits == 4 else 2) // 8

    @property
    def unit(self) -> float:
        """What a code of 1 means, in steps of the scale; a power of two."""
        return {4: 1.0, 7: 1 / 8, 8: 1 / 16}[self.bits]

    def scaled(self, scale: Expr) -> Expr:
        """`float32x4` scales, for codes in place of steps."""
        return scale if self.unit == 1 else scale * T.Broadcast(T.float32(self.unit), 4)

    def zero(self, zeros: Expr) -> Expr:
        """`uint8x4` zero points as codes times 16."""
        value = T.Cast("float32x4", T.Cast("int32x4", zeros))
        return value if self.unit == 1 else value * T.Broadcast(T.float32(1 / self.unit), 4)

    @property
    def step_words(self) -> int:
        """int32 elements of a `t`."""
        return self.words // 4

    def vectors(self, codes: Buffer, t: int) -> Callable[[int], list[Expr]]:
        """`part -> [half 0, half 1]`, each an `int32x4` of 16 codes. `codes` is a window at the group."""
        start = t * self.step_words
        if self.bits == 4:
            packed = [bind(load(codes, start + 4 * half)) for half in range(2)]
            return lambda part: [_nibbles(vector, part) for vector in packed]
        return lambda part: [load(codes, start + 8 * part + 4 * half) for half in range(2)]

    def pairs(self, codes: Buffer, t: int) -> Callable[[int], list[tuple[Expr, Expr]]]:
        """As `vectors`, but halfwords (`int16x8`): the even codes and the odd ones of each four."""
        start = t * self.step_words
        if self.bits != 4:
            return lambda part: [_even_odd(load(codes, start + 8 * part + 4 * half)) for half in range(2)]
        packed = [bind(load(codes, start + 4 * half)) for half in range(2)]
        return lambda part: [_even_odd_nibbles(vector, part) for vector in packed]

    def floats(self, codes: Buffer, half: int) -> list[Expr]:
        """`float32x4`: codes of eight features, in the order of their places; `codes` is a window at the step."""
        if self.bits == 4:
            packed = bind(load(codes, 4 * half))
            return [T.Cast("float32x4", _bits(packed, 4 * i, 4)) for i in range(8)]
        parts = [bind(load(codes, 8 * part + 4 * half)) for part in range(2)]
        return [T.Cast("float32x4", _bits(parts[i % 2], 8 * (i // 2), 8)) for i in range(8)]

    def feature(self, place: Expr, value: Expr) -> Feature:
        """The feature at `place` (`quantize.place_of`), to be multiplied with a scalar `value`."""
        part = bind(T.bitwise_and(place, T.int32(1)))
        byte = T.bitwise_and(T.shift_right(place, T.int32(1)), T.int32(3))
        words = T.bitwise_and(place, T.int32(24))
        if self.bits != 4:
            start = bind((words * 2 + part * 8) * 4 + byte)
            return Feature(start, splat(0xFF, "int32x4"), bind(splat(value, "float32x4")))
        mask = T.shift_left(T.int32(15), T.shift_left(part, T.int32(2)))
        sixteenth = T.reinterpret("float32", T.reinterpret("int32", value) - T.shift_left(part, T.int32(25)))
        return Feature(bind(words * 4 + byte), bind(splat(mask, "int32x4")), bind(splat(sixteenth, "float32x4")))


@dataclass(frozen=True)
class Feature:
    """`codes * value` are the products of a feature; codes of part 1 are 16 times as large as they mean, where two
    share a byte."""

    start: Expr  # byte of the group
    mask: Expr
    value: Expr

    def codes(self, group: Buffer, half: int) -> Expr:
        """`float32x4`, of the rows `4 * half` ...; `group` is a window at the group. Reads up to 3 bytes more."""
        words = T.reinterpret("int32x4", load(window(group, 0, "uint8"), self.start + 16 * half, 16))
        return T.Cast("float32x4", T.bitwise_and(words, self.mask))


def _nibbles(packed: Expr, part: int) -> Expr:
    if part:
        packed = T.shift_right(packed, T.Broadcast(T.int32(4), 4))

    return packed & math.constant(0x0F0F0F0F, packed, "int32")


def _even_odd(vector: Expr) -> tuple[Expr, Expr]:
    even = vector & math.constant(0x00FF00FF, vector, "int32")
    return T.reinterpret("int16x8", even), T.reinterpret("int16x8", _shifted(vector, 8))


def _even_odd_nibbles(packed: Expr, part: int) -> tuple[Expr, Expr]:
    def low(halfwords: Expr) -> Expr:
        words = T.reinterpret("int32x4", halfwords)
        return T.reinterpret("int16x8", words & math.constant(0x000F000F, words, "int32"))

    if part:
        return low(_shifted(packed, 4)), T.reinterpret("int16x8", _shifted(packed, 12))
    return low(packed), low(_shifted(packed, 8))


def _shifted(vector: Expr, amount: int) -> Expr:
    """Halfwords of an `int32x4`, unsigned, shifted to the right."""
    return T.shift_right(T.reinterpret("uint16x8", vector), T.Broadcast(T.uint16(amount), 8))


def _bits(vector: Expr, start: int, count: int) -> Expr:
    """`int32x4`: bits of each lane from `start` on, unsigned."""
    unsigned = T.reinterpret("uint32x4", vector)
    if start + count < 32:
        unsigned = T.shift_left(unsigned, T.Broadcast(T.uint32(32 - start - count), 4))
    return T.reinterpret("int32x4", T.shift_right(unsigned, T.Broadcast(T.uint32(32 - count), 4)))
