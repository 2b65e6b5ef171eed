"""Quantized linear layers: `y[m, n] = epilogue(sum_k a[m, k] * w[n, k])`, W4A8 and W8A8.

Weights are in tile order (`edgec/ir/compressed.py`), activations from `quantize.py`. Per group of
32 features the dot product is exact,

    d = sum(a * q) - zero / 16 * sum(a)                 (8 bits: high + low / 16 in place of q)
    y += (d * scale) * activation_scale

once for the coarse codes of the activations and, where a group has them, once for the fine codes.
Groups are added in order, so one row's result depends neither on the tile nor on the ISA (a row without
fine codes skips them).
float16 scales are used without conversion: their bits, shifted into a float32, are the value times
2^-112, and the quantizer folds 2^112 into the activation's scale. Powers of two are exact, and so is
`d` in float32: its parts are multiples of 1/16 below 2^17.
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
)
from edgec.lower.wasm.kernels.dot import DotAccumulators, activation_element, high_nibbles, low_nibbles
from edgec.lower.wasm.kernels.epilogue import PLAIN, Epilogue, Finish, for_each_tile, padded
from edgec.lower.wasm.target import Isa


def linear(
    isa: Isa,
    *,
    bits: int,
    rows: int | None = None,
    columns: int | None = None,
    epilogue: Epilogue = PLAIN,
    output_stride: int | None = None,
) -> PrimFunc:
    """Parameters: activations, activation scales, activation sums, high codes, [low codes], scales, zeros, [bias],
    [residual], output, m.

    `rows` counts weight rows, gate and up together when gated. Outputs (and the residual) have
    `output_stride` floats per row, by default the output rows rounded up to 8; with a smaller one
    the last block is written lane by lane.

    Without `rows` and `columns` one kernel serves all shapes (a network of many shapes compiles
    faster): after m it takes `outputs`, which is also the output stride, and `groups`.
    """
    groups: int | Expr
    outputs: int | Expr
    stride: int | Expr
    with KernelBuilder() as k:
        activations = k.buffer("activations", activation_element(isa))
        activation_scales = k.buffer("activation_scales", "float32")
        activation_sums = k.buffer("activation_sums", "float32")
        codes = [k.buffer("high", "int32")]
        if bits == 8:
            codes.append(k.buffer("low", "int32"))
        scales = k.buffer("scales", "uint16")
        zeros = k.buffer("zeros", "uint8")
        bias = k.buffer("bias", "float32") if epilogue.bias else None
        residual = k.buffer("residual", "float32") if epilogue.residual else None
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

        # Relaxed dots take 7-bit codes, so a plane at a time; the others take whole bytes.
        passes = [[plane] for plane in codes] if isa.relaxed_dot else [codes]
        finish = Finish(epilogue, bias, residual, output, outputs, stride)

        def dot_block(block: Expr, row: Expr, tile: int) -> Registers:
            """8 weight rows x `tile` activation rows; register 2 * r + half."""
            sums = Registers(tile * 2, "float32x4")
            sums.fill(tile * 2, 0.0)
            dots = DotAccumulators(isa, tile * 2)
            with T.serial(0, groups) as group:
                at = (block * groups + group) * ROWS
                scale = [bind(_scale(scales, at + 4 * half)) for half in range(2)]
                zero = [bind(_zero(zeros, at + 4 * half)) for half in range(2)]

                def add(first: int, count: int, fine: int) -> None:
                    """Add the coarse (0) or fine (1) codes of `count` rows from `first`."""
                    total = Registers(count * 2, "float32x4")
                    for number, planes in enumerate(passes):
                        start = row + first
                        _accumulate_codes(dots, planes, activations, block, start, group, groups, count, fine)
                        for i in range(count * 2):
                            exact = T.Cast("float32x4", dots.result(i))
                            if number > 0 or len(planes) > 1:
                                exact = exact * splat(1 / 16, "float32x4")
                            total[i] = exact if number == 0 else total[i] + exact
                    for r in range(count):
                        index = ((row + first + r) * groups + group) * 2 + fine
                        for half in range(2):
                            exact = total[2 * r + half] - zero[half] * splat(activation_sums[index], "float32x4")
                            factor = splat(activation_scales[index], "float32x4")
                            i = 2 * (first + r) + half
                            sums[i] = sums[i] + exact * scale[half] * factor

                add(0, tile, 0)
                for r in range(tile):
                    has_fine = activation_scales[((row + r) * groups + group) * 2 + 1] != T.float32(0.0)
                    with T.If(has_fine), T.Then():
                        add(r, 1, 1)
            return sums

        for_each_tile(blocks, m, finish, dot_block)
    return k.func


def _accumulate_codes(
    dots: DotAccumulators,
    planes: Sequence[Buffer],
    activations: Buffer,
    block: Expr,
    row: Expr,
    group: Expr,
    groups: int | Expr,
    tile: int,
    fine: int,
) -> None:
    """`dots` = sum over one group of codes (a plane's, or of both together) times codes of `tile` rows."""
    dots.clear(tile * 2)
    base = (block * groups + group) * (GROUP * ROWS // 8)  # in int32 elements
    for t in range(4):
        for half in range(2):
            packed = [bind(load(plane, base + (t * 2 + half) * 4)) for plane in planes]
            for part in range(2):
                weights = tuple(bind(w) for w in dots.widen(_codes_of(packed, part)))
                for r in range(tile):
                    element = activations[(((row + r) * groups + group) * 2 + fine) * 8 + part * 4 + t]
                    dots.add(2 * r + half, dots.broadcast(element), weights)


def _codes_of(packed: Sequence[Expr], part: int) -> Expr:
    """16 codes: the low (part 0) or high nibbles of one plane, or bytes made of two planes."""
    if len(packed) == 1:
        return high_nibbles(packed[0]) if part else low_nibbles(packed[0])
    upper, lower = packed
    four = T.Broadcast(T.int32(4), 4)
    if part:
        return T.bitwise_or(upper - low_nibbles(upper), high_nibbles(lower))
    return T.bitwise_or(T.shift_left(low_nibbles(upper), four), low_nibbles(lower))


def _scale(scales: Buffer, index: Expr) -> Expr:
    """Four float16 scales as float32 times 2^-112."""
    bits = T.shift_left(T.Cast("int32x4", load(scales, index)), T.Broadcast(T.int32(13), 4))
    return T.reinterpret("float32x4", bits)


def _zero(zeros: Buffer, index: Expr) -> Expr:
    """Four zero points in steps of the code."""
    return T.Cast("float32x4", T.Cast("int32x4", load(zeros, index))) * splat(1 / 16, "float32x4")
