"""Linear layers in float32, for plans that keep a tensor unquantized.

Weights are `[rows / 8, columns, 8]`: 8 rows interleaved, padded with zero rows. Features are added
in order, so the result of a row does not depend on the tile.

Four rows are computed together. Their features are first laid side by side, so that the inner loop reads two
streams and keeps 8 sums: engines have 16 vector registers, and LLVM lets all that a turn reads be alive at once.
The sums of several blocks are made before any of them is activated: the constants of an activation function
would want registers, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.ir.compressed import ROWS
from edgec.lower.wasm.kernels import math
from edgec.lower.wasm.kernels.builder import Buffer, Expr, Floats, KernelBuilder, PrimFunc, Registers, bind, load, splat
from edgec.lower.wasm.kernels.epilogue import PLAIN, Epilogue, Finish, padded
from edgec.lower.wasm.kernels.experts import Pairs, for_each_pair
from edgec.lower.wasm.kernels.quantize import ROW_TILE

_BLOCKS = 8  # of weights whose sums wait for their activation; even, since gate and up are neighbours
_FEATURES = 512  # of a tile that are laid side by side at a time
_SUMS = 2 * ROW_TILE  # vectors of a block's sums: register `2 * row + half`


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

        product = _Product(source, weights, features, input_step, finish)
        if pairs is not None:
            for_each_pair(blocks, m, finish, product.of_row, chosen, pairs)
        else:
            product.of_all(blocks * (2 if epilogue.gated else 1), m)
    return k.func


@dataclass(frozen=True)
class _Product:
    """Rows of `source`, which are `step` apart, by blocks of 8 rows of `weights`."""

    source: Buffer
    weights: Buffer
    features: int | Expr
    step: int | Expr
    finish: Finish

    def of_all(self, blocks: int | Expr, m: Expr) -> None:
        """Whole tiles of rows by some blocks at a time, then the rows that are left by two blocks."""
        whole, rest = bind(tirx.truncdiv(m, ROW_TILE)), bind(tirx.truncmod(m, ROW_TILE))
        with math.computed_constants(m):
            chunks = bind(tirx.truncdiv(blocks + T.int32(_BLOCKS - 1), _BLOCKS))
            with T.parallel(0, chunks * whole) as item:
                first = bind(tirx.truncdiv(item, whole) * _BLOCKS)
                row = bind(tirx.truncmod(item, whole) * ROW_TILE)
                self._tile(first, bind(tirx.min(blocks - first, _BLOCKS)), row)
            with T.parallel(0, tirx.truncdiv(blocks, 2)) as pair, T.serial(0, rest) as r:
                self._row_left([pair * 2, pair * 2 + 1], m - 1 - r)
            if self.finish.epilogue.gated or (isinstance(blocks, int) and blocks % 2 == 0):
                return
            with T.If(tirx.truncmod(blocks, 2) == 1), T.Then(), T.parallel(0, rest) as r:
                self._row_left([blocks - 1], m - 1 - r)

    def of_row(self, blocks: Sequence[Expr], row: Expr, tile: int = 1) -> list[Registers]:
        """The two sums of each block for one row."""
        assert tile == 1
        sums = [Registers(2, "float32x4") for _ in blocks]
        for some in sums:
            some.fill(2, 0.0)
        with T.serial(0, self.features) as i:
            value = bind(splat(self.source[row * self.step + i], "float32x4"))
            for block, some in zip(blocks, sums, strict=True):
                for half in range(2):
                    at = (block * self.features + i) * ROWS + 4 * half
                    some[half] = some[half] + value * load(self.weights, at)
        return sums

    def _row_left(self, blocks: Sequence[Expr], row: Expr) -> None:
        sums = self.of_row(blocks, row)
        for half in range(2):
            if self.finish.epilogue.gated:
                self.finish(tirx.truncdiv(blocks[0], 2), row, half, sums[0][half], sums[1][half])
            else:
                for block, some in zip(blocks, sums, strict=True):
                    self.finish(block, row, half, some[half], None)

    def _tile(self, first: Expr, blocks: Expr, row: Expr) -> None:
        """Four rows by the blocks from `first` on."""
        values, sums = Floats(_FEATURES * ROW_TILE), Registers(_BLOCKS * _SUMS, "float32x4")
        with T.serial(0, blocks * _SUMS) as i:
            sums[i] = splat(0.0, "float32x4")
        with T.serial(0, tirx.truncdiv(self.features + T.int32(_FEATURES - 1), _FEATURES)) as part:
            start = bind(part * _FEATURES)
            length = bind(tirx.min(self.features - start, _FEATURES))
            self._lay_side_by_side(bind(row * self.step + start), length, values)
            with T.serial(0, blocks) as block:
                weights = bind(((first + block) * self.features + start) * ROWS)
                self._add_products(weights, length, values, sums, bind(block * _SUMS))
        per = 2 if self.finish.epilogue.gated else 1
        with T.serial(0, tirx.truncdiv(blocks, per)) as block, T.serial(0, ROW_TILE) as r:
            for half in range(2):
                at = bind(block * (_SUMS * per) + 2 * r + half)
                up = sums[at + _SUMS] if per == 2 else None
                self.finish(tirx.truncdiv(first, per) + block, row + r, half, sums[at], up)

    def _lay_side_by_side(self, start: Expr, length: Expr, target: Floats) -> None:
        """`target[feature * 4 + row]` of `length` features of four rows, the first of them at `start`."""
        quads = bind(tirx.truncdiv(length, 4))
        with T.serial(0, quads) as quad:
            a, b, c, d = (bind(load(self.source, start + r * self.step + quad * 4)) for r in range(ROW_TILE))
            for i, lanes in enumerate(((0, 4, 1, 5), (2, 6, 3, 7))):
                first, second = bind(_shuffle(a, b, lanes)), bind(_shuffle(c, d, lanes))
                target.set_vector(quad * 16 + 8 * i, _shuffle(first, second, (0, 1, 4, 5)))
                target.set_vector(quad * 16 + 8 * i + 4, _shuffle(first, second, (2, 3, 6, 7)))
        with T.serial(0, length - quads * 4) as i:
            feature = bind(quads * 4 + i)
            for r in range(ROW_TILE):
                target[feature * ROW_TILE + r] = self.source[start + r * self.step + feature]

    def _add_products(self, start: Expr, length: Expr, values: Floats, sums: Registers, at: Expr) -> None:
        """Adds the products of one block, whose weights begin at `start`."""
        own = Registers(_SUMS, "float32x4")
        for i in range(_SUMS):
            own[i] = sums[at + i]
        with T.serial(0, length) as i:
            halves = [bind(load(self.weights, start + i * ROWS + 4 * half)) for half in range(2)]
            for r in range(ROW_TILE):
                value = bind(splat(values[i * ROW_TILE + r], "float32x4"))
                for half in range(2):
                    own[2 * r + half] = own[2 * r + half] + value * halves[half]
        for i in range(_SUMS):
            sums[at + i] = own[i]


def _shuffle(a: Expr, b: Expr, lanes: Sequence[int]) -> Expr:
    return tirx.Shuffle([a, b], [tirx.const(lane, "int32") for lane in lanes])
