"""Dynamic int8 quantization of activations, alone or fused behind a normalization.

Per row and span of features (one group of 32, several, or the whole row: what shares a scale of the weights,
docs/decisions/0023-spans.md): `scale = max |x| / 127`, `a = nearest(x * (127 / max |x|))`. Where one
outlier dominates a group (max |x| > 3 times the root mean square) it is taken out first, and then a
second one if there is: they stay float32, `linear` adds them one by one, and the rest of the span
keeps its precision (docs/decisions/0006-outliers-one-by-one.md).

Stored per group: 32 codes (int8, or int16 for plain SIMD); per span the scale times 2^112 (see `linear.py`) and
the sum of the codes and of the outliers in steps of the scale, divided by 16, as float32. Four rows lie side by
side, in tiles that `linear` reads as vectors. Outliers are a list per row (docs/decisions/0039-lists-of-outliers.md),
values times 2^112 and places (see `place_of`) behind their number. Without outliers, which
graphs do without (docs/decisions/0012-graphs-without-outliers.md), there are no such buffers:

    codes            [rows / 4, groups, 4, 2, 4, 4]   tile, group, t, part, row, j: feature 16 * part + 4 * t + j,
                                                      j in the order of `Isa.activation_order`
    scales, sums     [rows / 4, spans, 4]             tile, span, row
    outliers         [rows, 2 * groups + 2]           from the second one on
    places           [rows, 2 * groups + 2]           their number, the places, one beyond all others

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
    KernelBuilder,
    PrimFunc,
    Registers,
    bind,
    largest_lane,
    load,
    splat,
    store,
    sum_of_lanes,
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

    def outliers_of(self, row: Expr, groups: int | Expr) -> tuple[Expr, Buffer, Buffer]:
        """Number, values and places of the outliers of a row."""
        assert self.outliers is not None and self.places is not None
        start = bind(row * _list_length(groups))
        return bind(self.places[start]), window(self.outliers, start + 1), window(self.places, start + 1)


def _list_length(groups: int | Expr) -> int | Expr:
    return groups * OUTLIERS + 2


def place_of(group: Expr, feature: Expr) -> Expr:
    """Where the codes of a feature of a group are (`codes.py`): the group from bit 5 on, t from 3, j from 1, part."""
    t = T.shift_left(T.bitwise_and(T.shift_right(feature, T.int32(2)), T.int32(3)), T.int32(3))
    j = T.shift_left(T.bitwise_and(feature, T.int32(3)), T.int32(1))
    return group * GROUP + t + j + T.shift_right(feature, T.int32(4))


def feature_at(place: Expr) -> Expr:
    """The feature of the row whose place is `place`."""
    t = T.shift_right(T.bitwise_and(place, T.int32(24)), T.int32(1))
    j = T.shift_right(T.bitwise_and(place, T.int32(6)), T.int32(1))
    part = T.shift_left(T.bitwise_and(place, T.int32(1)), T.int32(4))
    return T.bitwise_and(place, T.int32(-GROUP)) + part + t + j


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


class _Found:
    """The list of outliers of a row, as it grows."""

    def __init__(self, target: QuantizedBuffers, row: Expr, groups: int) -> None:
        assert target.outliers is not None and target.places is not None
        start = bind(row * _list_length(groups))
        self._values, self._places = window(target.outliers, start), window(target.places, start)
        self._count = Registers(1, "int32")
        self._count[0] = T.int32(0)

    def append(self, value: Expr, place: Expr) -> None:
        self._count[0] = self._count[0] + 1
        store(self._values, self._count[0], value * T.float32(SCALE_FACTOR), 1)
        store(self._places, self._count[0], place, 1)

    def end(self) -> None:
        store(self._places, 0, self._count[0], 1)
        store(self._places, self._count[0] + 1, T.int32(2**31 - 1), 1)


def quantize_row(isa: Isa, target: QuantizedBuffers, row: Expr, columns: int, size: int, fill: Fill) -> None:
    """Quantize a row of `columns` features in spans of `size` groups."""
    found = None if target.outliers is None else _Found(target, row, groups_of(columns))
    for_each_span(columns, size, lambda span: quantize_span(isa, target, row, span, columns, size, fill, found))
    if found is not None:
        found.end()


def quantize_span(
    isa: Isa,
    target: QuantizedBuffers,
    row: Expr,
    span: Span,
    columns: int,
    size: int,
    fill: Fill,
    found: _Found | None = None,
) -> None:
    """Quantize a span of a row of `columns` features in spans of `size` groups, without outliers if there is no list of
    what is `found`. `fill` is called twice for each group where there are several and no outliers.
    """
    lane = bind(tirx.truncmod(row, ROW_TILE))
    tile = tirx.truncdiv(row, ROW_TILE)
    index = bind(tile * groups_of(columns) + span.first)
    place = bind((tile * spans_of(columns, size) + span.number) * ROW_TILE + lane)
    staged = found is not None or span.count == 1
    values = Floats(GROUP * (span.count if staged else 1))

    def group_values(group: Expr) -> Floats:
        return values.part(group * GROUP) if staged and span.count > 1 else values

    taken = None
    if found is not None:
        largest = Registers(2, "float32")  # peak, sum of outliers
        largest.fill(2, 0.0)

        def take(group: Expr, width: int) -> None:
            fill(group_values(group), span.first + group, width)
            rest, sum_ = _take_outliers(group_values(group), span.first + group, found)
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
        peak = largest_lane(peaks[0])
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
    codes = T.Cast("float32", sum_of_lanes(total[0]))
    codes = codes if taken is None else codes + taken * inverse
    store(target.sums, place, codes * T.float32(1 / 16), 1)


def reordered(four: Expr, isa: Isa) -> Expr:
    """Four codes of a row in the order of memory, or back."""
    return tirx.Shuffle([four], [tirx.const(i, "int32") for i in isa.activation_order]) if not isa.relaxed_dot else four


def _take_outliers(values: Floats, group: Expr, found: _Found) -> tuple[Expr, Expr]:
    """Moves outliers out of `values`, those of a group, into the list. Returns the peak that the rest is quantized for,
    and the sum of the outliers.
    """
    measured = Registers(2, "float32")  # peak, energy
    bounds = Registers(2, "float32")  # smallest peak of the rest, sum
    bounds.fill(2, 0.0)

    def measure() -> None:
        measured[0] = largest_lane(_magnitudes(values))
        measured[1] = sum_of_lanes(tree_sum([values.vector(i) * values.vector(i) for i in range(0, GROUP, 4)]))

    measure()
    for number in range(OUTLIERS):
        peak = bind(measured[0])
        dominates = peak * peak * T.float32(GROUP / OUTLIER_CREST**2) > measured[1]
        with T.If(tirx.all(dominates, peak >= T.float32(1e-30), peak < T.float32(OUTLIER_LIMIT))), T.Then():
            feature = bind(_last_equal(values, peak))
            value = bind(values[feature])
            found.append(value, place_of(group, feature))
            if number == 0:
                bounds[0] = peak * T.float32(OUTLIER_RANGE)
            bounds[1] = bounds[1] + value
            values[feature] = T.float32(0.0)
            measure()
    return bind(tirx.max(measured[0], bounds[0])), bind(bounds[1])


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
    lists = 4 * _list_length(groups_of(columns)) * padded
    return {**sizes, "outliers": lists, "places": lists} if outliers else sizes


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

            quantize_row(isa, target, row, columns, span, fill)
    return k.func
