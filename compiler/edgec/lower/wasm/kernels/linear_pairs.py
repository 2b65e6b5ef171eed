"""Linear layers in codes of 16 bits, for matrices that a plan leaves in float32: narrow convolutions.

    y[m, n] = epilogue(sum_k a[m, k] * w[n, k] * (scale of row m) * (scale of output n))

Weights have up to 13 bits and a sign, the features of a row as many as the largest sum of an output's weights allows,
and the sums are exact. Rows are quantized four at a time, and meet all weights while they are in the nearest cache.
"""

from __future__ import annotations

import math as numbers

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.ir.compressed import ROWS
from edgec.lower.wasm.kernels import math
from edgec.lower.wasm.kernels.builder import (
    Expr,
    Floats,
    Integers,
    KernelBuilder,
    PrimFunc,
    bind,
    load,
    splat,
    window,
)
from edgec.lower.wasm.kernels.epilogue import Epilogue, Finish
from edgec.lower.wasm.kernels.pairs import BLOCKS, ROWS_TOGETHER, VECTORS, pair_products, quantize_pairs

WIDEST = 1024  # features of a row; their codes lie on the stack
_WEIGHT_LEVELS = 8191  # at most; with many features weights get no more bits than those do


def pack_pairs(weight: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float32], int]:
    """`[rows, columns]` -> codes `[ceil(rows / 8), ceil(columns / 2), 8, 2]`, scales of whole blocks of rows, and the
    largest code that features may have.
    """
    rows, columns = weight.shape
    blocks, pairs = -(-rows // ROWS), -(-columns // 2)
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
        pairs = bind(tirx.truncdiv(columns + 1, 2))
        tiles = bind(tirx.truncdiv(m + (ROWS_TOGETHER - 1), ROWS_TOGETHER))
        with math.computed_constants(m), T.parallel(0, tiles) as tile:
            codes, steps = Integers(ROWS_TOGETHER * WIDEST // 2), Floats(ROWS_TOGETHER)

            def number_of(row: Expr) -> Expr:
                """Of the last tile the last row is repeated."""
                return bind(tirx.min(tile * ROWS_TOGETHER + row, m - 1))

            with T.serial(0, ROWS_TOGETHER) as row:

                def put(pair: Expr, four: Expr, row: Expr = row) -> None:
                    codes.set_vector(row * (WIDEST // 2) + pair, four)

                steps[row] = quantize_pairs(window(source, number_of(row) * stride), columns, levels, put)
            starts = [T.int32(row * (WIDEST // 2)) for row in range(ROWS_TOGETHER)]
            with T.serial(0, tirx.truncdiv(blocks + (BLOCKS - 1), BLOCKS)) as chunk:
                first = bind(chunk * BLOCKS)
                count = bind(tirx.min(blocks - first, BLOCKS))
                sums = Floats(BLOCKS * VECTORS * 4)
                with T.serial(0, count) as block:
                    products = pair_products(codes, starts, window(weights, (first + block) * pairs * ROWS), pairs)
                    for half in range(2):
                        scale = bind(load(scales, (first + block) * ROWS + 4 * half))
                        for r in range(ROWS_TOGETHER):
                            exact = T.Cast("float32x4", products[2 * r + half])
                            value = exact * splat(steps[r], "float32x4") * scale
                            sums.set_vector((block * VECTORS + 2 * r + half) * 4, value)
                with T.serial(0, count) as block, T.serial(0, ROWS_TOGETHER) as row:
                    for half in range(2):
                        value = bind(sums.vector((block * VECTORS + 2 * row + half) * 4))
                        finish(first + block, number_of(row), half, value, None)
    return k.func
