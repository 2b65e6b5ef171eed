"""Products of codes of 16 bits, two of them to an int32: exact, the same instructions on every processor.

`i32x4.dot_i16x8_s` multiplies a pair by a pair in each of four lanes. That is half of the instructions that float32
takes, and 12 bits or more are as good as float32 beside activations of 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.instructions import in_order
from edgec.lower.wasm.kernels import math
from edgec.lower.wasm.kernels.builder import (
    Buffer,
    Expr,
    Floats,
    Registers,
    bind,
    largest_lane,
    load,
    splat,
    wide,
    window,
)
from edgec.lower.wasm.kernels.dot import signed_dot

ROWS_TOGETHER = 4
SIDE = 8  # columns side by side
VECTORS = 2 * ROWS_TOGETHER  # of the sums of a block of 8 columns: `2 * row + half`
STRAIGHT = 4  # pairs at most without a loop; with more, code grows and takes as long
BLOCKS = 8  # whose sums wait for their activation, the constants of which would take the registers of sums


def straight_products(
    rows: Sequence[Buffer], columns: Buffer, pairs: int, turns: int | Expr = 1, stride: int = 2 * SIDE
) -> Registers:
    """Register `2 * row + half`: rows by 8 columns, which lie side by side. `turns` times `pairs` pairs, which are code
    without a loop whose order engines see as it is stated here. `columns` are int16, `stride` from a pair to the next.
    """

    def read(turn: Expr | None) -> _Read:
        here = rows if turn is None else [window(row, turn * pairs) for row in rows]
        return lambda row, pair: T.Broadcast(here[row][pair], 4)

    return _in_order(read, len(rows), columns, pairs, turns, stride)


def repeated_products(
    rows: Registers,
    starts: Sequence[Expr],
    columns: Buffer,
    pairs: int,
    turns: int | Expr = 1,
    *,
    stride: int = 2 * SIDE,
    meanwhile: Callable[[int], None] | None = None,
) -> Registers:
    """As `straight_products`; `rows` are pairs in all lanes. `meanwhile(pair)` precedes the pairs of the first turn."""

    def read(turn: Expr | None) -> _Read:
        here = starts if turn is None else [bind(start + turn * pairs) for start in starts]
        return lambda row, pair: rows[here[row] + pair]

    return _in_order(read, len(starts), columns, pairs, turns, stride, meanwhile)


_Read = Callable[[int, int], Expr]  # row and pair of a turn -> its codes in all lanes, `int32x4`


def _in_order(
    read: Callable[[Expr | None], _Read],
    rows: int,
    columns: Buffer,
    pairs: int,
    turns: int | Expr,
    stride: int,
    meanwhile: Callable[[int], None] | None = None,
) -> Registers:
    """What both ways have in common; `read` gets the number of the turn, None for the first one."""
    sums = Registers(2 * rows, "int32x4")

    def add(turn: Expr | None) -> None:
        codes = read(turn)
        here = columns if turn is None else window(columns, turn * (pairs * stride))
        for pair in range(pairs):
            if turn is None and meanwhile is not None:
                meanwhile(pair)
            halves = [bind(load(here, pair * stride + 8 * half, 8)) for half in range(2)]
            for i in range(rows):
                row = bind(T.reinterpret("int16x8", codes(i, pair)))
                for half in range(2):
                    at, product = 2 * i + half, signed_dot(row, halves[half])
                    first = turn is None and pair == 0
                    sums[at] = product if first else in_order("i32x4.add", sums[at], product)

    add(None)
    if not isinstance(turns, int) or turns > 1:
        with T.serial(1, turns) as turn:
            add(turn)
    return sums


def in_turns(pairs: int, most: int = STRAIGHT) -> tuple[int, int]:
    """`pairs` of `straight_products`, `most` at most, and how many turns."""
    straight = max(size for size in range(1, most + 1) if pairs % size == 0)
    return straight, pairs // straight


def quantize_pairs(
    source: Buffer, width: int | Expr, levels: int | Expr, put: Callable[[Expr, Expr], None], exists: Expr | None = None
) -> Expr:
    """`put(pair, codes)` of four pairs of the features of a row at a time, zeros behind the last; returns their scale.

    The largest code is `levels`. Where nothing `exists` there are zeros.
    """
    peak = Registers(1, "float32x4")
    peak.fill(1, 0.0)
    eights = width // 8 if isinstance(width, int) else bind(tirx.truncdiv(width, 8))
    rest = width - eights * 8
    with T.serial(0, eights * 2) as i:
        peak[0] = tirx.max(peak[0], tirx.abs(load(source, i * 4)))
    last = None
    if not isinstance(rest, int) or rest:
        last = Floats(8)
        for half in range(2):
            last.set_vector(4 * half, splat(0.0, "float32x4"))
        with T.serial(0, rest) as i:
            last[i] = source[eights * 8 + i]
        for half in range(2):
            peak[0] = tirx.max(peak[0], tirx.abs(last.vector(4 * half)))
    largest = largest_lane(peak[0])
    if exists is not None:
        largest = bind(tirx.Select(exists, largest, T.float32(0.0)))
    inverse, step = factors(largest, levels)

    def codes(read: Callable[[int], Expr]) -> Expr:
        return narrowed(*(math.nearest_integer(read(4 * half) * splat(inverse, "float32x4")) for half in range(2)))

    with T.serial(0, eights) as eight:
        put(eight * 4, codes(lambda i: load(source, eight * 8 + i)))
    if last is not None:
        with T.If(rest > T.int32(0)), T.Then():
            put(eights * 4, codes(last.vector))
    return step


def factors(largest: Expr, levels: int | Expr) -> tuple[Expr, Expr]:
    """Codes per unit, and units per code; of one row, or of four in a vector."""
    most = wide(T.float32(levels) if isinstance(levels, int) else levels, math.lanes(largest))
    nothing = math.constant(0.0, largest)
    tiny = largest < math.constant(1e-30, largest)
    tiny = tiny if math.lanes(largest) > 1 else bind(tiny)
    inverse = bind(tirx.Select(tiny, nothing, most / largest))
    return inverse, bind(tirx.Select(tiny, nothing, largest / most))


def narrowed(low: Expr, high: Expr) -> Expr:
    """Two `int32x4` of 16 bits each -> `int32x4` of pairs."""
    narrow = T.call_llvm_pure_intrin("int16x8", "llvm.wasm.narrow.signed.v8i16.v4i32", low, high)
    return T.reinterpret("int32x4", narrow)
