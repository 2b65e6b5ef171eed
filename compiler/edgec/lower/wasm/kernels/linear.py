"""Quantized linear layers: `y[m, n] = epilogue(sum_k a[m, k] * w[n, k])`, W4A8 to W8A8.

Weights are in tile order with blocks in turns (`codes.py`), activations from `quantize.py`. A span is what shares a
scale: one group of 32 features, several, or the whole row. Per span the dot product of codes is exact,

    d = sum(a * q) - zero / (16 * unit) * sum(a)
    y += (d * (scale * unit)) * activation_scale

and after all spans, for each outlier of the row, `y += q * scale * outlier`; sum(a) counts outliers too. Spans
and outliers are added in order, so one row's result depends neither on the tile nor on the ISA.
float16 scales are used without conversion: their bits, shifted into a float32, are the value times
2^-112, and the quantizer folds 2^112 into the activation's scale. Powers of two are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.ir.compressed import GROUP, ROWS
from edgec.lower.wasm.kernels.builder import (
    Buffer,
    Expr,
    KernelBuilder,
    PrimFunc,
    Registers,
    bind,
    load,
    splat,
    window,
)
from edgec.lower.wasm.kernels.codes import CodeFormat, place_of_group
from edgec.lower.wasm.kernels.dot import DotAccumulators, activation_element, holds_large_tiles
from edgec.lower.wasm.kernels.epilogue import PLAIN, Epilogue, Finish, for_each_tile, padded
from edgec.lower.wasm.kernels.experts import Pairs, for_each_pair
from edgec.lower.wasm.kernels.outliers import TABLE_ROWS, Outliers, scale_at
from edgec.lower.wasm.kernels.quantize import ROW_TILE, QuantizedBuffers
from edgec.lower.wasm.target import Isa

_OneSpan = Callable[[Expr, Expr, int | Expr], None]  # number of the span, its first group, how many


def linear(
    isa: Isa,
    *,
    bits: int,
    rows: int | None = None,
    columns: int | None = None,
    epilogue: Epilogue = PLAIN,
    output_stride: int | None = None,
    outliers: bool = True,
    pairs: Pairs | None = None,
    span: int | None = 1,
    tables: bool = False,
) -> PrimFunc:
    """Parameters: quantized activations (5 buffers, 3 without `outliers`), codes, scales, zeros, [bias], [residual],
    [tables], output, m.

    With `tables` (`outliers.table_bytes`), outliers of many rows take less time.

    `bits` is 4, 7 or 8, `span` the groups of a span, None for all of a row.

    `rows` counts weight rows, gate and up together when gated. Outputs (and the residual) have
    `output_stride` floats per row, by default the output rows rounded up to 8; with a smaller one
    the last block is written lane by lane.

    Without `rows` and `columns` one kernel serves all shapes (a network of many shapes compiles
    faster): after m it takes `outputs`, which is also the output stride, and `groups`.

    With `pairs`, `rows` are one expert's, m counts pairs and the parameter before output is the chosen experts;
    the blocks of all experts together are an even number.
    """
    groups: int | Expr
    outputs: int | Expr
    stride: int | Expr
    form = CodeFormat(bits)
    with KernelBuilder() as k:
        activations = QuantizedBuffers.declare(k, activation_element(isa), outliers=outliers)
        codes = k.buffer("weight_codes", "int32")
        scales = k.buffer("scales", "uint16")
        zeros = k.buffer("zeros", "uint8")
        bias = k.buffer("bias", "float32") if epilogue.bias else None
        residual = k.buffer("residual", "float32") if epilogue.residual else None
        chosen = k.buffer("chosen", "int32") if pairs is not None else None
        table = k.buffer("table", "float32") if tables else None
        output = k.buffer("output", "float32")
        m = k.scalar("m")
        if rows is None or columns is None:
            assert not epilogue.gated
            outputs, groups = k.scalar("outputs"), k.scalar("groups")
            stride = outputs
        else:
            groups = -(-columns // GROUP)
            outputs = rows // 2 if epilogue.gated else rows
            stride = padded(outputs) if output_stride is None else output_stride
        spans = 1 if span is None else groups if span == 1 else _quotient(groups + (span - 1), span)
        blocks = tirx.truncdiv(outputs + (ROWS - 1), ROWS) if rows is None else -(-outputs // ROWS)
        weight_blocks = None if epilogue.gated or pairs is not None else blocks
        finish = Finish(epilogue, bias, residual, output, outputs, stride)
        taken = (
            Outliers(activations, form, codes, scales, weight_blocks, groups, span, spans, table) if outliers else None
        )
        many = bind(m >= TABLE_ROWS) if tables else None

        def dot_blocks(blocks: Sequence[Expr], row: Expr, tile: int) -> list[Registers]:
            """For each block, 8 weight rows x `tile` activation rows; register 2 * r + half."""
            # Registers hold the integer sums of two blocks of one row, or of one block of several rows.
            together = 2 if tile == 1 else 1
            parts = [blocks[start : start + together] for start in range(0, len(blocks), together)]
            if tile == 1:
                return dot_in_turns(parts, row, tile)
            made = [some for part in parts for some in dot_in_turns([part], row, tile)]
            if taken is None:
                return made
            sums = Registers(2 * tile * len(blocks), "float32x4")  # in memory for a moment: rows take turns in a loop
            each = [(of_block, i) for of_block in made for half in range(2) for i in range(half, 2 * tile, 2)]
            for number, (of_block, i) in enumerate(each):
                sums[number] = of_block[i]
            taken.add(sums, blocks, row, tile, many if tile == ROW_TILE and len(blocks) == 2 else None)
            for number, (of_block, i) in enumerate(each):
                of_block[i] = sums[number]
            return made

        def dot_in_turns(parts: Sequence[Sequence[Expr]], row: Expr, tile: int) -> list[Registers]:
            made = [dot_together(part, row, tile) for part in parts]
            sums = [some for of_part, _ in made for some in of_part]
            products = None
            if tile == 1 and taken is not None:
                products, up_to = taken.along([block for part in parts for block in part], row)

            def one_span(number: Expr, first: Expr, count: int | Expr) -> None:
                for _, of_part in made:
                    of_part(number, first, count)
                if products is not None:
                    up_to(first + count)

            if span is None:
                one_span(T.int32(0), T.int32(0), groups)
            elif span == 1:
                with T.serial(0, groups) as group:
                    one_span(group, group, 1)
            else:
                with T.serial(0, spans) as number:
                    first = bind(number * span)
                    even = isinstance(groups, int) and groups % span == 0
                    one_span(number, first, span if even else bind(tirx.min(span, groups - first)))
            if products is not None:
                for b, of_block in enumerate(sums):
                    for half in range(2):
                        of_block[half] = of_block[half] + products[2 * b + half]
            return sums

        def dot_together(blocks: Sequence[Expr], row: Expr, tile: int) -> tuple[list[Registers], _OneSpan]:
            """The sums of some blocks, and what adds a span to them."""
            sums = [Registers(tile * 2, "float32x4") for _ in blocks]
            dots = [DotAccumulators(isa, bits, tile * 2, several=span != 1, in_order=tile > 1) for _ in blocks]
            places = [place_of_group(weight_blocks, groups, block) for block in blocks]
            span_places = places if span == 1 else [place_of_group(weight_blocks, spans, block) for block in blocks]
            for some in sums:
                some.fill(tile * 2, 0.0)

            def one_span(number: Expr, first: Expr, count: int | Expr) -> None:
                at = [bind(place(number)) for place in span_places]
                here = at if span == 1 else [bind(place(first)) for place in places]
                next_group = [
                    1 if span == 1 else bind(place(first + 1) - at) for place, at in zip(places, here, strict=True)
                ]
                weights = [window(codes, place * form.words) for place in here]
                inputs = _rows_of(activations, row, first, groups, tile)
                factors = [activations.factors_of(row + r, number, spans) for r in range(tile)]
                some_codes = [_Codes(*some) for some in zip(weights, next_group, strict=True)]
                _accumulate_codes(dots, form, some_codes, inputs, tile, count)
                for b, of_block in enumerate(sums):
                    parameters = at[b] * ROWS
                    scale = [bind(form.scaled(scale_at(scales, parameters + 4 * half))) for half in range(2)]
                    zero = [bind(form.zero(load(zeros, parameters + 4 * half))) for half in range(2)]
                    for r in range(tile):
                        factor, code_sum = (bind(splat(of[0], "float32x4")) for of in factors[r])
                        for half in range(2):
                            i = 2 * r + half
                            exact = T.Cast("float32x4", dots[b].result(i)) - zero[half] * code_sum
                            of_block[i] = of_block[i] + exact * scale[half] * factor

            return sums, one_span

        if pairs is not None:
            for_each_pair(blocks, m, finish, dot_blocks, chosen, pairs)
        else:

            def prepare(pair: Expr) -> None:
                assert taken is not None
                with T.If(many), T.Then():
                    taken.fill_table(pair)

            large = not outliers and holds_large_tiles(isa, bits)
            for_each_tile(blocks, m, finish, dot_blocks, large=large, prepare=prepare if tables else None)
    return k.func


def _rows_of(activations: QuantizedBuffers, row: Expr, group: Expr, groups: int | Expr, tile: int) -> list[Buffer]:
    """Codes of a group, for each of `tile` rows."""
    if tile == ROW_TILE:  # they lie side by side
        first = activations.codes_of(row, group, groups)
        return [window(first, r) for r in range(tile)]
    return [activations.codes_of(row + r, group, groups) for r in range(tile)]


def _quotient(value: int | Expr, by: int) -> int | Expr:
    return value // by if isinstance(value, int) else bind(tirx.truncdiv(value, by))


@dataclass(frozen=True)
class _Codes:
    """Codes of a block, a window at the first group of a span. The next group is `step` places on."""

    buffer: Buffer
    step: Expr


def _accumulate_codes(
    dots: Sequence[DotAccumulators],
    form: CodeFormat,
    codes: Sequence[_Codes],
    activations: Sequence[Buffer],
    tile: int,
    count: int | Expr,
) -> None:
    """`dots` = sums over the `count` groups of a span of codes times codes of `tile` rows, for some blocks; buffers are
    windows at the first.
    """
    for some in dots:
        some.clear()

    def step(codes: Sequence[Buffer], activations: Sequence[Buffer]) -> None:
        """Four features of each part."""
        of_parts = [some.weights(form, block) for some, block in zip(dots, codes, strict=True)]
        for part in range(2):
            weights = [[[bind(w) for w in vectors] for vectors in of_part(part)] for of_part in of_parts]
            for factor in range(dots[0].factors):
                for r in range(tile):
                    row = bind(dots[0].repeated(activations[r], part * ROW_TILE, factor))
                    for some, block in zip(dots, weights, strict=True):
                        for half in range(2):
                            some.add(2 * r + half, row, block[half][factor])

    def one_group(codes: Sequence[Buffer], activations: Sequence[Buffer]) -> None:
        for t in range(4):
            here = [window(block, t * form.step_words) for block in codes]
            step(here, [window(row, t * (2 * ROW_TILE)) for row in activations])

    one_group([block.buffer for block in codes], activations)
    if isinstance(count, int) and count == 1:
        return
    with T.serial(1, count) as group:
        for some in dots:
            some.next_group()
        blocks = [window(block.buffer, group * block.step * form.words) for block in codes]
        one_group(blocks, [window(row, group * GROUP) for row in activations])
