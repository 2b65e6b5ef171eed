"""Products of two activations, float32: `c[batch, m, n] = sum_k a[batch, m, k] * b[batch, k, n]`.

Terms are added in the order of k, so the result of a row does not depend on the tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.graph_dims import symbols, to_tir
from edgec.lower.wasm.kernels.builder import Expr, KernelBuilder, PrimFunc, Registers, bind, load, splat, store
from edgec.lower.wasm.kernels.elementwise import dot, product, unravel
from edgec.passes.dims import Dim

_ROWS = 4
_COLUMNS = 8


@dataclass(frozen=True)
class Factor:
    """Strides of one operand: of the batch axes, then of its two matrix axes."""

    batch: tuple[Dim, ...]
    row: Dim
    column: Dim
    offset: Dim = 0


def dimensions(a: Factor, b: Factor, batch: Sequence[Dim], m: Dim, n: Dim, k: Dim) -> list[str]:
    """Names of the symbolic dimensions that the kernel takes."""
    factors = [s for f in (a, b) for s in (*f.batch, f.row, f.column, f.offset)]
    return symbols([*batch, m, n, k, *factors])


def matmul(a: Factor, b: Factor, batch: Sequence[Dim], m: Dim, n: Dim, k: Dim) -> PrimFunc:
    """Parameters: a, b, dense c, `dimensions(...)`. Wants `b.column == 1`."""
    names = dimensions(a, b, batch, m, n, k)
    batch = batch or (1,)
    with KernelBuilder() as builder:
        left = builder.buffer("a", "float32")
        right = builder.buffer("b", "float32")
        output = builder.buffer("c", "float32")
        variables = {name: builder.scalar(name) for name in names}

        def tir(dim: Dim) -> Expr:
            return to_tir(dim, variables)

        extents = [tir(dim) for dim in batch]
        rows, columns, depth = tir(m), tir(n), tir(k)
        tiles = bind(tirx.truncdiv(rows + (_ROWS - 1), _ROWS))
        with T.parallel(0, product(extents) * tiles) as unit:
            index = bind(tirx.truncdiv(unit, tiles))
            indices = unravel(index, extents)
            a_base = bind(tir(a.offset) + dot(indices, [tir(s) for s in a.batch]) if a.batch else tir(a.offset))
            b_base = bind(tir(b.offset) + dot(indices, [tir(s) for s in b.batch]) if b.batch else tir(b.offset))
            c_base = bind(index * rows * columns)
            first = bind(tirx.truncmod(unit, tiles) * _ROWS)

            def block(row: Expr, column: Expr, tile: int, lanes: int, vectors: int) -> None:
                sums = Registers(tile * vectors, "float32x4" if lanes == 4 else "float32")
                sums.fill(tile * vectors, 0.0)
                with T.serial(0, depth) as i:
                    at = b_base + i * tir(b.row) + column
                    values = [bind(load(right, at + 4 * v) if lanes == 4 else right[at + v]) for v in range(vectors)]
                    for r in range(tile):
                        factor = left[a_base + (row + r) * tir(a.row) + i * tir(a.column)]
                        if lanes == 4:
                            factor = splat(factor, "float32x4")
                        for v in range(vectors):
                            sums[r * vectors + v] = sums[r * vectors + v] + factor * values[v]
                for r in range(tile):
                    for v in range(vectors):
                        at = c_base + (row + r) * columns + column + lanes * v
                        store(output, at, sums[r * vectors + v], lanes)

            def row_block(row: Expr, tile: int) -> None:
                whole = bind(tirx.truncdiv(columns, _COLUMNS))
                with T.serial(0, whole) as j:
                    block(row, j * _COLUMNS, tile, 4, _COLUMNS // 4)
                with T.serial(0, columns - whole * _COLUMNS) as j:
                    block(row, whole * _COLUMNS + j, tile, 1, 1)

            with T.If(first + _ROWS <= rows):
                with T.Then():
                    row_block(first, _ROWS)
                with T.Else(), T.serial(0, rows - first) as r:
                    row_block(first + r, 1)
    return builder.func
