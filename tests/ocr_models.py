"""A text reader of two small ONNX files: the detector finds what is dark, the recogniser has random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHARACTERS = "abcdefghij"


def save_reader(folder: Path) -> None:
    """`detect.onnx` and `recognize.onnx`."""
    onnx.save(_detector(), folder / "detect.onnx")
    onnx.save(_recognizer(), folder / "recognize.onnx")


def _model(
    nodes: list[onnx.NodeProto], shape: list[str | int], out: list[str | int], weights: dict[str, np.ndarray]
) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    tensors = [
        numpy_helper.from_array(array.astype(np.float32) if array.dtype.kind == "f" else array, name)
        for name, array in weights.items()
    ]
    inputs, outputs = [value("x", TensorProto.FLOAT, shape)], [value("y", TensorProto.FLOAT, out)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def _detector() -> onnx.ModelProto:
    """The mean darkness around each pixel, halved in size and brought back, as a probability."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "gray"], ["dark"]),
        node("AveragePool", ["dark"], ["wide"], kernel_shape=[3, 9], pads=[1, 4, 1, 4]),
        node("MaxPool", ["wide"], ["half"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Resize", ["half", "", "twice"], ["back"], mode="nearest"),
        node("Mul", ["back", "steep"], ["steeper"]),
        node("Add", ["steeper", "shift"], ["shifted"]),
        node("Sigmoid", ["shifted"], ["y"]),
    ]
    weights = {
        "gray": np.full((1, 3, 1, 1), -1 / 6), "twice": np.array([1.0, 1.0, 2.0, 2.0]), "steep": np.array(40.0),
        "shift": np.array(12.0),
    }  # fmt: skip
    return _model(nodes, ["n", 3, "h", "w"], ["n", 1, "h", "w"], weights)


def _recognizer() -> onnx.ModelProto:
    random = np.random.default_rng(7)
    edges = random.normal(0, 0.2, (32, 3, 8, 8))
    edges -= edges.mean(axis=(1, 2, 3), keepdims=True)  # nothing where all is white
    classes = len(CHARACTERS) + 2
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1"], ["a"], strides=[8, 8], kernel_shape=[8, 8]),
        node("Relu", ["a"], ["b"]),
        node("ReduceMean", ["b"], ["c"], axes=[2], keepdims=0),
        node("Transpose", ["c"], ["d"], perm=[0, 2, 1]),
        node("MatMul", ["d", "w2"], ["e"]),
        node("Softmax", ["e"], ["y"], axis=2),
    ]
    weights = {"w1": edges, "w2": random.normal(0, 0.7, (32, classes))}
    model = _model(nodes, ["n", 3, "?", "w"], ["n", "t", classes], weights)
    entry = model.metadata_props.add()
    entry.key, entry.value = "character", "\n".join(CHARACTERS) + "\n"
    return model
