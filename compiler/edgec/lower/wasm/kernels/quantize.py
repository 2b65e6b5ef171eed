"""Dynamic int8 quantization of activations, alone or fused behind a normalization.

Per row and span of features (one group of 32, several, or the whole row: what shares a scale of the weights,
docs/decisions/0023-spans.md): `scale = max |x| / 127`, `a = nearest(x * (127 / max |x|))`. Where one
outlier dominates a group (max |x| > 3 times the root mean square) it is taken out first, and then a
second one if there is: they stay float32, `linear` adds them one by one, and the rest of the span
keeps its precision (docs/decisions/0006-outliers-one-by-one.md).

Stored per group: 32 codes (int8, or int16 for plain SIMD) and two outliers, value times
2^112 and place in the tile of weights (see `place_of`; -1: none); per span the scale times 2^112 (see `linear.py`) and
the sum of the codes and of the outliers in steps of the scale, divided by 16, as float32. Without outliers, which
graphs do without (docs/decisions/0012-graphs-without-outliers.md), there are no such buffers. Four rows lie side by
side, in tiles that `linear` reads as vectors:

    codes            [rows / 4, groups, 4, 2, 4, 4]   tile, group, t, part, row, j: feature 16 * part + 4 * t + j,
                                                      j in the order of `Isa.activation_order`
    scales, sums     [rows / 4, spans, 4]             tile, span, row
    outliers, places [rows / 4, groups, 2, 4]         tile, group, number, row

Features past the row's end are zero. Magnitudes below 1e-30 count as zero, those from 32768 on are
never taken out (they would overflow), up to 1e6 is safe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.ir.compressed import GROUP
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
    load,
    splat,
    store,
    tree_max,
    tree_sum,
    window,
)
from edgec.lower.wasm.target import Isa

ROW_TILE = 4  # rows side by side
SCALE_FACTOR = 2.0**112
OUTLIERS = 2  # per group at most
OUTLIER_CREST = 3.0  # peak over root mean square
OUTLIER_LIMIT = 32768.0  # times 2^112 this is still a float32
OUTLIER_RANGE = 2.0**-10  # the rest is quantized as if it reached this part of the outlier at least


@dataclass(frozen=True)
class QuantizedBuffers:
    """Quantized activations, as a kernel writes or reads them."""

    codes: Buffer
    scales: Buffer
    sums: Buffer
    outliers: Buffer | None
    places: Buffer | None

    @classmethod
    def declare(cls, k: KernelBuilder, codes: str, *, outliers: bool = True) -> QuantizedBuffers:
        """Five parameters, or three without `outliers`; `codes` is the dtype of the buffer of codes."""
        return cls(
            k.buffer("codes", codes),
            k.buffer("code_scales", "float32"),
            k.buffer("code_sums", "float32"),
            k.buffer("outliers", "float32") if outliers else None,
            k.buffer("outlier_places", "int32") if outliers else None,
        )

    def codes_of(self, row: Expr, group: Expr, groups: int | Expr) -> Buffer:
        """Codes of a group from `row` on: the first row of a tile, or any single one. Elements of 4 codes, those of the
        next group are GROUP elements on.
        """
        at = tirx.truncdiv(row, ROW_TILE) * groups + group
        return window(self.codes, at * GROUP + tirx.truncmod(row, ROW_TILE))

    def factors_of(self, row: Expr, span: Expr, spans: int | Expr) -> tuple[Buffer, Buffer]:
        """Scales and sums of a span from `row` on."""
        at = bind((tirx.truncdiv(row, ROW_TILE) * spans + span) * ROW_TILE + tirx.truncmod(row, ROW_TILE))
        return window(self.scales, at), window(self.sums, at)

    def outliers_of(self, row: Expr, group: Expr, groups: int | Expr) -> tuple[Buffer, Buffer] | None:
        """Outliers and their places of a group from `row` on; neighbours in a buffer are 4 apart."""
        if self.outliers is None or self.places is None:
            return None
        at = bind(
            (tirx.truncdiv(row, ROW_TILE) * groups + group) * (OUTLIERS * ROW_TILE) + tirx.truncmod(row, ROW_TILE)
        )
        return window(self.outliers, at), window(self.places, at)


def place_of(feature: Expr) -> Expr:
    """Where the codes of a feature of a group lie in a tile block's group (`edgec/ir/compressed.py`).

    Bits 5 and up: first int32 of the vector of rows 0 ... 3. Bits 0 to 4: left shift of the int32 that brings
    the code to its top.
    """
    t = T.bitwise_and(T.shift_right(feature, T.int32(2)), T.int32(3))
    j = T.bitwise_and(feature, T.int32(3))
    part = T.shift_right(feature, T.int32(4))
    return t * (8 * 32) + (28 - j * 8 - part * 4)


@dataclass(frozen=True)
class Span:
    """Features of a row that share a scale: `whole` groups of 32, and `tail` features of one that is not whole."""

    number: Expr
    first: Expr  # group
    whole: int
    tail: int = 0

    @property
    def count(self) -> int:
        return self.whole + (self.tail > 0)

    def for_each_group(self, emit: Callable[[Expr, int], None]) -> None:
        """Call `emit(group, width)`, groups counted from the span's first."""
        if self.whole == 1:
            emit(T.int32(0), GROUP)
        elif self.whole:
            with T.serial(0, self.whole) as group:
                emit(group, GROUP)
        if self.tail:
            emit(T.int32(self.whole), self.tail)


