"""Linear layers in codes of 16 bits, for matrices that a plan leaves in float32: narrow convolutions.

    y[m, n] = epilogue(sum_k a[m, k] * w[n, k] * (scale of row m) * (scale of output n))

Weights have up to 13 bits and a sign, the features of a row as many as the largest sum of an output's weights allows,
and the sums are exact. Rows are quantized four at a time, and meet all weights while they are in the nearest cache.
"""

from __future__ import annotations

import math as numbers
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.ir.compressed import ROWS
from edgec.lower.wasm.kernels import math
from edgec.lower.wasm.kernels.builder import (
    Buffer,
    Expr,
    Floats,
    Integers,
    KernelBuilder,
    PrimFunc,
    Registers,
    bind,
    largest_lanes,
    load,
    splat,
    window,
)
from edgec.lower.wasm.kernels.epilogue import Epilogue, Finish
from edgec.lower.wasm.kernels.pairs import (
    BLOCKS,
    ROWS_TOGETHER,
    STRAIGHT,
    VECTORS,
    factors,
    narrowed,
    straight_products,
)

WIDEST = 1024  # features of a row; their codes lie on the stack
_WEIGHT_LEVELS = 8191  # at most; with many features weights get no more bits than those do


def pack_pairs(
    weight: npt.NDArray[np.float32], together: int = STRAIGHT
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float32], int]:
    """`[rows, columns]` -> codes `[ceil(rows / 8), pairs, 8, 2]`, scales of whole blocks of rows, and the largest code
    that features may have. Behind the last column are zeros up to a multiple of `together` pairs.
    """
    rows, columns = weight.shape
    blocks, pairs = -(-rows // ROWS), -(-columns // (2 * together)) * together
    padded = np.zeros((blocks * ROWS, pairs * 2), np.float64)
    padded[:rows, :columns] = weight
    largest = np.abs(padded).max(axis=1)
    share = np.max(np.abs(padded).sum(axis=1) / np.where(largest > 0, largest, 1))  # of the largest sum, in features
    scales = (largest / min(_WEIGHT_LEVELS, numbers.isqrt(2**31) / max(1.0, share) ** 0.5)).astype(np.float32)
    codes = np.rint(padded / np.where(scales > 0, scales, 1)[:, None]).astype(np.int64)
    levels = min(32767, (2**31 - 1) // max(1, int(np.abs(codes).sum(axis=1).max())))
    tiles = codes.reshape(blocks, ROWS, pairs, 2).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(tiles, np.int16), scales, levels


def linear_pairs(epilogue: Epilogue) -> PrimFunc:
    """Parameters: input, weight codes, weight scales, [bias], [residual], output, m, outputs, columns, input stride,
    levels (the largest code of a feature). Rows of output and residual have `outputs` floats.
    """
    assert not epilogue.gated
    with KernelBuilder() as k:
        source = k.buffer("input", "float32")
        weights, scales = k.buffer("weight_codes", "int32"), k.buffer("weight_scales", "float32")
        bias = k.buffer("bias", "float32") if epilogue.bias else None
        residual = k.buffer("residual", "float32") if epilogue.residual else None
        output = k.buffer("output", "float32")
        m, outputs, columns, stride = (k.scalar(name) for name in ("m", "outputs", "columns", "input_stride"))
        levels = bind(T.Cast("float32", k.scalar("levels")))
        finish = Finish(epilogue, bias, residual, output, outputs, outputs)
        blocks = bind(tirx.truncdiv(outputs + (ROWS - 1), ROWS))
        turns = bind(tirx.truncdiv(columns + (2 * STRAIGHT - 1), 2 * STRAIGHT))
        tiles = bind(tirx.truncdiv(m + (ROWS_TOGETHER - 1), ROWS_TOGETHER))
        with math.computed_constants(m), T.parallel(0, tiles) as tile:
            codes, steps = Integers(ROWS_TOGETHER * WIDEST // 2), Floats(ROWS_TOGETHER)

            def number_of(row: Expr | int) -> Expr:
                """Of the last tile the last row is repeated."""
                return bind(tirx.min(tile * ROWS_TOGETHER + row, m - 1))

            sources = [window(source, number_of(row) * stride) for row in range(ROWS_TOGETHER)]
            quantize_together(sources, columns, levels, codes, steps)
            rows = [codes.window(row * (WIDEST // 2)) for row in range(ROWS_TOGETHER)]
            with T.serial(0, tirx.truncdiv(blocks + (BLOCKS - 1), BLOCKS)) as chunk:
                first = bind(chunk * BLOCKS)
                count = bind(tirx.min(blocks - first, BLOCKS))
                sums = Floats(BLOCKS * VECTORS * 4)
                with T.serial(0, count) as block:
                    columns_of = window(weights, (first + block) * turns * (STRAIGHT * ROWS), "int16")
                    products = straight_products(rows, columns_of, STRAIGHT, turns)
                    for half in range(2):
                        scale = bind(load(scales, (first + block) * ROWS + 4 * half))
                        for r in range(ROWS_TOGETHER):
                            exact = T.Cast("float32x4", products[2 * r + half])
                            value = exact * splat(steps[r], "float32x4") * scale
                            sums.set_vector((block * VECTORS + 2 * r + half) * 4, value)
                with T.serial(0, ROWS_TOGETHER) as row, T.serial(0, count) as block:
                    for half in range(2):
                        value = bind(sums.vector((block * VECTORS + 2 * row + half) * 4))
                        finish(first + block, number_of(row), half, value, None)
    return k.func


def quantize_together(rows: Sequence[Buffer], columns: Expr, levels: Expr, codes: Integers, steps: Floats) -> None:
    """Writes pairs of codes of four rows, `WIDEST // 2` apart, with zeros behind the last up to whole eights of
    features, and the scale of each row. Side by side, so that none waits for its own largest feature.
    """
    eights = bind(tirx.truncdiv(columns, 8))
    rest = bind(columns - eights * 8)
    last = Floats(8 * len(rows))
    for at in range(0, 8 * len(rows), 4):
        last.set_vector(at, splat(0.0, "float32x4"))
    with T.serial(0, rest) as i:
        for r, row in enumerate(rows):
            last[8 * r + i] = row[eights * 8 + i]
    peaks = Registers(len(rows), "float32x4")
    for r in range(len(rows)):
        peaks[r] = tirx.max(tirx.abs(last.vector(8 * r)), tirx.abs(last.vector(8 * r + 4)))
    with T.serial(0, eights * 2) as i:
        for r, row in enumerate(rows):
            peaks[r] = tirx.max(peaks[r], tirx.abs(load(row, i * 4)))
    inverse, step = factors(largest_lanes([peaks[r] for r in range(len(rows))]), levels)
    steps.set_vector(0, step)
    inverses = Floats(len(rows))
    inverses.set_vector(0, inverse)

    def put(eight: Expr, read: Callable[[int, int], Expr]) -> None:
        for r in range(len(rows)):
            own = splat(inverses[r], "float32x4")
            low, high = (math.nearest_integer(read(r, 4 * half) * own) for half in range(2))
            codes.set_vector(r * (WIDEST // 2) + eight * 4, narrowed(low, high))

    with T.serial(0, eights) as eight:
        put(eight, lambda r, i: load(rows[r], eight * 8 + i))
    with T.If(rest > 0), T.Then():
        put(eights, lambda r, i: last.vector(8 * r + i))
