"""Operators without a fast kernel against onnxruntime: odd sizes, axes that vary, forms that are not in its suite."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest

from edgec.ir.model import ModelIR
from tests.lower.graph.harness import Arrays, check, make_model

RANDOM = np.random.default_rng(23)


def node(op_type: str, inputs: list[str], outputs: str, **attributes: Any) -> onnx.NodeProto:
    return oh.make_node(op_type, inputs, outputs.split(), **attributes)


def floats(*shape: int, scale: float = 1.0) -> np.ndarray:
    return RANDOM.normal(0, scale, shape).astype(np.float32)


def test_convolutions_of_any_rank_with_weights_as_inputs() -> None:
    nodes = [
        node(
            "Conv", ["volume", "kernel3"], "volume_out", group=2, dilations=[1, 2, 1], strides=[2, 1, 1], pads=[1] * 6
        ),
        node("Conv", ["image", "kernel2", "bias"], "image_out", auto_pad="SAME_LOWER", strides=[2, 3]),
        node(
            "ConvTranspose",
            ["image", "transposed"],
            "up",
            group=2,
            strides=[2, 3],
            output_padding=[1, 0],
            pads=[1, 0, 0, 1],
        ),
        node("ConvTranspose", ["line", "kernel1"], "line_up", dilations=[2], auto_pad="SAME_UPPER", strides=[2]),
    ]
    inputs = {
        "volume": ("f", ["n", 4, 5, 6, 3]),
        "kernel3": ("f", [6, 2, 2, 2, 3]),
        "image": ("f", [1, 6, 7, 5]),
        "kernel2": ("f", [5, 6, 3, 2]),
        "bias": ("f", [5]),
        "transposed": ("f", [6, 2, 3, 2]),
        "line": ("f", [2, 3, 9]),
        "kernel1": ("f", [3, 2, 3]),
    }
    model = make_model(nodes, inputs, dict.fromkeys(("volume_out", "image_out", "up", "line_up"), "f"))
    sizes = {name: [2 if dim == "n" else dim for dim in shape] for name, (_, shape) in inputs.items()}
    check(model, [{name: floats(*size) for name, size in sizes.items()}], dims={"n": 3})


def test_pools_of_any_rank() -> None:
    kernel = {"kernel_shape": [2, 3, 2], "strides": [2, 1, 1]}
    nodes = [
        node("MaxPool", ["x"], "max where", **kernel, pads=[0, 1, 0, 1, 1, 1]),
        node("AveragePool", ["x"], "average", **kernel, count_include_pad=1, pads=[0, 1, 1, 1, 1, 0]),
        node("AveragePool", ["x"], "inner", **kernel, ceil_mode=1),
        node("LpPool", ["x"], "lp", **kernel, p=3),
        node("MaxPool", ["image"], "image_max image_where", kernel_shape=[3, 2], strides=[2, 2], dilations=[1, 2]),
        node("MaxPool", ["bytes"], "bytes_max", kernel_shape=[2, 2]),
    ]
    outputs = dict.fromkeys(("max", "average", "inner", "lp", "image_max"), "f")
    outputs |= {"where": "i", "image_where": "i", "bytes_max": "u1"}
    inputs = {"x": ("f", ["n", 2, 5, 4, 3]), "image": ("f", [1, 3, 7, 6]), "bytes": ("u1", [1, 1, 5, 5])}
    feed = {
        "x": floats(2, 2, 5, 4, 3),
        "image": floats(1, 3, 7, 6),
        "bytes": RANDOM.integers(0, 255, (1, 1, 5, 5)).astype(np.uint8),
    }
    check(make_model(nodes, inputs, outputs), [feed], dims={"n": 2})


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_recurrent_layers_with_sequences_of_different_lengths(kind: str, direction: str) -> None:
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[kind]
    steps, batch, features, hidden, sides = 5, 3, 4, 3, 2 if direction == "bidirectional" else 1
    weights: Arrays = {
        "w": floats(sides, gates * hidden, features, scale=0.5),
        "r": floats(sides, gates * hidden, hidden, scale=0.5),
        "b": floats(sides, 2 * gates * hidden, scale=0.5),
    }
    names = ["x", "w", "r", "b", "lengths", "h", *(["c", "p"] if kind == "LSTM" else [])]
    if kind == "LSTM":
        weights["p"] = floats(sides, 3 * hidden, scale=0.5)
    attributes = {"linear_before_reset": 1} if kind == "GRU" and direction == "forward" else {}
    outputs = ["y", "last", *(["cell"] if kind == "LSTM" else [])]
    inputs: dict[str, tuple[str, list[int | str]]] = {
        "x": ("f", [steps, "n", features]),
        "lengths": ("i4", ["n"]),
        "h": ("f", [sides, "n", hidden]),
    }
    if kind == "LSTM":
        inputs["c"] = ("f", [sides, "n", hidden])
    model = make_model(
        [node(kind, names, " ".join(outputs), hidden_size=hidden, direction=direction, **attributes)],
        inputs,
        dict.fromkeys(outputs, "f"),
        weights,
    )
    feed = {
        "x": floats(steps, batch, features),
        "lengths": np.array([5, 2, 4], np.int32),
        "h": floats(sides, batch, hidden),
    }
    if kind == "LSTM":
        feed["c"] = floats(sides, batch, hidden)
    check(model, [feed], dims={"n": 4}, tolerance=2e-6)


def test_selections_along_axes_that_vary() -> None:
    nodes = [
        node("TopK", ["x", "k"], "values places", axis=0, largest=0),
        node("CumSum", ["x", "axis"], "sums", exclusive=1, reverse=1),
        node("Trilu", ["x", "diagonal"], "triangle", upper=0),
        node("ScatterElements", ["x", "where", "updates"], "scattered", axis=1, reduction="max"),
        node("ScatterND", ["x", "rows", "new"], "rows_out", reduction="add"),
        node("GatherND", ["x", "pairs"], "picked"),
        node("OneHot", ["ids", "depth", "pair"], "hot", axis=0),
        node("ReverseSequence", ["x", "lengths"], "reversed", batch_axis=0, time_axis=1),
        node("Hardmax", ["x"], "hard", axis=0),
        node("Einsum", ["x", "x"], "gram", equation="ij,kj->ik"),
        node("LpNormalization", ["x"], "unit", axis=0, p=1),
    ]
    outputs = dict.fromkeys("values sums triangle scattered rows_out picked hot reversed hard gram unit".split(), "f")
    outputs["places"] = "i"
    inputs: dict[str, tuple[str, list[int | str]]] = {
        "x": ("f", ["n", 6]),
        "diagonal": ("i", []),
        "where": ("i", ["n", 2]),
        "updates": ("f", ["n", 2]),
        "rows": ("i", [2, 1]),
        "new": ("f", [2, 6]),
        "pairs": ("i", [3, 2]),
        "ids": ("i", [4]),
        "lengths": ("i", ["n"]),
    }
    weights = {
        "k": np.array([2], np.int64),
        "axis": np.array(0, np.int64),
        "depth": np.array(5, np.int64),
        "pair": np.array([-1, 2], np.float32),
    }

    def feed(rows: int) -> Arrays:
        x = floats(rows, 6).round(1)  # equal values, too
        return {
            "x": x,
            "diagonal": np.array(1, np.int64),
            "where": RANDOM.integers(-6, 6, (rows, 2)),
            "updates": floats(rows, 2),
            "rows": np.array([[1], [-1]]),
            "new": floats(2, 6),
            "pairs": np.array([[0, 5], [-1, -2], [1, 1]]),
            "ids": np.array([0, 4, -1, 2]),
            "lengths": RANDOM.integers(1, 7, rows),
        }

    check(make_model(nodes, inputs, outputs, weights), [feed(3), feed(7)], dims={"n": 7})


def test_quantized_operators() -> None:
    per_channel = {"scales": np.array([0.1, 0.02, 0.7], np.float32), "zeros": np.array([0, 3, -5], np.int8)}
    nodes = [
        node("QuantizeLinear", ["x", "scales", "zeros"], "codes", axis=1),
        node("DequantizeLinear", ["codes", "scales", "zeros"], "back", axis=1),
        node("DynamicQuantizeLinear", ["x"], "dynamic scale zero"),
        node("MatMulInteger", ["a", "b", "a_zero", "b_zero"], "product"),
        node("ConvInteger", ["image", "kernel", "a_zero"], "convolved", pads=[1, 0, 0, 1], group=2),
    ]
    inputs: dict[str, tuple[str, list[int | str]]] = {
        "x": ("f", ["n", 3, 5]),
        "a": ("u1", ["n", 7]),
        "b": ("i1", [7, 4]),
        "image": ("u1", [1, 4, 5, 6]),
        "kernel": ("u1", [6, 2, 2, 3]),
    }
    outputs = {
        "codes": "i1",
        "back": "f",
        "dynamic": "u1",
        "scale": "f",
        "zero": "u1",
        "product": "i4",
        "convolved": "i4",
    }
    weights = {**per_channel, "a_zero": np.array(7, np.uint8), "b_zero": np.array([1, -2, 0, 3], np.int8)}
    feed = {
        "x": floats(4, 3, 5, scale=4),
        "a": RANDOM.integers(0, 255, (4, 7)).astype(np.uint8),
        "b": RANDOM.integers(-127, 127, (7, 4)).astype(np.int8),
        "image": RANDOM.integers(0, 255, (1, 4, 5, 6)).astype(np.uint8),
        "kernel": RANDOM.integers(0, 255, (6, 2, 2, 3)).astype(np.uint8),
    }
    check(make_model(nodes, inputs, outputs, weights), [feed], dims={"n": 4}, tolerance=1e-6)


@pytest.mark.parametrize("mode", ["linear", "cubic", "nearest"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_grid_sample(mode: str, padding: str) -> None:
    nodes = [
        node("GridSample", ["x", "grid"], f"y{corners}", mode=mode, padding_mode=padding, align_corners=corners)
        for corners in (0, 1)
    ]
    inputs: dict[str, tuple[str, list[int | str]]] = {"x": ("f", ["n", 2, 5, 4]), "grid": ("f", ["n", 3, 6, 2])}
    feed = {"x": floats(2, 2, 5, 4), "grid": RANDOM.uniform(-1.6, 1.6, (2, 3, 6, 2)).astype(np.float32)}
    check(make_model(nodes, inputs, {"y0": "f", "y1": "f"}), [feed], dims={"n": 3}, tolerance=2e-5)


def test_resize_of_any_axes() -> None:
    nodes = [
        node("Resize", ["x", "", "", "sizes"], "smooth", mode="linear", antialias=1, axes=[2, 3]),
        node("Resize", ["x", "", "", "sizes"], "cubic", mode="cubic", antialias=1, axes=[2, 3]),
        node("Resize", ["x", "", "", "channels"], "wide", mode="linear", axes=[1]),
        node(
            "Resize", ["x", "", "", "sizes"], "kept", mode="nearest", axes=[2, 3], keep_aspect_ratio_policy="not_larger"
        ),
    ]
    weights = {"sizes": np.array([5, 7], np.int64), "channels": np.array([5], np.int64)}
    inputs: dict[str, tuple[str, list[int | str]]] = {"x": ("f", [1, 3, 11, 9])}
    model = make_model(nodes, inputs, dict.fromkeys(("smooth", "cubic", "wide", "kept"), "f"), weights)
    check(model, [{"x": floats(1, 3, 11, 9)}], tolerance=3e-6)


def _loop() -> ModelIR:
    """y = the state after four steps, rows = what it was in each."""
    body = oh.make_graph(
        [
            oh.make_node("Add", ["s", "x"], ["sum"]),
            oh.make_node("Cast", ["i"], ["f"], to=1),
            oh.make_node("Mul", ["sum", "f"], ["t"]),
            oh.make_node("Identity", ["t"], ["row"]),
            oh.make_node("Identity", ["c"], ["d"]),
        ],
        "body",
        [
            oh.make_tensor_value_info("i", 7, []),
            oh.make_tensor_value_info("c", 9, []),
            oh.make_tensor_value_info("s", 1, ["n", 3]),
        ],
        [
            oh.make_tensor_value_info("d", 9, []),
            oh.make_tensor_value_info("t", 1, ["n", 3]),
            oh.make_tensor_value_info("row", 1, ["n", 3]),
        ],
    )
    nodes = [node("Loop", ["count", "", "x"], "y rows", body=body)]
    return make_model(nodes, {"x": ("f", ["n", 3])}, {"y": "f", "rows": "f"}, {"count": np.array(4, np.int64)})


def test_loops_of_known_length_are_unrolled() -> None:
    check(_loop(), [{"x": floats(2, 3)}, {"x": floats(5, 3)}], dims={"n": 5})


def test_functions_are_expanded() -> None:
    nodes = [
        node("SoftmaxCrossEntropyLoss", ["x", "labels"], "loss log", ignore_index=2),
        node("MeanVarianceNormalization", ["image"], "normal", axes=[0, 2, 3]),
        node("LayerNormalization", ["x", "scale"], "layer mean inverse"),
    ]
    inputs: dict[str, tuple[str, list[int | str]]] = {
        "x": ("f", [4, 6]),
        "labels": ("i", [4]),
        "image": ("f", [2, 3, 4, 5]),
    }
    feed = {"x": floats(4, 6), "labels": np.array([1, 2, 5, 0]), "image": floats(2, 3, 4, 5)}
    outputs = dict.fromkeys("loss log normal layer mean inverse".split(), "f")
    check(make_model(nodes, inputs, outputs, {"scale": floats(6)}), [feed], tolerance=2e-6)


def test_batch_normalization_with_parameters_as_inputs() -> None:
    nodes = [node("BatchNormalization", ["x", "s", "b", "m", "v"], "y"), node("LRN", ["x"], "z", size=3, alpha=0.3)]
    vectors = {name: ("f", [3]) for name in "sbmv"}
    model = make_model(nodes, {"x": ("f", ["n", 3, 2, 5]), **vectors}, {"y": "f", "z": "f"})
    feed = {"x": floats(2, 3, 2, 5), "s": floats(3), "b": floats(3), "m": floats(3), "v": np.abs(floats(3)) + 0.1}
    check(model, [feed], dims={"n": 2}, tolerance=2e-6)


def test_axes_of_length_zero() -> None:
    nodes = [
        node("Concat", ["x", "empty"], "joined", axis=0),
        node("ReduceSum", ["empty", "axis"], "sum", keepdims=0),
        node("MatMul", ["empty", "w"], "product"),
        node("Trilu", ["empty"], "triangle"),
        node("Relu", ["empty"], "relu"),
    ]
    inputs: dict[str, tuple[str, list[int | str]]] = {"x": ("f", [2, 3]), "empty": ("f", [0, 3]), "w": ("f", [3, 4])}
    outputs = dict.fromkeys("joined sum product triangle relu".split(), "f")
    model = make_model(nodes, inputs, outputs, {"axis": np.array([0], np.int64)})
    check(model, [{"x": floats(2, 3), "empty": floats(0, 3), "w": floats(3, 4)}])