Fill = Callable[[Floats, Expr, int], None]  # the values of a group of the row, `width` of them and zeros


def quantize_span(
    isa: Isa, target: QuantizedBuffers, row: Expr, span: Span, columns: int, size: int, fill: Fill
) -> None:
    """Quantize a span of a row of `columns` features in spans of `size` groups. `fill` is called twice for each group
    where there are several and no outliers.
    """
    lane = bind(tirx.truncmod(row, ROW_TILE))
    tile = tirx.truncdiv(row, ROW_TILE)
    index = bind(tile * groups_of(columns) + span.first)
    place = bind((tile * spans_of(columns, size) + span.number) * ROW_TILE + lane)
    with_outliers = target.outliers is not None
    staged = with_outliers or span.count == 1
    values = Floats(GROUP * (span.count if staged else 1))

    def group_values(group: Expr) -> Floats:
        return values.part(group * GROUP) if staged and span.count > 1 else values

    taken = None
    if target.outliers is not None and target.places is not None:
        outliers, places = target.outliers, target.places
        largest = Registers(2, "float32")  # peak, sum of outliers
        largest.fill(2, 0.0)

        def take(group: Expr, width: int) -> None:
            start = bind((index + group) * (OUTLIERS * ROW_TILE) + lane)
            fill(group_values(group), span.first + group, width)
            rest, sum_ = _take_outliers(group_values(group), window(outliers, start), window(places, start))
            largest[0] = tirx.max(largest[0], rest)
            largest[1] = largest[1] + sum_

        span.for_each_group(take)
        peak, taken = bind(largest[0]), bind(largest[1])
    else:
        peaks = Registers(1, "float32x4")
        peaks.fill(1, 0.0)

        def measure(group: Expr, width: int) -> None:
            fill(group_values(group), span.first + group, width)
            peaks[0] = tirx.max(peaks[0], _magnitudes(group_values(group)))

        span.for_each_group(measure)
        lanes = Floats(4)
        lanes.set_vector(0, peaks[0])
        peak = bind(tree_max([lanes[i] for i in range(4)]))
    tiny = bind(peak < T.float32(1e-30))
    inverse = bind(tirx.Select(tiny, T.float32(0.0), T.float32(127.0) / peak))
    step = bind(tirx.Select(tiny, T.float32(0.0), peak / T.float32(127.0)))
    store(target.scales, place, step * T.float32(SCALE_FACTOR), 1)
    total = Registers(1, "int32x4")
    total.fill(1, 0)

    def round_group(group: Expr, width: int) -> None:
        part = group_values(group)
        if not staged:
            fill(part, span.first + group, width)
        for i in range(0, GROUP, 4):
            code = bind(math.nearest_integer(part.vector(i) * splat(inverse, "float32x4")))
            element = (i % 16 // 4 * 2 + i // 16) * ROW_TILE
            at = ((index + group) * GROUP + element + lane) * 4
            store(target.codes, at, T.Cast(f"{isa.activation_dtype}x4", reordered(code, isa)))
            total[0] = total[0] + code

    span.for_each_group(round_group)
    sums = Integers(4)
    sums.set_vector(0, total[0])
    codes = T.Cast("float32", tree_sum([sums[i] for i in range(4)]))
    codes = codes if taken is None else codes + taken * inverse
    store(target.sums, place, codes * T.float32(1 / 16), 1)


def reordered(four: Expr, isa: Isa) -> Expr:
    """Four codes of a row in the order of memory, or back."""
    return tirx.Shuffle([four], [tirx.const(i, "int32") for i in isa.activation_order]) if not isa.relaxed_dot else four


def _take_outliers(values: Floats, outliers: Buffer, places: Buffer) -> tuple[Expr, Expr]:
    """Moves outliers out of `values`. Returns the peak that the rest is quantized for, and the sum of the outliers."""
    measured = Registers(2, "float32")  # peak, energy
    found = Registers(2, "float32")  # smallest peak of the rest, sum
    found.fill(2, 0.0)
    lanes = Floats(4)

    def measure() -> None:
        measured[0] = _peak(values, lanes)
        lanes.set_vector(0, tree_sum([values.vector(i) * values.vector(i) for i in range(0, GROUP, 4)]))
        measured[1] = tree_sum([lanes[i] for i in range(4)])

    measure()
    for number in range(OUTLIERS):
        peak = bind(measured[0])
        dominates = peak * peak * T.float32(GROUP / OUTLIER_CREST**2) > measured[1]
        with T.If(tirx.all(dominates, peak >= T.float32(1e-30), peak < T.float32(OUTLIER_LIMIT))):
            with T.Then():
                feature = bind(_last_equal(values, peak))
                value = bind(values[feature])
                store(places, number * ROW_TILE, place_of(feature), 1)
                store(outliers, number * ROW_TILE, value * T.float32(SCALE_FACTOR), 1)
                if number == 0:
                    found[0] = peak * T.float32(OUTLIER_RANGE)
                found[1] = found[1] + value
                values[feature] = T.float32(0.0)
                measure()
            with T.Else():
                store(places, number * ROW_TILE, T.int32(-1), 1)
    return bind(tirx.max(measured[0], found[0])), bind(found[1])


def _peak(values: Floats, lanes: Floats) -> Expr:
    """Largest magnitude of the 32 values; `lanes` are for its own use."""
    lanes.set_vector(0, _magnitudes(values))
    return tree_max([lanes[i] for i in range(4)])


def _magnitudes(values: Floats) -> Expr:
    """`float32x4`, the largest of every fourth magnitude of 32 values."""
    return tree_max([tirx.abs(values.vector(i)) for i in range(0, GROUP, 4)])


def _last_equal(values: Floats, peak: Expr) -> Expr:
    """Index of the last of 32 values whose magnitude is `peak`; there is one."""
    four = splat(peak, "float32x4")
    found = None
    for i in range(0, GROUP, 4):
        equal = tirx.Select(tirx.EQ(tirx.abs(values.vector(i)), four), splat(-1, "int32x4"), splat(0, "int32x4"))
        bits = T.call_llvm_pure_intrin("int32", "llvm.wasm.bitmask.v4i32", equal)
        found = bits if found is None else T.bitwise_or(found, T.shift_left(bits, T.int32(i)))
    return T.int32(GROUP - 1) - T.clz(bind(found))


def quantized_bytes(columns: int, rows: int, *, outliers: bool = True, span: int = 1) -> dict[str, int]:
    """Sizes of the buffers for `rows` rows. All ISAs share one memory plan (int16 codes)."""
    padded = -(-rows // ROW_TILE) * ROW_TILE
    groups, spans = groups_of(columns) * padded, spans_of(columns, span) * padded
    sizes = {"codes": 2 * GROUP * groups, "scales": 4 * spans, "sums": 4 * spans}
    return {**sizes, **dict.fromkeys(("outliers", "places"), 4 * OUTLIERS * groups)} if outliers else sizes


def row_bytes(columns: int, *, outliers: bool = True, span: int = 1) -> int:
    """What one row takes of the buffers."""
    return sum(quantized_bytes(columns, ROW_TILE, outliers=outliers, span=span).values()) // ROW_TILE


def groups_of(columns: int) -> int:
    return -(-columns // GROUP)


def spans_of(columns: int, span: int) -> int:
    """Spans of `span` groups."""
    return -(-groups_of(columns) // span)


def for_each_span(columns: int, size: int, emit: Callable[[Span], None]) -> None:
    """Call `emit` in a loop over spans of `size` whole groups, then for what is left of the row."""
    groups, rest = divmod(columns, GROUP)
    whole, left = divmod(groups, size)
    if whole == 1:
        emit(Span(T.int32(0), T.int32(0), size))
    elif whole:
        with T.serial(0, whole) as number:
            emit(Span(number, number * size, size))
    if left or rest:
        emit(Span(T.int32(whole), T.int32(whole * size), left, rest))


def fill_group(values: Floats, width: int, read: Callable[[int, int], Expr]) -> None:
    """`values[i:i+4] = read(i, 4)` (or scalar `read(i, 1)` in a ragged tail), zeros past `width`."""
    for i in range(0, GROUP, 4):
        if i + 4 <= width:
            values.set_vector(i, read(i, 4))
            continue
        for j in range(i, i + 4):
            values[j] = read(j, 1) if j < width else T.float32(0.0)


def quantize(isa: Isa, *, columns: int, stride: int, outliers: bool = True, span: int = 1) -> PrimFunc:
    """Parameters: input (`stride` floats per row), quantized buffers, m. Spans are of `span` groups."""
    with KernelBuilder() as k:
        source = k.buffer("input", "float32")
        target = QuantizedBuffers.declare(k, isa.activation_dtype, outliers=outliers)
        m = k.scalar("m")
        with T.parallel(0, m) as row:

            def fill(values: Floats, group: Expr, width: int) -> None:
                start = bind(row * stride + group * GROUP)
                fill_group(values, width, lambda i, n: load(source, start + i, n) if n > 1 else source[start + i])

            for_each_span(columns, span, lambda some: quantize_span(isa, target, row, some, columns, span, fill))
    return k.func
