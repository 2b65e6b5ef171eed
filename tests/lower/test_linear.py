"""Linear, normalization and quantization kernels against plain numpy: odd sizes, tails, guard bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgec.compress.dequantize import dequantize
from edgec.compress.matrix import pack_matrix
from edgec.ir.compressed import GROUP, PackedTensor
from edgec.lower.wasm.kernels.epilogue import Epilogue, padded
from edgec.lower.wasm.kernels.linear import linear
from edgec.lower.wasm.kernels.linear_float import linear_float, pack_float
from edgec.lower.wasm.kernels.norm import norm
from edgec.lower.wasm.kernels.quantize import quantize, quantized_bytes
from edgec.lower.wasm.target import RELAXED, SIMD128, Isa
from edgec.lower.wasm.weights import gather_rows, interleaved_order
from tests.lower.kernel_runner import KernelRunner

Floats = npt.NDArray[np.float32]
ISAS = [SIMD128, RELAXED]


def random_floats(seed: int, *shape: int) -> Floats:
    """Normal, with one large outlier in every tenth row of 32."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape).astype(np.float32)
    flat = values.reshape(-1)
    flat[::317] *= 40
    return values


def quantized_buffers(isa: Isa, columns: int, rows: int) -> list[npt.NDArray[Any]]:
    sizes = quantized_bytes(columns, rows)
    codes = np.zeros(sizes["codes"] // 2, np.int16)
    return [
        codes if not isa.relaxed_dot else codes.view(np.int8),
        *(np.zeros(sizes[p] // 4, np.float32) for p in ("scales", "sums")),
    ]


def dequantized_activations(
    isa: Isa, buffers: list[npt.NDArray[Any]], columns: int, rows: int
) -> npt.NDArray[np.float64]:
    groups = -(-columns // GROUP)
    codes = buffers[0][: rows * groups * 2 * GROUP].reshape(rows, groups, 2, GROUP).astype(np.float64)
    scales = buffers[1].reshape(rows, groups, 2).astype(np.float64) * 2.0**-112
    used = np.where(scales[..., None] != 0, codes, 0)
    np.testing.assert_array_equal(np.where(scales != 0, buffers[2].reshape(rows, groups, 2), 0), used.sum(-1))
    return np.asarray((used * scales[..., None]).sum(2).reshape(rows, groups * GROUP)[:, :columns])


def run_quantize(isa: Isa, x: Floats) -> list[npt.NDArray[Any]]:
    rows, columns = x.shape
    buffers = quantized_buffers(isa, columns, rows)
    KernelRunner(quantize(isa, columns=columns, stride=columns), isa).run([x, *buffers], [rows], threads=2)
    return buffers


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("columns", [32, 64, 40, 7, 172])
def test_quantize(isa: Isa, columns: int) -> None:
    x = random_floats(columns, 5, columns)
    x[2] = 0
    x[3, 0] = 1e-38
    got = dequantized_activations(isa, run_quantize(isa, x), columns, 5)
    groups = -(-columns // GROUP)
    grouped = np.zeros((5, groups * GROUP))
    grouped[:, :columns] = x
    grouped = grouped.reshape(5, groups, GROUP)
    peak = np.abs(grouped).max(-1)
    crest = peak**2 * GROUP / np.maximum((grouped**2).sum(-1), 1e-30)
    bound = np.where(crest > 3.5**2 * 1.001, peak / 127 / 254 * 0.51, peak / 127 * 0.51) + 1e-30
    error = np.zeros_like(grouped)
    error.reshape(5, -1)[:, :columns] = got - x
    assert (np.abs(error).max(-1) <= bound).all()


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
]


@pytest.mark.parametrize("bits", [4, 8, 32])
@pytest.mark.parametrize(("rows", "columns", "m", "epilogue", "dense"), CASES)
def test_linear(bits: int, rows: int, columns: int, m: int, epilogue: Epilogue, dense: bool) -> None:
    x, weight = random_floats(1, m, columns), random_floats(2, rows, columns) * 0.1
    outputs = rows // 2 if epilogue.gated else rows
    stride = outputs if dense else padded(outputs)
    order = interleaved_order(rows // 2) if epilogue.gated else list(range(rows))
    bias = random_floats(3, rows) if epilogue.bias else None
    residual = random_floats(4, m, stride) if epilogue.residual else None
    results = []
    for isa in ISAS:
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
            packed = pack_matrix("w", weight, bits)
            exact_weight = dequantize(packed)
            activations = run_quantize(isa, x)
            exact_input = dequantized_activations(isa, activations, columns, m)
            tensor: PackedTensor = gather_rows(packed, order) if epilogue.gated else packed
            planes = [tensor.high] if tensor.low is None else [tensor.high, tensor.low]
            operands = [*activations, *planes, tensor.scales, tensor.zeros]
            func = linear(
                isa, rows=rows, columns=columns, bits=bits, epilogue=epilogue, output_stride=stride if dense else None
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
    np.testing.assert_array_equal(results[0], results[1])  # to the bit


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


def test_norm_and_quantize_are_one() -> None:
    x, weight = random_floats(8, 3, 96), random_floats(9, 96)
    floats = np.zeros((3, 96), np.float32)
    arguments: dict[str, Any] = {"kind": "rms", "columns": 96, "stride": 96, "epsilon": 1e-6}
    KernelRunner(norm(RELAXED, quantized=False, **arguments), RELAXED).run([x, weight, floats], [0, 3])
    fused = quantized_buffers(RELAXED, 96, 3)
    KernelRunner(norm(RELAXED, quantized=True, **arguments), RELAXED).run([x, weight, *fused], [0, 3])
    for one, other in zip(fused, run_quantize(RELAXED, floats), strict=True):
        np.testing.assert_array_equal(one, other)
