"""What outliers of activations add to the sums of a linear layer: `y += q * scale * outlier`, in the order of features.

After all else, so that the loop over codes need not ask for them (docs/decisions/0039-lists-of-outliers.md). A few rows
find the codes of a feature among the weights. For many rows, all codes of a pair of blocks become floats first: a table
of 16 of them per feature. Both give the same bits, `q * scale` is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.ir.compressed import GROUP, ROWS
from edgec.lower.wasm.abi import THREAD
from edgec.lower.wasm.kernels.builder import Buffer, Expr, Registers, bind, load, splat, store, window
from edgec.lower.wasm.kernels.codes import CodeFormat, place_of_group
from edgec.lower.wasm.kernels.quantize import QuantizedBuffers, groups_of

TABLE_ROWS = 32  # from so many rows on a table pays


def table_bytes(columns: int, threads: int) -> int:
    """Size of the tables of all threads."""
    return 4 * 2 * ROWS * groups_of(columns) * GROUP * threads


@dataclass(frozen=True)
class Outliers:
    """Of `activations`, for weights in `blocks` blocks (None: an even number) of `groups` groups, with `spans` spans of
    `span` groups (None: of all)."""

    activations: QuantizedBuffers
    form: CodeFormat
    codes: Buffer
    scales: Buffer
    blocks: int | Expr | None
    groups: int | Expr
    span: int | None
    spans: int | Expr
    table: Buffer | None

    def fill_table(self, pair: Expr) -> None:
        """The floats of blocks `2 * pair` and `2 * pair + 1`."""
        assert self.table is not None
        places = [place_of_group(self.blocks, self.groups, pair * 2 + b) for b in range(2)]
        span_places = [place_of_group(self.blocks, self.spans, pair * 2 + b) for b in range(2)]
        with T.serial(0, self.groups) as group:
            number = self._span_of(group)
            codes = [window(self.codes, place(group) * self.form.words) for place in places]
            factors = [bind(place(number) * ROWS) for place in span_places]
            scales = [self._scale(factor, half) for factor in factors for half in range(2)]
            rows = window(self.table, self._table_at(group * GROUP))
            with T.serial(0, 4) as t:
                target = window(rows, t * (GROUP // 4 * 2 * ROWS))
                steps = [window(block, t * self.form.step_words) for block in codes]
                for i, scale in enumerate(scales):
                    for feature, value in enumerate(self.form.floats(steps[i // 2], i % 2)):
                        store(target, feature * 2 * ROWS + 4 * i, value * scale)

    def add(self, sums: Registers, blocks: Sequence[Expr], row: Expr, rows: int, many: Expr | None) -> None:
        """To the sums of one or two blocks and `rows` rows, register `(2 * block + half) * rows + r`. `many`: whether
        the table holds these blocks.
        """
        with T.serial(0, rows) as r:
            count, values, places = self.activations.outliers_of(row + r, self.groups)
            products = Registers(2 * len(blocks), "float32x4")
            products.fill(2 * len(blocks), 0.0)

            def one_by_one() -> None:
                with T.serial(0, count) as number:
                    self._add_one(products, blocks, places[number], values[number])

            if many is None:
                one_by_one()
            else:
                with T.If(many):
                    with T.Then(), T.serial(0, count) as number:
                        self._add_from_table(products, places[number], values[number])
                    with T.Else():
                        one_by_one()
            for i in range(2 * len(blocks)):
                sums[i * rows + r] = sums[i * rows + r] + products[i]

    def along(self, blocks: Sequence[Expr], row: Expr) -> tuple[Registers, Callable[[Expr], None]]:
        """For a single row, whose groups are being multiplied, so that weights are read once: the products so far, of
        `2 * block + half`, and what adds those of all groups before one.
        """
        _, values, places = self.activations.outliers_of(row, self.groups)
        products = Registers(2 * len(blocks), "float32x4")
        products.fill(2 * len(blocks), 0.0)
        done = Registers(1, "int32")
        done[0] = T.int32(0)

        def up_to(group: Expr) -> None:
            with T.While(places[done[0]] < group * GROUP):
                number = bind(done[0])
                self._add_one(products, blocks, places[number], values[number])
                done[0] = number + 1

        return products, up_to

    def _add_one(self, products: Registers, blocks: Sequence[Expr], place: Expr, value: Expr) -> None:
        place = bind(place)
        group = bind(T.shift_right(place, T.int32(5)))
        span = self._span_of(group)
        feature = self.form.feature(place, value)
        for b, block in enumerate(blocks):
            codes = window(self.codes, place_of_group(self.blocks, self.groups, block)(group) * self.form.words)
            factors = bind(place_of_group(self.blocks, self.spans, block)(span) * ROWS)
            for half in range(2):
                i = 2 * b + half
                products[i] = products[i] + feature.codes(codes, half) * self._scale(factors, half) * feature.value

    def _add_from_table(self, products: Registers, place: Expr, value: Expr) -> None:
        floats = window(self.table, self._table_at(place))
        value = bind(splat(value, "float32x4"))
        for i in range(4):
            products[i] = products[i] + load(floats, 4 * i) * value

    def _table_at(self, feature: Expr) -> Expr:
        return (THREAD * (self.groups * GROUP) + feature) * (2 * ROWS)

    def _span_of(self, group: Expr) -> Expr:
        if self.span is None:
            return T.int32(0)
        return group if self.span == 1 else bind(tirx.truncdiv(group, self.span))

    def _scale(self, index: Expr, half: int) -> Expr:
        return bind(self.form.scaled(scale_at(self.scales, index + 4 * half)))


def scale_at(scales: Buffer, index: Expr) -> Expr:
    """Four float16 scales as float32 times 2^-112."""
    bits = T.shift_left(T.Cast("int32x4", load(scales, index)), T.Broadcast(T.int32(13), 4))
    return T.reinterpret("float32x4", bits)
