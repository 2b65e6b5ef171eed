"""What linear kernels do with their sums: bias, activation, gate, residual, and the loops around."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.ir.compressed import ROWS
from edgec.lower.wasm.kernels import math
from edgec.lower.wasm.kernels.activations import ACTIVATIONS
from edgec.lower.wasm.kernels.builder import Buffer, Expr, Floats, Registers, bind, load, store
from edgec.lower.wasm.kernels.quantize import ROW_TILE


@dataclass(frozen=True)
class Epilogue:
    """In this order: add `bias`, apply `activation` (a name in `ACTIVATIONS`), add `residual`.

    `gated`: blocks of 8 rows alternate between gate and up; the output is activation(gate) * up.
    """

    bias: bool = False
    activation: str | None = None
    residual: bool = False
    gated: bool = False


PLAIN = Epilogue()


def padded(rows: int) -> int:
    """Rows rounded up to whole tile blocks: the stride of outputs."""
    return -(-rows // ROWS) * ROWS


@dataclass(frozen=True)
class Finish:
    """Turns the sums of a block of 8 outputs into stored results.

    Biases are in the order of the weight rows, so gate and up alternate when gated. Rows of output
    and residual are `stride` floats apart; where that is less than whole blocks the last block is
    written lane by lane.
    """

    epilogue: Epilogue
    bias: Buffer | None
    residual: Buffer | None
    output: Buffer
    outputs: int | Expr
    stride: int | Expr

    def __call__(self, block: Expr, row: Expr, half: int, value: Expr, up: Expr | None) -> None:
        if self.bias is not None:
            start = block * (ROWS if up is None else 2 * ROWS) + 4 * half
            value = value + load(self.bias, start)
            if up is not None:
                up = up + load(self.bias, start + ROWS)
        if self.epilogue.activation is not None:
            value = ACTIVATIONS[self.epilogue.activation](bind(value))
        if up is not None:
            value = value * up
        self._store(row * self.stride + block * ROWS + 4 * half, value, block * ROWS + 4 * half)

    def _store(self, index: Expr, value: Expr, column: Expr) -> None:
        def whole() -> None:
            residual = self.residual
            store(self.output, index, value if residual is None else value + load(residual, index))

        if isinstance(self.stride, int) and isinstance(self.outputs, int) and self.stride >= padded(self.outputs):
            whole()
            return
        with T.If(column + 4 <= self.outputs):
            with T.Then():
                whole()
            with T.Else():
                lanes = Floats(4)
                lanes.set_vector(0, value)
                for lane in range(4):
                    with T.If(column + lane < self.outputs), T.Then():
                        scalar = lanes[lane]
                        if self.residual is not None:
                            scalar = scalar + self.residual[index + lane]
                        store(self.output, index + lane, scalar, 1)


def for_each_tile(
    blocks: int | Expr, m: Expr, finish: Finish, dot_blocks: Callable[[Sequence[Expr], Expr, int], Sequence[Registers]]
) -> None:
    """All blocks of 8 outputs (shared between threads) by all rows, in tiles of `ROW_TILE` rows.

    `dot_blocks(weight blocks, first row, rows)` returns sums of each block, register `2 * r + half`. A single row takes
    two blocks at a time: two streams from memory come in faster than one.
    """
    gated = finish.epilogue.gated

    def tile_of_block(block: Expr, row: Expr, tile: int) -> None:
        if not gated:
            up = None
            (sums,) = dot_blocks([block], row, tile)
        elif tile == 1:
            sums, up = dot_blocks([block * 2, block * 2 + 1], row, tile)
        else:
            sums, up = (dot_blocks([block * 2 + part], row, tile)[0] for part in range(2))
        write(block, row, tile, sums, up)

    def write(block: Expr, row: Expr, tile: int, sums: Registers, up: Registers | None) -> None:
        for r in range(tile):
            for half in range(2):
                i = 2 * r + half
                finish(block, row + r, half, sums[i], None if up is None else up[i])

    def pair_of_blocks(block: Expr, row: Expr) -> None:
        for part, sums in enumerate(dot_blocks([block, block + 1], row, 1)):
            write(block + part, row, 1, sums, None)

    whole, rest = tirx.truncdiv(m, ROW_TILE), tirx.truncmod(m, ROW_TILE)
    with math.computed_constants(m):
        with T.parallel(0, blocks) as block, T.serial(0, whole) as tile:
            tile_of_block(block, tile * ROW_TILE, ROW_TILE)
        if gated:
            with T.parallel(0, blocks) as block, T.serial(0, rest) as r:
                tile_of_block(block, m - 1 - r, 1)
            return
        pairs = tirx.truncdiv(blocks + 1, 2)
        with T.parallel(0, pairs) as pair, T.serial(0, rest) as r, T.If(pair * 2 + 1 < blocks):
            with T.Then():
                pair_of_blocks(pair * 2, m - 1 - r)
            with T.Else():
                tile_of_block(pair * 2, m - 1 - r, 1)
