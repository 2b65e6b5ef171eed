"""Linear, normalization and quantization kernels against plain numpy: odd sizes, tails, guard bytes."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgec.compress.dequantize import dequantize
from edgec.compress.matrix import pack_matrix
from edgec.compress.quantize.rtn import RoundToNearest
from edgec.ir.compressed import GROUP, PackedTensor
from edgec.lower.wasm.kernels.codes import in_turns
from edgec.lower.wasm.kernels.epilogue import Epilogue, padded
from edgec.lower.wasm.kernels.linear import linear
from edgec.lower.wasm.kernels.linear_float import linear_float, pack_float
from edgec.lower.wasm.kernels.norm import norm, norm_parts
from edgec.lower.wasm.kernels.outliers import TABLE_ROWS, table_bytes
from edgec.lower.wasm.kernels.quantize import OUTLIER_CREST, OUTLIERS, ROW_TILE, SCALE_FACTOR, quantize, quantized_bytes
from edgec.lower.wasm.target import ISAS, RELAXED, SIMD128, Isa
from edgec.lower.wasm.weights import byte_codes, gather_rows, interleaved_order
from tests.lower.kernel_runner import KernelRunner

Floats = npt.NDArray[np.float32]
EACH = list(ISAS.values())


def random_floats(seed: int, *shape: int) -> Floats:
    """Normal, with one large outlier in every tenth row of 32, two in some and three in a few."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape).astype(np.float32)
    flat = values.reshape(-1)
    flat[::317] *= 40
    flat[3::633] *= 25
    flat[5::633] *= 30
    return values


