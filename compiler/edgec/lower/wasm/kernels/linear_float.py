"""Linear layers in float32, for plans that keep a tensor unquantized.

Weights are `[rows / 8, columns, 8]`: 8 rows interleaved, padded with zero rows. Features are added
in order, so the result of a row does not depend on the tile.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.ir.compressed import ROWS
from edgec.lower.wasm.kernels.builder import Expr, KernelBuilder, PrimFunc, Registers, bind, load, splat
from edgec.lower.wasm.kernels.epilogue import PLAIN, Epilogue, Finish, for_each_tile, padded
from edgec.lower.wasm.kernels.experts import Pairs, for_each_pair


def pack_float(weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """`[rows, columns]` -> `[ceil(rows / 8), columns, 8]`."""
    rows, columns = weight.shape
    blocks = -(-rows // ROWS)
    out = np.zeros((blocks * ROWS, columns), np.float32)
    out[:rows] = weight
    return np.ascontiguousarray(out.reshape(blocks, ROWS, columns).transpose(0, 2, 1))


def linear_float(
    *,
    rows: int | None = None,
    columns: int | None = None,
    input_stride: int | None = None,
    epilogue: Epilogue = PLAIN,
    output_stride: int | None = None,
    pairs: Pairs | None = None,
) -> PrimFunc:
    """Parameters: input, weights, [bias], [residual], output, m. See `linear.linear`.

    Without shapes also: outputs, columns, input stride.
    """
    outputs: int | Expr
    features: int | Expr
    stride: int | Expr
    with KernelBuilder() as k:
        source = k.buffer("input", "float32")
        weights = k.buffer("weights", "float32")
        bias = k.buffer("bias", "float32") if epilogue.bias else None
        residual = k.buffer("residual", "float32") if epilogue.residual else None
        chosen = k.buffer("chosen", "int32") if pairs is not None else None
        output = k.buffer("output", "float32")
        m = k.scalar("m")
        if rows is None or columns is None or input_stride is None:
            assert not epilogue.gated
            outputs, features, input_step = k.scalar("outputs"), k.scalar("columns"), k.scalar("input_stride")
            stride = outputs
        else:
            outputs, features, input_step = rows // 2 if epilogue.gated else rows, columns, input_stride
            stride = padded(outputs) if output_stride is None else output_stride
        blocks = tirx.truncdiv(outputs + (ROWS - 1), ROWS) if rows is None else -(-outputs // ROWS)

        finish = Finish(epilogue, bias, residual, output, outputs, stride)

        def dot_blocks(blocks: Sequence[Expr], row: Expr, tile: int) -> list[Registers]:
            return [dot_block(block, row, tile) for block in blocks]

        def dot_block(block: Expr, row: Expr, tile: int) -> Registers:
            sums = Registers(tile * 2, "float32x4")
            sums.fill(tile * 2, 0.0)
            with T.serial(0, features) as i:
                halves = [bind(load(weights, (block * features + i) * ROWS + 4 * half)) for half in range(2)]
                for r in range(tile):
                    value = splat(source[(row + r) * input_step + i], "float32x4")
                    for half in range(2):
                        sums[2 * r + half] = sums[2 * r + half] + value * halves[half]
            return sums

        if pairs is not None:
            for_each_pair(blocks, m, finish, dot_blocks, chosen, pairs)
        else:
            for_each_tile(blocks, m, finish, dot_blocks)
    return k.func
