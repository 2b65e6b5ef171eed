"""Convolutions in codes of 16 bits, for filters that a plan leaves in float32: first and narrow layers.

A first kernel writes the picture as codes: a scale for each of its rows, channels rounded up to whole pairs, and the
columns of zeros that the padding adds. A row of a filter then meets a run of neighbouring codes, so nothing is
gathered, and every pixel is quantized once. The sums of one row of a filter are exact; those of several rows are added
in float32, from the top, each times the scale of its row of the picture.

    codes    [batch, height, padded width, pairs of channels]   two int16 to an element
    scales   [batch, height]
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.ir.compressed import ROWS
from edgec.lower.wasm.graph_dims import to_tir
from edgec.lower.wasm.kernels import math
from edgec.lower.wasm.kernels.builder import (
    Buffer,
    Expr,
    Floats,
    KernelBuilder,
    PrimFunc,
    Registers,
    bind,
    largest_lane,
    load,
    splat,
    store,
    window,
)
from edgec.lower.wasm.kernels.depthwise import Window
from edgec.lower.wasm.kernels.epilogue import Epilogue, Finish
from edgec.lower.wasm.kernels.linear_pairs import pack_pairs
from edgec.lower.wasm.kernels.pairs import (
    BLOCKS,
    ROWS_TOGETHER,
    VECTORS,
    factors,
    in_turns,
    narrowed,
    straight_products,
)
from edgec.passes import dims as d
from edgec.passes.dims import Dim


def pairs_of(window: Window) -> int:
    """Of a pixel's channels."""
    assert isinstance(window.channels, int)
    return -(-window.channels // 2)


def padded_width(window: Window) -> Dim:
    """Pixels of a row of codes: as many as the windows of a row of outputs reach."""
    return d.add(d.multiply(d.subtract(window.output_width, 1), window.strides[1]), window.kernel[1])


def pack_filters(matrix: npt.NDArray[np.float32], window: Window) -> tuple[npt.NDArray[Any], npt.NDArray[Any], int]:
    """`[outputs, kernel rows * kernel columns * channels]` as `pack_pairs` gives it, channels rounded up to pairs."""
    taps = window.kernel[0] * window.kernel[1]
    filters = np.zeros((len(matrix), taps, 2 * pairs_of(window)), np.float32)
    filters[:, :, : window.channels] = matrix.reshape(len(matrix), taps, -1)
    return pack_pairs(filters.reshape(len(matrix), -1), 1)


def picture_codes(w: Window, levels: int) -> PrimFunc:
    """Parameters: input, codes, scales, `w.dimensions()`; `levels` is the largest code."""
    pairs = pairs_of(w)
    with KernelBuilder() as k:
        source = k.buffer("input", "float32")
        codes, scales = k.buffer("codes", "int32"), k.buffer("scales", "float32")
        variables = {name: k.scalar(name) for name in w.dimensions()}
        width, padded = to_tir(w.width, variables), to_tir(padded_width(w), variables)
        lines = to_tir(w.batch, variables) * to_tir(w.height, variables)
        with math.computed_constants(lines), T.parallel(0, lines) as line:
            row = bind(line * (width * w.channels))
            peak = Registers(2, "float32x4")
            peak.fill(2, 0.0)
            count = bind(width * w.channels)
            whole = bind(tirx.truncdiv(count, 8))
            with T.serial(0, whole) as i:
                for half in range(2):
                    peak[half] = tirx.max(peak[half], tirx.abs(load(source, row + i * 8 + 4 * half)))
            largest = Registers(1, "float32")
            largest[0] = largest_lane(bind(tirx.max(peak[0], peak[1])))
            with T.serial(0, count - whole * 8) as i:
                largest[0] = tirx.max(largest[0], tirx.abs(source[row + whole * 8 + i]))
            inverse, step = factors(bind(largest[0]), levels)
            store(scales, line, step, 1)
            write = _by_pixel if w.channels % 2 else _together
            write(w, window(source, row), window(codes, line * padded * pairs), width, padded, inverse)
    return k.func


def _together(w: Window, source: Buffer, codes: Buffer, width: Expr, padded: Expr, inverse: Expr) -> None:
    """A row whose channels are whole pairs: neighbours, between the zeros of the padding."""
    pairs = pairs_of(w)
    first = bind(tirx.min(padded, w.pads[1]) * pairs)
    count = bind(tirx.min(padded * pairs - first, width * pairs))
    with T.serial(0, first) as i:
        store(codes, i, T.int32(0), 1)
    with T.serial(0, padded * pairs - first - count) as i:
        store(codes, first + count + i, T.int32(0), 1)
    fours = bind(tirx.truncdiv(count, 4))
    four_inverse = splat(inverse, "float32x4")
    with T.serial(0, fours) as four:
        low, high = (math.nearest_integer(load(source, four * 8 + 4 * half) * four_inverse) for half in range(2))
        store(codes, first + four * 4, narrowed(low, high))
    with T.serial(0, count - fours * 4) as i:
        pair = bind(fours * 4 + i)
        low, high = (math.nearest_integer(source[pair * 2 + of] * inverse) for of in range(2))
        store(codes, first + pair, _pair(low, high), 1)


def _by_pixel(w: Window, source: Buffer, codes: Buffer, width: Expr, padded: Expr, inverse: Expr) -> None:
    """A row whose pixels end with half a pair."""
    pairs = pairs_of(w)
    with T.serial(0, padded) as x:
        column = bind(x - w.pads[1])
        inside = bind(tirx.all(column >= 0, column < width))
        pixel = bind(tirx.Select(inside, column, 0) * w.channels)
        scale = bind(tirx.Select(inside, inverse, T.float32(0.0)))

        def code(channel: Expr | int, pixel: Expr = pixel, scale: Expr = scale) -> Expr:
            return math.nearest_integer(source[pixel + channel] * scale)

        with T.serial(0, w.channels // 2) as pair:
            store(codes, x * pairs + pair, _pair(code(pair * 2), code(pair * 2 + 1)), 1)
        store(codes, x * pairs + (pairs - 1), T.bitwise_and(code(w.channels - 1), T.int32(0xFFFF)), 1)


def _pair(low: Expr, high: Expr) -> Expr:
    return T.bitwise_or(T.bitwise_and(low, T.int32(0xFFFF)), T.shift_left(high, T.int32(16)))


def conv_pairs(w: Window, outputs: int, epilogue: Epilogue) -> PrimFunc:
    """Parameters: picture codes and scales, filter codes and scales, [bias], [residual], output, `w.dimensions()`."""
    pairs, blocks = pairs_of(w), -(-outputs // ROWS)
    run = w.kernel[1] * pairs  # of codes, which a row of a filter meets
    with KernelBuilder() as k:
        codes, row_scales = k.buffer("codes", "int32"), k.buffer("scales", "float32")
        weights, scales = k.buffer("weight_codes", "int32"), k.buffer("weight_scales", "float32")
        bias = k.buffer("bias", "float32") if epilogue.bias else None
        residual = k.buffer("residual", "float32") if epilogue.residual else None
        output = k.buffer("output", "float32")
        variables = {name: k.scalar(name) for name in w.dimensions()}
        height, padded = to_tir(w.height, variables), to_tir(padded_width(w), variables)
        out_height, out_width = to_tir(w.output_height, variables), to_tir(w.output_width, variables)
        finish = Finish(epilogue, bias, residual, output, outputs, outputs)
        tiles = bind(tirx.truncdiv(out_width + (ROWS_TOGETHER - 1), ROWS_TOGETHER))
        lines = to_tir(w.batch, variables) * out_height
        with math.computed_constants(lines), T.parallel(0, lines) as line:
            y = bind(tirx.truncmod(line, out_height))
            first_row, past_row = w.taps(0, y, height)
            top = bind(tirx.truncdiv(line, out_height) * height + y * w.strides[0] - w.pads[0])
            with T.serial(0, tiles) as tile:

                def number_of(pixel: Expr | int, tile: Expr = tile) -> Expr:
                    """Of the last tile the last pixel is repeated."""
                    return bind(tirx.min(tile * ROWS_TOGETHER + pixel, out_width - 1))

                columns = [bind(number_of(i) * (w.strides[1] * pairs)) for i in range(ROWS_TOGETHER)]
                for first in range(0, blocks, BLOCKS):
                    count = min(BLOCKS, blocks - first)
                    sums = Floats(count * VECTORS * 4)
                    with T.serial(0, count * VECTORS) as i:
                        sums.set_vector(i * 4, splat(0.0, "float32x4"))
                    with T.serial(0, past_row - first_row) as i:
                        row = bind(first_row + i)
                        number = bind(top + row * w.dilations[0])
                        step = bind(splat(row_scales[number], "float32x4"))
                        rows = [window(codes, number * padded * pairs + column) for column in columns]
                        with T.serial(0, count) as block:
                            here = window(weights, ((first + block) * w.kernel[0] + row) * (run * ROWS), "int16")
                            products = straight_products(rows, here, *in_turns(run))
                            for v in range(VECTORS):
                                at = (block * VECTORS + v) * 4
                                sums.set_vector(at, sums.vector(at) + T.Cast("float32x4", products[v]) * step)
                    with T.serial(0, count) as block, T.serial(0, ROWS_TOGETHER) as pixel:
                        for half in range(2):
                            scale = load(scales, (first + block) * ROWS + 4 * half)
                            value = bind(sums.vector((block * VECTORS + 2 * pixel + half) * 4) * scale)
                            finish(first + block, line * out_width + number_of(pixel), half, value, None)
    return k.func
