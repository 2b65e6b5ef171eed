"""Linear layers in float32, for plans that keep a tensor unquantized.

Weights are `[rows / 8, columns, 8]`: 8 rows interleaved, padded with zero rows. Features are added
in order, so the result of a row does not depend on the tile.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.ir.compressed import ROWS
from edgec.lower.wasm.kernels.activations import ACTIVATIONS
from edgec.lower.wasm.kernels.builder import Expr, KernelBuilder, PrimFunc, Registers, bind, load, splat
from edgec.lower.wasm.kernels.linear import ROW_TILE, Epilogue, padded, store_lanes


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
    epilogue: Epilogue = Epilogue(),
    output_stride: int | None = None,
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

        def rows_of_block(block: Expr, row: Expr, tile: int) -> None:
            gate = dot_block(block * 2 if epilogue.gated else block, row, tile)
            up = dot_block(block * 2 + 1, row, tile) if epilogue.gated else None
            for r in range(tile):
                for half in range(2):
                    column = block * ROWS + 4 * half
                    value = gate[2 * r + half]
                    if bias is not None:
                        value = value + load(bias, column)
                    if epilogue.activation is not None:
                        value = ACTIVATIONS[epilogue.activation](bind(value))
                    if up is not None:
                        value = value * up[2 * r + half]
                    store_lanes(output, residual, (row + r) * stride + column, value, column, outputs, stride)

        with T.parallel(0, blocks) as block:
            with T.serial(0, tirx.truncdiv(m, ROW_TILE)) as tile:
                rows_of_block(block, tile * ROW_TILE, ROW_TILE)
            with T.serial(0, tirx.truncmod(m, ROW_TILE)) as rest:
                rows_of_block(block, m - 1 - rest, 1)
    return k.func
