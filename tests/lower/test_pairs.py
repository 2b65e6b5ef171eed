"""Linear layers and convolutions in codes of 16 bits, beside numpy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx.helper as oh
import pytest

from edgec.lower.wasm.graph import lower_graph
from edgec.lower.wasm.kernels.conv_pairs import conv_pairs, pack_filters, pairs_of, picture_codes
from edgec.lower.wasm.kernels.depthwise import Window
from edgec.lower.wasm.kernels.epilogue import Epilogue, padded
from edgec.lower.wasm.kernels.linear_pairs import linear_pairs, pack_pairs
from edgec.lower.wasm.target import ISAS, RELAXED, SIMD128
from edgec.passes import simplify
from tests.lower.graph.harness import EACH, WasmGraph, compressed, make_model
from tests.lower.kernel_runner import KernelRunner
from tests.passes.graphs import run

Array = npt.NDArray[Any]
EPILOGUES = [Epilogue(), Epilogue(bias=True, activation="relu", residual=True), Epilogue(bias=True, activation="silu")]


def floats(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).normal(0, 1, shape).astype(np.float32)


def finished(sums: Array, epilogue: Epilogue, bias: Array, residual: Array) -> Array:
    value = sums + (bias if epilogue.bias else 0)
    if epilogue.activation is not None:
        value = np.maximum(value, 0) if epilogue.activation == "relu" else value / (1 + np.exp(-value))
    return value + (residual if epilogue.residual else 0)


def vectors(epilogue: Epilogue, outputs: int) -> list[Array]:
    return [np.concatenate([floats(outputs), np.zeros(padded(outputs) - outputs, np.float32)])] * epilogue.bias


class Linear:
    def __init__(self, epilogue: Epilogue, isa: str = "simd128") -> None:
        self.epilogue, self.runner = epilogue, KernelRunner(linear_pairs(epilogue), ISAS[isa])

    def __call__(self, rows: Array, weight: Array, residual: Array, threads: int = 1, stride: int = 0) -> Array:
        outputs, columns = weight.shape
        codes, scales, levels = pack_pairs(weight)
        source = np.zeros((len(rows), stride or columns), np.float32)
        source[:, :columns] = rows
        output = np.full((len(rows), outputs), np.nan, np.float32)
        buffers = [
            source,
            codes,
            scales,
            *vectors(self.epilogue, outputs),
            *[residual] * self.epilogue.residual,
            output,
        ]
        self.runner.run(buffers, [len(rows), outputs, columns, source.shape[1], levels], threads=threads)
        return output


@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_linear_is_near(epilogue: Epilogue) -> None:
    linear = Linear(epilogue)
    for m, n, k in ((1, 1, 1), (3, 8, 7), (4, 12, 8), (9, 70, 33), (5, 64, 108), (2, 3, 1024)):
        rows, weight, residual = floats(m, k), floats(n, k, seed=1), floats(m, n, seed=2)
        sums = rows.astype(np.float64) @ weight.astype(np.float64).T
        expected = finished(sums, epilogue, floats(n), residual)
        np.testing.assert_allclose(linear(rows, weight, residual, stride=k + 3), expected, atol=1e-3 * np.sqrt(k))


def test_linear_gives_the_same_bits_everywhere() -> None:
    """Threads, instruction sets, and rows that are computed alone."""
    rows, weight, residual = floats(11, 50), floats(24, 50, seed=1), floats(11, 24, seed=2)
    plain = Linear(EPILOGUES[2])
    expected = plain(rows, weight, residual)
    for isa in (SIMD128, RELAXED):
        for threads in (1, 2, 5):
            assert np.array_equal(Linear(EPILOGUES[2], isa.name)(rows, weight, residual, threads), expected)
    for row in (0, 5, 10):
        assert np.array_equal(plain(rows[row : row + 1], weight, residual), expected[row : row + 1])


def test_codes_cannot_overflow() -> None:
    """The worst features that an output's weights allow, at the largest and smallest magnitudes."""
    linear = Linear(EPILOGUES[0])
    for k in (2, 300, 1024):
        weight = np.where(floats(8, k) < 0, -1, 1).astype(np.float32)
        for factor in (0.0, 1e-25, 1e20):
            got = linear(weight * np.float32(factor), weight, np.zeros((8, 8), np.float32))
            np.testing.assert_allclose(got, factor * weight @ weight.T, atol=2e-3 * k * factor)


def window_of(
    kernel: tuple[int, int], strides: tuple[int, int], pads: tuple[int, int], channels: int, down: int = 1
) -> Window:
    nothing = Window(1, 1, 1, 1, 1, 1, kernel, strides, (down, 1), pads).of_any_size()
    return Window(
        nothing.batch, nothing.height, nothing.width, channels, nothing.output_height, nothing.output_width,
        kernel, strides, (down, 1), pads,
    )  # fmt: skip


