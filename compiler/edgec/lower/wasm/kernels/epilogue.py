"""What linear kernels do with their sums: bias, activation, gate, residual, and the loops around."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.ir.compressed import ROWS
from edgec.lower.wasm.kernels import math
from edgec.lower.wasm.kernels.activations import ACTIVATIONS, NEAR, SMOOTH
from edgec.lower.wasm.kernels.builder import Buffer, Expr, Floats, Registers, bind, load, store
from edgec.lower.wasm.kernels.quantize import ROW_TILE

LARGE_TILE = 6


@dataclass(frozen=True)
class Epilogue:
    """In this order: add `bias`, apply `activation` (a name in `ACTIVATIONS`), add what `shifted` says, add `residual`.

    `gated`: blocks of 8 rows alternate between gate and up; the output is activation(gate) * up.
    `shifted`: one more number per output lies behind the biases, from `padded(outputs)` on.
    """

    bias: bool = False
    activation: str | None = None
    residual: bool = False
    gated: bool = False
    shifted: bool = False

    def exponentials(self, outputs: int) -> int:
        """How many take as long as the activations of so many outputs."""
        if self.activation not in SMOOTH:
            return 0
        return outputs // 2 if self.activation in NEAR.values() else outputs


PLAIN = Epilogue()

STREAMS = 4  # places, far apart, from which a single row reads weights in turns (docs/decisions/0032)


def padded(rows: int) -> int:
    """Rows rounded up to whole tile blocks: the stride of outputs."""
    return -(-rows // ROWS) * ROWS


def shifts_at(outputs: int | Expr) -> int | Expr:
    """Where the shifts of an `Epilogue` begin behind the biases."""
    return padded(outputs) if isinstance(outputs, int) else tirx.truncdiv(outputs + (ROWS - 1), ROWS) * ROWS


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
        if self.epilogue.shifted:
            value = value + load(self.bias, shifts_at(self.outputs) + block * ROWS + 4 * half)
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
    blocks: int | Expr,
    m: Expr,
    finish: Finish,
    dot_blocks: Callable[[Sequence[Expr], Expr, int], Sequence[Registers]],
    *,
    large: bool = False,
    prepare: Callable[[Expr], None] | None = None,
) -> None:
    """All blocks of 8 outputs (shared between threads) by all rows, in tiles of `ROW_TILE` rows, or in those of
    `LARGE_TILE` as far as they go.

    `dot_blocks(weight blocks, first row, rows)` returns sums of each block, register `2 * r + half`. Blocks are taken
    two at a time, as they lie in memory; for single rows as many pairs as there are streams.
    `prepare(pair)` comes before the tiles of a pair.
    """
    gated = finish.epilogue.gated

    def write(block: Expr, row: Expr, tile: int, sums: Registers, up: Registers | None = None) -> None:
        for r in range(tile):
            for half in range(2):
                i = 2 * r + half
                finish(block, row + r, half, sums[i], None if up is None else up[i])

    def pairs_of_blocks(pairs: Sequence[Expr], row: Expr, tile: int) -> None:
        sums = dot_blocks([pair * 2 + i for pair in pairs for i in range(2)], row, tile)
        for number, pair in enumerate(pairs):
            first, second = sums[2 * number : 2 * number + 2]
            if gated:
                write(pair, row, tile, first, second)
            else:
                write(pair * 2, row, tile, first)
                write(pair * 2 + 1, row, tile, second)

    def one_block(block: Expr, row: Expr, tile: int) -> None:
        write(block, row, tile, *dot_blocks([block], row, tile))

    if large:
        sizes = list(zip((ROW_TILE, LARGE_TILE), _tiles(m), strict=True))  # the first ones as they lie side by side
    else:
        sizes = [(ROW_TILE, bind(tirx.truncdiv(m, ROW_TILE)))]
    tiles = []  # rows, first row, number
    start = T.int32(0)
    for size, count in sizes:
        tiles.append((size, start, count))
        start = bind(start + count * size)
    tiles.append((1, start, bind(m - start)))
    pairs = blocks if gated else tirx.truncdiv(blocks, 2)
    with math.computed_constants(m):
        for size, first, count in tiles[:-1]:
            with T.parallel(0, pairs) as pair:
                if prepare is not None:
                    prepare(pair)
                with T.serial(0, count) as tile:
                    pairs_of_blocks([pair], first + tile * size, size)
        _, first, count = tiles[-1]  # single rows
        share = pairs // STREAMS if isinstance(pairs, int) else bind(tirx.truncdiv(pairs, STREAMS))
        with T.parallel(0, share) as pair, T.serial(0, count) as row:
            pairs_of_blocks([pair + stream * share for stream in range(STREAMS)], first + row, 1)
        with T.parallel(0, pairs - STREAMS * share) as number, T.serial(0, count) as row:
            pairs_of_blocks([STREAMS * share + number], first + row, 1)
        if gated or (isinstance(blocks, int) and blocks % 2 == 0):
            return
        with T.If(tirx.truncmod(blocks, 2) == 1), T.Then():  # the last one, shared by rows
            for size, first, count in tiles:
                with T.parallel(0, count) as tile:
                    one_block(blocks - 1, first + tile * size, size)


def _tiles(m: Expr) -> tuple[Expr, Expr]:
    """Tiles of `ROW_TILE` and of `LARGE_TILE` rows that leave less than two of `m` rows, or three if `m` is below 8."""
    over = tirx.truncdiv(tirx.truncmod(m, 6), 2)  # 0, 1 or 2 pairs of rows more than tiles of 6 take
    small = tirx.truncmod(3 - over, 3)
    small = bind(tirx.Select(small * ROW_TILE > m, T.int32(0), small))
    return small, bind(tirx.truncdiv(m - small * ROW_TILE, LARGE_TILE))
