"""Low-rank adapters of linears: `y += scale * up @ (down @ x)`, in float32.

Both matrices are float16 in blocks of 8 rows, `[ceil(rows / 8), columns, 8]`; a rank is a multiple of 8 and known only
when an adapter is there. Columns are added in order, so the result of a row depends neither on the tile nor on the
number of threads. A float16 becomes a float32 exactly: its bits, shifted, are the value times 2^-112.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.ir.compressed import GROUP, ROWS
from edgec.lower.wasm.kernels import math
from edgec.lower.wasm.kernels.activations import ACTIVATIONS
from edgec.lower.wasm.kernels.builder import Buffer, Expr, KernelBuilder, PrimFunc, Registers, bind, load, splat, store
from edgec.lower.wasm.kernels.quantize import (
    ROW_TILE,
    SCALE_FACTOR,
    QuantizedBuffers,
    feature_at,
    groups_of,
    reordered,
    spans_of,
)
from edgec.lower.wasm.target import Isa


@dataclass(frozen=True)
class Outputs:
    """Where the outputs of a linear lie in a row of memory: blocks of 8, `step` floats from one to the next."""

    rows: int
    start: int = 0
    step: int = ROWS


def dequantize(isa: Isa, *, columns: int, span: int) -> PrimFunc:
    """Activations as floats again. Parameters: quantized buffers, output (whole groups of floats per row), m."""
    groups, spans = groups_of(columns), spans_of(columns, span)
    with KernelBuilder() as k:
        source = QuantizedBuffers.declare(k, isa.activation_dtype)
        output = k.buffer("output", "float32")
        m = k.scalar("m")
        with T.parallel(0, m) as row:
            lane = bind(tirx.truncmod(row, ROW_TILE))
            tile = bind(tirx.truncdiv(row, ROW_TILE))
            first = bind(row * (groups * GROUP))
            with T.serial(0, groups) as group:
                at = bind(tile * groups + group)
                start = bind(first + group * GROUP)
                place_of_scale = (tile * spans + tirx.truncdiv(group, span)) * ROW_TILE + lane
                step = bind(source.scales[place_of_scale] * T.float32(1 / SCALE_FACTOR))
                for i in range(0, GROUP, 4):
                    element = (i % 16 // 4 * 2 + i // 16) * ROW_TILE
                    codes = reordered(T.Cast("int32x4", load(source.codes, (at * GROUP + element + lane) * 4)), isa)
                    store(output, start + i, T.Cast("float32x4", codes) * splat(step, "float32x4"))
            count, values, places = source.outliers_of(row, groups)
            with T.serial(0, count) as number:
                value = values[number] * T.float32(1 / SCALE_FACTOR)
                store(output, first + feature_at(bind(places[number])), value, 1)
    return k.func


def adapter_down(*, columns: int, stride: int, parts: int) -> PrimFunc:
    """`scale * (down @ x)` of the adapters of `parts` linears with one input.

    Parameters: input (`stride` floats a row), each linear's `down` and scales (float32 [rank]), output
    (float32 [m, parts, rank]), m, rank.
    """
    with KernelBuilder() as k:
        source = k.buffer("input", "float32")
        weights = [(k.buffer(f"down_{part}", "int16"), k.buffer(f"scales_{part}", "float32")) for part in range(parts)]
        output = k.buffer("output", "float32")
        m, rank = k.scalar("m"), k.scalar("rank")
        with math.computed_constants(m):
            for part, (down, scales) in enumerate(weights):

                def emit(
                    block: Expr, row: Expr, tile: int, part: int = part, down: Buffer = down, by: Buffer = scales
                ) -> None:
                    sums = _dots(down, block, columns, lambda r, i: source[(row + r) * stride + i], tile)
                    for r in range(tile):
                        at = bind(((row + r) * parts + part) * rank + block * ROWS)
                        for half in range(2):
                            scaled = sums[2 * r + half] * load(by, block * ROWS + 4 * half)
                            store(output, at + 4 * half, scaled)

                _for_each_tile(T.shift_right(rank, T.int32(3)), m, emit)
    return k.func


def adapter_up(*, outputs: Sequence[Outputs], stride: int) -> PrimFunc:
    """Adds `up @ t` to the outputs of linears, `t` as `adapter_down` leaves it.

    Parameters: t, each linear's `up`, output (`stride` floats a row), m, rank.
    """
    with KernelBuilder() as k:
        source = k.buffer("input", "float32")
        weights = [k.buffer(f"up_{part}", "int16") for part in range(len(outputs))]
        output = k.buffer("output", "float32")
        m, rank = k.scalar("m"), k.scalar("rank")
        with math.computed_constants(m):
            for part, (up, place) in enumerate(zip(weights, outputs, strict=True)):

                def emit(
                    block: Expr, row: Expr, tile: int, part: int = part, up: Buffer = up, place: Outputs = place
                ) -> None:
                    starts = [bind(((row + r) * len(outputs) + part) * rank) for r in range(tile)]
                    sums = _dots(up, block, rank, lambda r, i: source[starts[r] + i], tile)
                    for r in range(tile):
                        at = bind((row + r) * stride + place.start + block * place.step)
                        for half in range(2):
                            store(output, at + 4 * half, load(output, at + 4 * half) + sums[2 * r + half])

                _for_each_tile(T.int32(-(-place.rows // ROWS)), m, emit)
    return k.func


def activate(*, activation: str | None, gated: bool, outputs: int, stride: int) -> PrimFunc:
    """What a linear's epilogue does with its sums, where an adapter stands between.

    Parameters: input (blocks of 8, of gate and up in turns when `gated`), output (`stride` floats a row), m.
    """
    blocks = -(-outputs // ROWS)
    with KernelBuilder() as k:
        source, output = k.buffer("input", "float32"), k.buffer("output", "float32")
        m = k.scalar("m")
        with math.computed_constants(m), T.parallel(0, blocks) as block, T.serial(0, m) as row:
            for half in range(2):
                at = bind((row * blocks + block) * (2 * ROWS if gated else ROWS) + 4 * half)
                value = load(source, at)
                if activation is not None:
                    value = ACTIVATIONS[activation](bind(value))
                if gated:
                    value = value * load(source, at + ROWS)
                store(output, row * stride + block * ROWS + 4 * half, value)
    return k.func


def _dots(weights: Buffer, block: Expr, columns: int | Expr, read: Callable[[int, Expr], Expr], tile: int) -> Registers:
    """Sums of 8 rows of weights with `tile` rows of floats: register 2 * r + half."""
    sums = Registers(tile * 2, "float32x4")
    sums.fill(tile * 2, 0.0)
    with T.serial(0, columns) as i:
        start = bind((block * columns + i) * ROWS)
        halves = [bind(_floats(load(weights, start + 4 * half))) for half in range(2)]
        for r in range(tile):
            value = bind(splat(read(r, i), "float32x4"))
            for half in range(2):
                sums[2 * r + half] = sums[2 * r + half] + value * halves[half]
    return sums


def _floats(bits: Expr) -> Expr:
    """float16 (`int16x4`) as float32, exactly; there are no infinities among them."""
    wide = T.Cast("int32x4", bits)  # the sign fills the upper half, of which one bit is wanted
    shifted = T.shift_left(wide, T.Broadcast(T.int32(13), 4)) & math.constant(-0x70000001, wide)
    value = T.reinterpret("float32x4", shifted)
    return value * math.constant(2.0**112, value)


def _for_each_tile(blocks: Expr, m: Expr, emit: Callable[[Expr, Expr, int], None]) -> None:
    """`emit(block, first row, rows)`: threads share the tiles of many rows, and the blocks of few."""
    whole, rest = tirx.truncdiv(m, ROW_TILE), tirx.truncmod(m, ROW_TILE)
    with T.parallel(0, whole) as tile, T.serial(0, blocks) as block:
        emit(block, bind(tile * ROW_TILE), ROW_TILE)
    with T.parallel(0, blocks) as block, T.serial(0, rest) as r:
        emit(block, bind(m - 1 - r), 1)


__all__ = ["Outputs", "activate", "adapter_down", "adapter_up", "dequantize"]
