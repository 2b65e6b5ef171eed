"""Quantized linear layers: `y[m, n] = epilogue(sum_k a[m, k] * w[n, k])`, W4A8 to W8A8.

Weights are in tile order with blocks in turns (`codes.py`), activations from `quantize.py`. Per group of
32 features the dot product of codes is exact,

    d = sum(a * q) - zero / (16 * unit) * sum(a)
    y += (d * (scale * unit)) * activation_scale

and then, for each outlier of the group, `y += q * scale * outlier`; sum(a) counts outliers too. Groups
are added in order, so one row's result depends neither on the tile nor on the ISA.
float16 scales are used without conversion: their bits, shifted into a float32, are the value times
2^-112, and the quantizer folds 2^112 into the activation's scale. Powers of two are exact.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.ir.compressed import GROUP, ROWS
from edgec.lower.wasm.kernels.builder import (
    Buffer,
    Expr,
    KernelBuilder,
    PrimFunc,
    Registers,
    bind,
    load,
    splat,
    window,
)
from edgec.lower.wasm.kernels.codes import CodeFormat, place_of_group
from edgec.lower.wasm.kernels.dot import DotAccumulators, activation_element, lane
from edgec.lower.wasm.kernels.epilogue import PLAIN, Epilogue, Finish, for_each_tile, padded
from edgec.lower.wasm.kernels.experts import Pairs, for_each_pair
from edgec.lower.wasm.kernels.quantize import OUTLIERS, ROW_TILE, QuantizedBuffers
from edgec.lower.wasm.target import Isa


def linear(
    isa: Isa,
    *,
    bits: int,
    rows: int | None = None,
    columns: int | None = None,
    epilogue: Epilogue = PLAIN,
    output_stride: int | None = None,
    outliers: bool = True,
    pairs: Pairs | None = None,
) -> PrimFunc:
    """Parameters: quantized activations (5 buffers, 3 without `outliers`), codes, scales, zeros, [bias], [residual],
    output, m.

    `bits` is 4, 7 or 8.

    `rows` counts weight rows, gate and up together when gated. Outputs (and the residual) have
    `output_stride` floats per row, by default the output rows rounded up to 8; with a smaller one
    the last block is written lane by lane.

    Without `rows` and `columns` one kernel serves all shapes (a network of many shapes compiles
    faster): after m it takes `outputs`, which is also the output stride, and `groups`.

    With `pairs`, `rows` are one expert's, m counts pairs and the parameter before output is the chosen experts;
    the blocks of all experts together are an even number.
    """
    groups: int | Expr
    outputs: int | Expr
    stride: int | Expr
    form = CodeFormat(bits)
    with KernelBuilder() as k:
        activations = QuantizedBuffers.declare(k, activation_element(isa), outliers=outliers)
        codes = k.buffer("weight_codes", "int32")
        scales = k.buffer("scales", "uint16")
        zeros = k.buffer("zeros", "uint8")
        bias = k.buffer("bias", "float32") if epilogue.bias else None
        residual = k.buffer("residual", "float32") if epilogue.residual else None
        chosen = k.buffer("chosen", "int32") if pairs is not None else None
        output = k.buffer("output", "float32")
        m = k.scalar("m")
        if rows is None or columns is None:
            assert not epilogue.gated
            outputs, groups = k.scalar("outputs"), k.scalar("groups")
            stride = outputs
        else:
            groups = -(-columns // GROUP)
            outputs = rows // 2 if epilogue.gated else rows
            stride = padded(outputs) if output_stride is None else output_stride
        blocks = tirx.truncdiv(outputs + (ROWS - 1), ROWS) if rows is None else -(-outputs // ROWS)
        weight_blocks = None if epilogue.gated or pairs is not None else blocks
        finish = Finish(epilogue, bias, residual, output, outputs, stride)

        def dot_blocks(blocks: Sequence[Expr], row: Expr, tile: int) -> list[Registers]:
            """For each block, 8 weight rows x `tile` activation rows; register 2 * r + half."""
            sums = [Registers(tile * 2, "float32x4") for _ in blocks]
            dots = [DotAccumulators(isa, bits, tile * 2) for _ in blocks]
            places = [place_of_group(weight_blocks, groups, block) for block in blocks]
            for some in sums:
                some.fill(tile * 2, 0.0)
            with T.serial(0, groups) as group:
                at = [bind(place(group)) for place in places]
                weights = [window(codes, place * form.words) for place in at]
                here = activations.window(row, group, groups)
                code_sums, factors = (_Repeated(buffer, tile) for buffer in (here.sums, here.scales))
                # Registers hold the integer sums of two blocks of one row, or of one block of four.
                together = len(at) if tile == 1 else 1
                for start in range(0, len(at), together):
                    taken = range(start, start + together)
                    _accumulate_codes([dots[b] for b in taken], form, [weights[b] for b in taken], here.codes, tile)
                    for b in taken:
                        first = at[b] * ROWS
                        scale = [bind(form.scaled(_scale(scales, first + 4 * half))) for half in range(2)]
                        zero = [bind(form.zero(load(zeros, first + 4 * half))) for half in range(2)]
                        for r in range(tile):
                            for half in range(2):
                                i = 2 * r + half
                                exact = T.Cast("float32x4", dots[b].result(i)) - zero[half] * code_sums(r)
                                sums[b][i] = sums[b][i] + exact * scale[half] * factors(r)
                        _add_outliers(sums[b], here, tile, form, weights[b], scale)
            return sums

        if pairs is not None:
            for_each_pair(blocks, m, finish, dot_blocks, chosen, pairs)
        else:
            for_each_tile(blocks, m, finish, dot_blocks)
    return k.func


class _Repeated:
    """One float of each row of a tile: the one of a row in all lanes."""

    def __init__(self, buffer: Buffer, tile: int) -> None:
        self._rows = bind(load(buffer, 0) if tile > 1 else splat(buffer[0], "float32x4"))
        self._tile = tile

    def __call__(self, row: int) -> Expr:
        return self._rows if self._tile == 1 else lane(self._rows, row)


def _accumulate_codes(
    dots: Sequence[DotAccumulators], form: CodeFormat, codes: Sequence[Buffer], activations: Buffer, tile: int
) -> None:
    """`dots` = sums over one group of codes times codes of `tile` rows, for some blocks; buffers are windows at it."""
    for some in dots:
        some.clear(tile * 2)

    def step(codes: Sequence[Buffer], activations: Buffer, parts: int) -> None:
        vectors = [form.vectors(block, 0) for block in codes]
        for part in range(parts):
            weights = [
                [tuple(bind(w) for w in some.widen(vector)) for vector in block(part)]
                for some, block in zip(dots, vectors, strict=True)
            ]
            repeated = dots[0].repeated(activations, part * ROW_TILE, tile)
            for r in range(tile):
                row = bind(repeated(r))
                for some, block in zip(dots, weights, strict=True):
                    for half in range(2):
                        some.add(2 * r + half, row, block[half])

    def at(number: Expr | int, parts: int) -> tuple[list[Buffer], Buffer]:
        words = form.step_words * parts // 2
        return [window(block, number * words) for block in codes], window(activations, number * (parts * ROW_TILE))

    if tile == 1:
        for t in range(4):
            step(*at(t, 2), 2)
        return
    # A loop, because LLVM would reorder the straight code until no register is left; with relaxed dots even that of two
    # parts, where codes need no unpacking. The first step stands before it: a loop that starts with zeros makes engines
    # keep the sums in memory.
    parts = 1 if form.bits != 4 and dots[0].isa.relaxed_dot else 2
    step(codes, activations, parts)
    with T.serial(1, 8 // parts) as number:
        step(*at(number, parts), parts)


def _add_outliers(
    sums: Registers, activations: QuantizedBuffers, tile: int, form: CodeFormat, codes: Buffer, scale: Sequence[Expr]
) -> None:
    """The outliers of one group of `tile` rows, which are at the window; most groups have none."""
    values, places = activations.outliers, activations.places
    if values is None or places is None:
        return

    def one(row: int, number: int) -> None:
        place = bind(places[number * ROW_TILE + row])
        with T.If(place >= 0), T.Then():
            value = splat(values[number * ROW_TILE + row], "float32x4")
            for half in range(2):
                i = 2 * row + half
                sums[i] = sums[i] + form.feature(codes, place, half) * scale[half] * value
            if number + 1 < OUTLIERS:
                one(row, number + 1)

    if tile == 1:
        one(0, 0)
        return
    negative = T.call_llvm_pure_intrin("int32", "llvm.wasm.bitmask.v4i32", load(places, 0))
    with T.If(negative != 2**ROW_TILE - 1), T.Then():
        for row in range(tile):
            one(row, 0)


def _scale(scales: Buffer, index: Expr) -> Expr:
    """Four float16 scales as float32 times 2^-112."""
    bits = T.shift_left(T.Cast("int32x4", load(scales, index)), T.Broadcast(T.int32(13), 4))
    return T.reinterpret("float32x4", bits)
