"""A small voice activity detector as Silero's file is: spectra, an LSTM, a branch per rate, inputs without sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper as oh
import onnx.numpy_helper as onh

FRAME, STEP, WIDTH = 256, 128, 128


def detector(seed: int = 0, *, renamed: str | None = None) -> onnx.ModelProto:
    """`renamed` is another name for its output."""
    random = np.random.default_rng(seed)

    def weight(name: str, *shape: int, scale: float) -> onnx.TensorProto:
        return onh.from_array(random.normal(0, scale, shape).astype(np.float32), name)

    def integers(name: str, *values: int) -> onnx.TensorProto:
        return onh.from_array(np.array(values, np.int64), name)

    bins = FRAME // 2 + 1
    weights = [
        onh.from_array(np.hanning(FRAME).astype(np.float32), "window"),
        onh.from_array(np.array(STEP, np.int64), "step"),
        onh.from_array(np.array(FRAME, np.int64), "length"),
        weight("conv.weight", WIDTH, bins, 3, scale=0.05),
        weight("conv.bias", WIDTH, scale=0.1),
        weight("lstm.w", 1, 4 * WIDTH, WIDTH, scale=0.15),
        weight("lstm.r", 1, 4 * WIDTH, WIDTH, scale=0.15),
        weight("lstm.b", 1, 8 * WIDTH, scale=0.1),
        weight("out.weight", WIDTH, 1, scale=1.2),
        integers("sixteen", 16000),
        integers("zero", 0),
        integers("one", 1),
        integers("two", 2),
        integers("last", -1),
        integers("flat", 1, WIDTH),
    ]
    answers = {"then": "then.chance", "else": "else.chance"}
    branches = {}
    for name, answer in answers.items():
        nodes = [
            oh.make_node("Unsqueeze", ["input", "last"], [f"{name}.signal"]),
            oh.make_node("STFT", [f"{name}.signal", "step", "window", "length"], [f"{name}.stft"]),
            oh.make_node("Mul", [f"{name}.stft", f"{name}.stft"], [f"{name}.squares"]),
            oh.make_node("ReduceSum", [f"{name}.squares", "last"], [f"{name}.power"], keepdims=0),
            oh.make_node("Sqrt", [f"{name}.power"], [f"{name}.magnitude"]),
            oh.make_node("Transpose", [f"{name}.magnitude"], [f"{name}.bins"], perm=[0, 2, 1]),
            oh.make_node("Conv", [f"{name}.bins", "conv.weight", "conv.bias"], [f"{name}.conv"], pads=[1, 1]),
            oh.make_node("Relu", [f"{name}.conv"], [f"{name}.relu"]),
            oh.make_node("ReduceMean", [f"{name}.relu", "last"], [f"{name}.mean"], keepdims=0),
            oh.make_node("Unsqueeze", [f"{name}.mean", "zero"], [f"{name}.row"]),
            oh.make_node("Slice", ["state", "zero", "one", "zero"], [f"{name}.h"]),
            oh.make_node("Slice", ["state", "one", "two", "zero"], [f"{name}.c"]),
            oh.make_node(
                "LSTM",
                [f"{name}.row", "lstm.w", "lstm.r", "lstm.b", "", f"{name}.h", f"{name}.c"],
                ["", f"{name}.hn", f"{name}.cn"],
                hidden_size=WIDTH,
            ),
            oh.make_node("Concat", [f"{name}.hn", f"{name}.cn"], [f"{name}.state"], axis=0),
            oh.make_node("Reshape", [f"{name}.hn", "flat"], [f"{name}.vector"]),
            oh.make_node("MatMul", [f"{name}.vector", "out.weight"], [f"{name}.logit"]),
            oh.make_node("Sigmoid" if name == "then" else "Neg", [f"{name}.logit"], [answer]),
        ]
        values = [oh.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None) for value in (answer, f"{name}.state")]
        branches[f"{name}_branch"] = oh.make_graph(nodes, name, [], values)
    output = renamed or "output"
    nodes = [
        oh.make_node("Equal", ["sr", "sixteen"], ["fast"]),
        oh.make_node("If", ["fast"], [output, "stateN"], **branches),
    ]
    inputs = [
        oh.make_tensor_value_info("input", onnx.TensorProto.FLOAT, [None, None]),
        oh.make_tensor_value_info("state", onnx.TensorProto.FLOAT, [2, None, WIDTH]),
        oh.make_tensor_value_info("sr", onnx.TensorProto.INT64, []),
    ]
    outputs = [
        oh.make_tensor_value_info(output, onnx.TensorProto.FLOAT, [None, 1]),
        oh.make_tensor_value_info("stateN", onnx.TensorProto.FLOAT, [None, None, None]),
    ]
    graph = oh.make_graph(nodes, "vad", inputs, outputs, weights)
    proto = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(proto)
    return proto


def bursts(seconds: float, seed: int = 1) -> npt.NDArray[np.float32]:
    """Noise that comes and goes."""
    random = np.random.default_rng(seed)
    count = int(16000 * seconds)
    loud: npt.NDArray[Any] = np.repeat(random.integers(0, 2, int(seconds * 2.5) + 1), 6400)[:count]
    return (random.normal(0, 0.02, count) + loud * random.normal(0, 0.5, count)).astype(np.float32)