def convolved(picture: Array, filters: Array, w: Window, size: tuple[int, int]) -> Array:
    n, height, width, _ = picture.shape
    output = np.zeros((n, *size, len(filters)))
    for y in range(size[0]):
        for x in range(size[1]):
            for i in range(w.kernel[0]):
                for j in range(w.kernel[1]):
                    row, column = y * w.strides[0] - w.pads[0] + i * w.dilations[0], x * w.strides[1] - w.pads[1] + j
                    if 0 <= row < height and 0 <= column < width:
                        output[:, y, x] += picture[:, row, column].astype(np.float64) @ filters[:, i, j].T
    return output


WINDOWS = [
    (window_of((3, 3), (1, 1), (1, 1), 12), (7, 9), (7, 9)),
    (window_of((3, 3), (2, 2), (1, 1), 3), (8, 11), (4, 6)),
    (window_of((5, 3), (1, 2), (4, 0), 5, down=2), (9, 7), (9, 3)),
    (window_of((1, 1), (2, 2), (0, 0), 4), (5, 5), (3, 3)),
    (window_of((2, 2), (1, 1), (0, 0), 1), (2, 2), (1, 1)),
    (window_of((3, 2), (1, 3), (1, 3), 6), (4, 8), (4, 4)),  # a first window in the padding alone, a last column unread
    (window_of((1, 3), (1, 1), (0, 4), 2), (2, 1), (2, 1)),  # nothing but padding
]


@pytest.mark.parametrize("number", range(len(WINDOWS)))
def test_convolution_is_near(number: int) -> None:
    """Strides, padding, odd channels, outputs that fill no block; every thread count and instruction set alike."""
    w, size, out = WINDOWS[number]
    epilogue, outputs = EPILOGUES[number % 3], (10, 72, 8, 3, 1, 9, 4)[number]
    picture = floats(2, *size, w.channels)
    picture[1] *= 100
    filters = floats(outputs, *w.kernel, w.channels, seed=1)
    residual, bias = floats(2, *out, outputs, seed=2), vectors(epilogue, outputs)
    weights, scales, levels = pack_filters(filters.reshape(outputs, -1), w)
    sizes = [2, size[0], *out, size[1]]
    reach = (out[1] - 1) * w.strides[1] + w.kernel[1]
    results = []
    for isa, threads in ((SIMD128, 1), (SIMD128, 3), (RELAXED, 2)):
        codes, rows = np.zeros((2, size[0], reach, pairs_of(w)), np.int32), np.zeros((2, size[0]), np.float32)
        KernelRunner(picture_codes(w, levels), isa).run([picture, codes, rows], sizes, threads=threads)
        output = np.full((2, *out, outputs), np.nan, np.float32)
        buffers = [codes, rows, weights, scales, *bias, *[residual] * epilogue.residual, output]
        KernelRunner(conv_pairs(w, outputs, epilogue), isa).run(buffers, sizes, threads=threads)
        results.append(output)
    expected = finished(convolved(picture, filters, w, out), epilogue, floats(outputs), residual)
    for n in range(2):
        tolerance = 1e-3 * np.abs(expected[n]).max() + 1e-3
        np.testing.assert_allclose(results[0][n], expected[n], atol=tolerance)
    assert all(np.array_equal(results[0], other) for other in results[1:])


def test_graphs_use_them_beside_quantized_matrices() -> None:
    """Convolutions that a plan leaves in float32 stay so in a graph of floats alone."""
    weights = {"first": floats(16, 3, 3, 3), "wide": floats(40, 16, 1, 1, seed=1), "last": floats(8, 40, 1, 1, seed=2)}
    nodes = [
        oh.make_node("Conv", ["x", "first"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        oh.make_node("Conv", ["a", "wide"], ["b"]),
        oh.make_node("Conv", ["b", "last"], ["y"]),
    ]
    model = make_model(nodes, {"x": ("f", ["n", 3, "h", 10])}, {"y": "f"}, weights)
    feed = {"x": floats(2, 3, 9, 10)}
    [expected] = run(model.model, feed)
    for quantized in (False, True):
        source = compressed(simplify(model), dims={"n": 2, "h": 9}, bits=8)
        kept = {name: tensor for name, tensor in source.packed.items() if quantized and name == "last"}
        program = lower_graph(type(source)(source.model, source.plan, kept))
        kernels = str(program._factories.keys())
        assert [name in kernels for name in ("conv_pairs", "linear_pairs")] == [quantized] * 2
        results = [WasmGraph(program.build(EACH), variant)(feed)[0] for variant in EACH]
        tolerance = (2e-2 if quantized else 1e-5) * np.abs(expected).max()
        np.testing.assert_allclose(results[0], expected, atol=tolerance)
        assert all(np.array_equal(results[0], other) for other in results[1:])