def quantized_buffers(
    isa: Isa, columns: int, rows: int, *, outliers: bool = True, span: int = 1
) -> list[npt.NDArray[Any]]:
    sizes = quantized_bytes(columns, rows, outliers=outliers, span=span)
    codes = np.zeros(sizes.pop("codes") // 2, np.int16)
    return [
        codes if not isa.relaxed_dot else codes.view(np.int8)[: codes.size],
        *(np.zeros(size // 4, np.int32 if part == "places" else np.float32) for part, size in sizes.items()),
    ]


def dequantized_activations(
    buffers: list[npt.NDArray[Any]], columns: int, rows: int, span: int = 1
) -> npt.NDArray[np.float64]:
    """Codes times scales plus outliers; checks the sums of codes too."""
    groups, tiles = -(-columns // GROUP), -(-rows // ROW_TILE)
    codes, scales, sums, *taken = buffers
    # tile, group, t, part, row, j -> row, group, part, t, j
    codes = codes.reshape(tiles, groups, 4, 2, ROW_TILE, 4).transpose(0, 4, 1, 3, 2, 5)
    if codes.dtype == np.int16:
        codes = codes[..., SIMD128.activation_order]
    codes = codes.reshape(tiles * ROW_TILE, groups, GROUP)[:rows].astype(np.float64)
    spans = -(-groups // span)
    by_row = [array.reshape(tiles, spans, ROW_TILE).transpose(0, 2, 1) for array in (scales, sums)]
    scales, sums = (array.reshape(tiles * ROW_TILE, spans)[:rows].astype(np.float64) for array in by_row)
    scales = scales * 2.0**-112
    values = codes * np.repeat(scales, span, axis=1)[:, :groups, None]
    if taken:
        outliers, places = (array.reshape(tiles * ROW_TILE, OUTLIERS * groups + 2) for array in taken)
    for row in range(rows if taken else 0):
        count = int(places[row, 0])
        assert (np.diff(places[row, 1 : count + 2] // GROUP) >= 0).all()  # the last one is beyond all groups
        assert places[row, count + 1] >= groups * GROUP
        for place, outlier in zip(places[row, 1 : count + 1], outliers[row, 1:], strict=False):
            group, t, j, part = place // GROUP, place // 8 % 4, place // 2 % 4, place % 2
            feature = 16 * part + 4 * t + j
            assert values[row, group, feature] == 0
            values[row, group, feature] = float(outlier) / SCALE_FACTOR
    summed = np.add.reduceat(values.sum(-1), range(0, groups, span), axis=1)
    np.testing.assert_allclose(16 * sums * scales, summed, rtol=1e-6, atol=1e-6 * np.abs(values).max())
    return np.asarray(values.reshape(rows, groups * GROUP)[:, :columns])


def run_quantize(isa: Isa, x: Floats, *, outliers: bool = True, span: int = 1) -> list[npt.NDArray[Any]]:
    rows, columns = x.shape
    buffers = quantized_buffers(isa, columns, rows, outliers=outliers, span=span)
    _quantizer(isa, columns, outliers, span).run([x, *buffers], [rows], threads=2)
    return buffers


@pytest.fixture(scope="module", autouse=True)
def _no_runners_left() -> Iterator[None]:
    yield
    _quantizer.cache_clear()
    _linear_of_any_shape.cache_clear()


@functools.cache
def _quantizer(isa: Isa, columns: int, outliers: bool, span: int) -> KernelRunner:
    return KernelRunner(quantize(isa, columns=columns, stride=columns, outliers=outliers, span=span), isa)


@functools.cache
def _linear_of_any_shape(isa: Isa, bits: int, span: int | None) -> KernelRunner:
    return KernelRunner(linear(isa, bits=bits, outliers=False, span=span), isa)


@pytest.mark.parametrize("isa", EACH, ids=lambda isa: isa.name)
@pytest.mark.parametrize(
    ("columns", "span"), [(32, 1), (64, 1), (40, 1), (7, 1), (172, 1), (172, 2), (172, 4), (172, 6), (128, 4), (320, 2)]
)
def test_quantize(isa: Isa, columns: int, span: int) -> None:
    x = random_floats(columns, 5, columns)
    x[2] = 0
    x[3, 0] = 1e-38
    got = dequantized_activations(run_quantize(isa, x, span=span), columns, 5, span)
    groups = -(-columns // GROUP)
    grouped = np.zeros((5, groups * GROUP))
    grouped[:, :columns] = x
    grouped = grouped.reshape(5, groups, GROUP)
    rest, first = grouped.copy(), np.abs(grouped).max(-1)
    for _ in range(OUTLIERS):
        peak = np.abs(rest).max(-1)
        dominated = peak**2 * GROUP > OUTLIER_CREST**2 * 1.001 * (rest**2).sum(-1)
        place = np.abs(rest).argmax(-1)[..., None]
        np.put_along_axis(rest, place, np.where(dominated[..., None], 0, np.take_along_axis(rest, place, -1)), -1)
    bound = np.maximum(np.abs(rest).max(-1), first * 2.0**-10) / 127 * 0.51 + 1e-30
    bound = np.repeat(np.maximum.reduceat(bound, range(0, groups, span), axis=1), span, axis=1)[:, :groups]
    error = np.zeros_like(grouped)
    error.reshape(5, -1)[:, :columns] = got - x
    assert (np.abs(error).max(-1) <= bound).all()


@pytest.mark.parametrize(
    ("bits", "columns", "span"),
    [
        *((4, columns, 1) for columns in (32, 40, 172)),
        *((4, columns, 2) for columns in (172, 256)),
        *((7, columns, 4) for columns in (172, 512)),
        *((bits, columns, None) for bits in (4, 8) for columns in (40, 172, 512)),
    ],
)
def test_without_outliers(bits: int, columns: int, span: int | None) -> None:
    """Codes alone, as graphs have them, and the linear layer of any shape that reads them."""
    x, weight = random_floats(columns, 5, columns), random_floats(2, 20, columns) * 0.1
    groups = -(-columns // GROUP)
    size = GROUP * (span or groups)
    packed = pack_matrix("w", weight, RoundToNearest(bits, None, group_size=size))
    assert packed.span == (span or groups)
    packed.verify()
    codes = packed.high if packed.low is None else byte_codes(packed)
    outputs = []
    for isa in EACH:
        buffers = run_quantize(isa, x, outliers=False, span=packed.span)
        got = dequantized_activations(buffers, columns, 5, packed.span)
        for start in range(0, columns, size):
            peak = np.abs(x[:, start : start + size]).max(-1, keepdims=True)
            assert (np.abs(got - x)[:, start : start + size] <= peak / 127 * 0.51).all()
        output = np.zeros((5, 20), np.float32)
        _linear_of_any_shape(isa, bits, span).run(
            [*buffers, *map(in_turns, (codes, packed.scales, packed.zeros)), output], [5, 20, groups], threads=2
        )
        np.testing.assert_allclose(output, got @ dequantize(packed).astype(np.float64).T, rtol=1e-4, atol=1e-3)
        outputs.append(output)
    for output in outputs[1:]:
        np.testing.assert_array_equal(output, outputs[0])


def reference(
    x: npt.NDArray[np.float64], weight: npt.NDArray[Any], epilogue: Epilogue, bias: Any, residual: Any
) -> Any:
    y = x @ weight.astype(np.float64).T
    if bias is not None:
        y = y + bias
    if epilogue.gated:
        gate, up = np.split(y, 2, axis=1)
        return gate / (1 + np.exp(-gate)) * up
    if epilogue.activation == "relu6":
        y = np.clip(y, 0, 6)
    return y if residual is None else y + residual


CASES = [
    # rows, columns, m, epilogue, dense output
    (8, 32, 1, Epilogue(), False),
    (24, 96, 7, Epilogue(bias=True), False),
    (19, 40, 5, Epilogue(bias=True, residual=True), True),
    (85, 64, 9, Epilogue(activation="relu6", bias=True), True),
    (16, 172, 4, Epilogue(residual=True), False),
    (2 * 12, 64, 6, Epilogue(activation="silu", gated=True), False),
    (2 * 16, 33, 3, Epilogue(activation="silu", gated=True, bias=True), False),
    (75, 1059, 9, Epilogue(bias=True), True),
    (2 * 41, 64, 3, Epilogue(activation="silu", gated=True), False),  # more pairs of blocks than streams
]
KINDS = [  # bits, groups that share a scale, and what CASES has
    *((bits, 1, *case) for bits in (4, 7, 8, 32) for case in CASES),
    *((bits, span, *CASES[number]) for bits, span in ((4, 2), (7, 4), (8, 6)) for number in (1, 4, 5)),
]


@pytest.mark.parametrize(("bits", "span", "rows", "columns", "m", "epilogue", "dense"), KINDS)
def test_linear(bits: int, span: int, rows: int, columns: int, m: int, epilogue: Epilogue, dense: bool) -> None:
    x, weight = random_floats(1, m, columns), random_floats(2, rows, columns) * 0.1
    outputs = rows // 2 if epilogue.gated else rows
    stride = outputs if dense else padded(outputs)
    order = interleaved_order(rows // 2) if epilogue.gated else list(range(rows))
    bias = random_floats(3, rows) if epilogue.bias else None
    residual = random_floats(4, m, stride) if epilogue.residual else None
    results = []
    for isa in EACH:
        operands: list[npt.NDArray[Any]]
        if bits == 32:
            func = linear_float(
                rows=rows,
                columns=columns,
                input_stride=columns,
                epilogue=epilogue,
                output_stride=stride if dense else None,
            )
            arranged = np.where(np.array(order)[:, None] < 0, 0, weight[np.maximum(order, 0)]).astype(np.float32)
            operands, exact_input, exact_weight = [x, pack_float(arranged)], x.astype(np.float64), weight
        else:
            packed = pack_matrix("w", weight, RoundToNearest(bits, None, group_size=GROUP * span))
            exact_weight = dequantize(packed)
            activations = run_quantize(isa, x, span=packed.span)
            exact_input = dequantized_activations(activations, columns, m, packed.span)
            tensor: PackedTensor = gather_rows(packed, order) if epilogue.gated else packed
            codes = tensor.high if tensor.low is None else byte_codes(tensor)
            operands = [*activations, *map(in_turns, (codes, tensor.scales, tensor.zeros))]
            func = linear(
                isa,
                rows=rows,
                columns=columns,
                bits=bits,
                epilogue=epilogue,
                output_stride=stride if dense else None,
                span=packed.span,
            )
        if bias is not None:
            lanes = np.zeros(padded(len(order)), np.float32)
            lanes[: len(order)] = np.where(np.array(order) < 0, 0, bias[np.maximum(order, 0)])
            operands.append(lanes)
        if residual is not None:
            operands.append(residual)
        output = np.full((m, stride), 7, np.float32)
        runner = KernelRunner(func, isa)
        runner.run([*operands, output], [m], threads=3)
        wanted = reference(
            exact_input, exact_weight, epilogue, bias, None if residual is None else residual[:, :outputs]
        )
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(output[:, :outputs], wanted, rtol=0, atol=2e-6 * scale * np.sqrt(columns))
        one_by_one = np.zeros((1, stride), np.float32)
        if bits == 32 and residual is None:  # a row's result does not depend on the tile
            runner.run([x[-1:].copy(), *operands[1:], one_by_one], [1])
            np.testing.assert_array_equal(one_by_one[0, :outputs], output[-1, :outputs])
        results.append(output[:, :outputs].copy())
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])  # to the bit


@pytest.mark.parametrize("isa", EACH, ids=lambda isa: isa.name)
@pytest.mark.parametrize(("bits", "span", "outliers"), [(4, 1, True), (7, 2, True), (7, 2, False)])
def test_rows_do_not_depend_on_their_number(isa: Isa, bits: int, span: int, outliers: bool) -> None:
    """Tiles of six, four and single rows; whole blocks and a last one without a partner."""
    rows, columns = 24, 160
    x, weight = random_floats(1, 15, columns), random_floats(2, rows, columns) * 0.1
    packed = pack_matrix("w", weight, RoundToNearest(bits, None, group_size=GROUP * span))
    codes = packed.high if packed.low is None else byte_codes(packed)
    weights = [*map(in_turns, (codes, packed.scales, packed.zeros))]
    func = linear(isa, rows=rows, columns=columns, bits=bits, span=span, outliers=outliers)
    runner = KernelRunner(func, isa)

    def run(x: Floats) -> Floats:
        output = np.zeros((len(x), rows), np.float32)
        activations = run_quantize(isa, x, span=span, outliers=outliers)
        runner.run([*activations, *weights, output], [len(x)], threads=2)
        return output

    alone = np.concatenate([run(row[None]) for row in x])
    for m in (2, 3, 5, 6, 7, 8, 9, 11, 13, 15):
        np.testing.assert_array_equal(run(x[:m]), alone[:m])


@pytest.mark.parametrize("isa", EACH, ids=lambda isa: isa.name)
@pytest.mark.parametrize(("bits", "span", "rows"), [(4, 1, 24), (4, 1, 48), (7, 2, 32), (8, 1, 16)])
def test_many_rows_read_outliers_from_a_table(isa: Isa, bits: int, span: int, rows: int) -> None:
    """A pair of blocks, several, one without a partner; the same bits as without a table."""
    columns, threads = 172, 3
    x, weight = random_floats(1, TABLE_ROWS + 3, columns), random_floats(2, rows, columns) * 0.1
    packed = pack_matrix("w", weight, RoundToNearest(bits, None, group_size=GROUP * span))
    codes = packed.high if packed.low is None else byte_codes(packed)
    weights = [*map(in_turns, (codes, packed.scales, packed.zeros))]
    plain = KernelRunner(linear(isa, rows=rows, columns=columns, bits=bits, span=span), isa)
    tabled = KernelRunner(linear(isa, rows=rows, columns=columns, bits=bits, span=span, tables=True), isa)
    for m in (TABLE_ROWS - 1, TABLE_ROWS, TABLE_ROWS + 3):
        activations = run_quantize(isa, x[:m], span=span)
        table = np.zeros(table_bytes(columns, threads) // 4, np.float32)
        wanted, found = np.zeros((2, m, rows), np.float32)
        plain.run([*activations, *weights, wanted], [m])
        tabled.run([*activations, *weights, table, found], [m], threads=threads)
        np.testing.assert_array_equal(found, wanted)
        assert table.any() == (m >= TABLE_ROWS)


@pytest.mark.parametrize("rows", [8, 16, 24, 64, 72, 136])
def test_a_residual_in_place_is_added_once(rows: int) -> None:
    """By whichever thread has the block, of few blocks, too."""
    x, weight = random_floats(1, 6, 64), random_floats(2, rows, 64) * 0.1
    packed = pack_matrix("w", weight, RoundToNearest(4, None))
    weights = [*map(in_turns, (packed.high, packed.scales, packed.zeros))]
    activations = run_quantize(SIMD128, x)
    plain = KernelRunner(linear(SIMD128, rows=rows, columns=64, bits=4), SIMD128)
    added = KernelRunner(linear(SIMD128, rows=rows, columns=64, bits=4, epilogue=Epilogue(residual=True)), SIMD128)
    for m in (1, 6):
        sums = np.zeros((m, rows), np.float32)
        plain.run([*activations, *weights, sums], [m])
        for threads in (1, 2, 3, 5):
            stream = random_floats(3, m, rows)
            wanted = sums + stream
            added.run([*activations, *weights, stream, stream], [m], threads=threads)
            np.testing.assert_array_equal(stream, wanted)


@pytest.mark.parametrize("isa", EACH, ids=lambda isa: isa.name)
@pytest.mark.parametrize("m", [1, 4, 6])
@pytest.mark.parametrize(("bits", "columns", "span"), [(4, 64, 1), (4, 2048, 64), (7, 2048, 64), (8, 2048, 64)])
def test_largest_sums(isa: Isa, m: int, bits: int, columns: int, span: int) -> None:
    """All codes at their limits: no accumulator overflows."""
    x = np.repeat(np.array([[-2.0], [2.0]], np.float32), columns, 1)[np.arange(m) % 2]
    groups, largest = columns // GROUP, {4: 15, 7: 127, 8: 254}[bits]
    full = np.full((1, groups, 128 if bits == 4 else 256), 255 if bits == 4 else largest, np.uint8)
    scales, zeros = np.ones((1, groups // span, 8), np.float16), np.zeros((1, groups // span, 8), np.uint8)
    output = np.zeros((m, 8), np.float32)
    operands = [*run_quantize(isa, x, span=span), full, scales, zeros, output]
    KernelRunner(linear(isa, rows=8, columns=columns, bits=bits, span=span), isa).run(operands, [m])
    unit = largest / 2 ** (bits - 4)
    np.testing.assert_allclose(output, np.repeat(x.sum(1, keepdims=True) * unit, 8, 1), rtol=1e-6)


@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("columns", [64, 44, 17])
def test_norm(kind: str, columns: int) -> None:
    x, weight, shift = random_floats(5, 6, columns), random_floats(6, columns), random_floats(7, columns)
    bias = kind == "layer"
    func = norm(SIMD128, kind=kind, columns=columns, stride=columns, epsilon=1e-5, quantized=False, bias=bias)
    output = np.zeros((4, columns), np.float32)
    KernelRunner(func, SIMD128).run([x, weight, *([shift] if bias else []), output], [2, 4], threads=2)
    wide = x[2:6].astype(np.float64)
    if bias:
        wide = wide - wide.mean(-1, keepdims=True)
    wanted = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * weight + (shift if bias else 0)
    np.testing.assert_allclose(output, wanted, rtol=2e-6, atol=2e-6 * np.abs(wanted).max())


def test_norm_that_is_added() -> None:
    x, weight, stream = random_floats(5, 4, 24)[:, :20], random_floats(6, 20), random_floats(7, 4, 24)
    arguments: dict[str, Any] = {"kind": "rms", "columns": 20, "epsilon": 1e-5, "quantized": False}
    plain, added = np.zeros((4, 20), np.float32), stream.copy()
    rows = np.ascontiguousarray(x)
    KernelRunner(norm(SIMD128, stride=20, **arguments), SIMD128).run([rows, weight, plain], [0, 4])
    KernelRunner(norm(SIMD128, stride=20, added_stride=24, **arguments), SIMD128).run([rows, weight, added], [0, 4])
    np.testing.assert_array_equal(added[:, :20], plain + stream[:, :20])
    np.testing.assert_array_equal(added[:, 20:], stream[:, 20:])


@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize(("parts", "columns"), [(3, 8), (1, 22), (2, 24)])
def test_norm_of_parts(kind: str, parts: int, columns: int) -> None:
    stride = parts * columns + 5
    x, weight = random_floats(5, 7, stride), random_floats(6, columns)
    found = x.copy()
    func = norm_parts(kind=kind, parts=parts, columns=columns, stride=stride, epsilon=1e-5)
    KernelRunner(func, SIMD128).run([found, weight], [7], threads=2)
    wide = x[:, : parts * columns].reshape(7, parts, columns).astype(np.float64)
    if kind == "layer":
        wide = wide - wide.mean(-1, keepdims=True)
    wanted = (wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * weight).reshape(7, -1)
    np.testing.assert_allclose(found[:, : parts * columns], wanted, rtol=2e-6, atol=2e-6 * np.abs(wanted).max())
    np.testing.assert_array_equal(found[:, parts * columns :], x[:, parts * columns :])


def test_norm_and_quantize_are_one() -> None:
    x, weight = random_floats(8, 3, 96), random_floats(9, 96)
    floats = np.zeros((3, 96), np.float32)
    arguments: dict[str, Any] = {"kind": "rms", "columns": 96, "stride": 96, "epsilon": 1e-6}
    KernelRunner(norm(RELAXED, quantized=False, **arguments), RELAXED).run([x, weight, floats], [0, 3])
    fused = quantized_buffers(RELAXED, 96, 3)
    KernelRunner(norm(RELAXED, quantized=True, **arguments), RELAXED).run([x, weight, *fused], [0, 3])
    for one, other in zip(fused, run_quantize(RELAXED, floats), strict=True):
        np.testing.assert_array_equal(one, other)
