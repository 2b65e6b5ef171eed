"""Small models with every kind of weight matrix, made from a seed."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper as onh
import onnx_ir

from edgec.ir.model import ModelFacts, ModelIR
from edgec.ir.plan import Plan, Prediction, TensorPlan

FLOAT, INT64, UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.UINT8


def model_ir(nodes: list, inputs: list, outputs: list, weights: dict[str, np.ndarray]) -> ModelIR:
    graph = oh.make_graph(nodes, "g", inputs, outputs, [onh.from_array(a, n) for n, a in weights.items()])
    proto = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 23)], ir_version=10)
    onnx.checker.check_model(proto)
    parameters = sum(a.size for a in weights.values())
    facts = ModelFacts("tiny", "onnx", "onnx", "0" * 64, parameters)
    return ModelIR(onnx_ir.serde.deserialize_model(proto), "graph", facts)


def tied_text_model(vocabulary: int = 50, width: int = 48) -> ModelIR:
    """Gather -> MatMul -> Gemm(transB) -> Add(bias) -> tied head, with a width that is no multiple of 32."""
    rng = np.random.default_rng(21)
    weights = {
        "embed": rng.standard_normal((vocabulary, width)).astype(np.float32),
        "linear": rng.standard_normal((width, 64)).astype(np.float32),
        "gemm": rng.standard_normal((width, 64)).astype(np.float32),
        "bias": rng.standard_normal(width).astype(np.float32),
    }
    nodes = [
        oh.make_node("Gather", ["embed", "ids"], ["x"]),
        oh.make_node("MatMul", ["x", "linear"], ["a"]),
        oh.make_node("Gemm", ["a", "gemm"], ["b"], transB=1),
        oh.make_node("Add", ["b", "bias"], ["c"]),
        oh.make_node("Transpose", ["embed"], ["head"], perm=[1, 0]),
        oh.make_node("MatMul", ["c", "head"], ["logits"]),
    ]
    inputs = [oh.make_tensor_value_info("ids", INT64, ["n"])]
    outputs = [oh.make_tensor_value_info("logits", FLOAT, ["n", vocabulary])]
    return model_ir(nodes, inputs, outputs, weights)


def picture_model(channels: int = 3, dtype: int = FLOAT) -> ModelIR:
    """A 1x1 convolution of pictures of 6 x 4 pixels, and a task that says how they are read."""
    weight = np.random.default_rng(23).standard_normal((8, channels, 1, 1)).astype(np.float32)
    nodes = [oh.make_node("Cast", ["image"], ["x"], to=FLOAT), oh.make_node("Conv", ["x", "w"], ["y"])]
    inputs = [oh.make_tensor_value_info("image", dtype, [1, channels, 4, 6])]
    outputs = [oh.make_tensor_value_info("y", FLOAT, [1, 8, 4, 6])]
    image = {
        "width": 6, "height": 4, "layout": "NCHW", "channels": "RGB", "fit": "stretch",
        "interpolation": "bilinear", "mean": [127, 127, 127], "std": [128, 128, 128],
    }  # fmt: skip
    task = {"type": "image-classification", "image": image, "labels": None, "scores": "logits"}
    return dataclasses.replace(model_ir(nodes, inputs, outputs, {"w": weight}), task=task)


def convolution_model() -> ModelIR:
    """A 3x3 convolution, a depthwise one and a 1x1 one."""
    rng = np.random.default_rng(22)
    weights = {
        "conv": rng.standard_normal((16, 5, 3, 3)).astype(np.float32),
        "depthwise": rng.standard_normal((16, 1, 3, 3)).astype(np.float32),
        "pointwise": rng.standard_normal((10, 16, 1, 1)).astype(np.float32),
    }
    nodes = [
        oh.make_node("Conv", ["image", "conv"], ["a"], pads=[1, 1, 1, 1]),
        oh.make_node("Conv", ["a", "depthwise"], ["b"], group=16, pads=[1, 1, 1, 1]),
        oh.make_node("Conv", ["b", "pointwise"], ["y"]),
    ]
    inputs = [oh.make_tensor_value_info("image", FLOAT, [1, 5, 8, 8])]
    outputs = [oh.make_tensor_value_info("y", FLOAT, [1, 10, 8, 8])]
    return model_ir(nodes, inputs, outputs, weights)


def plan_for(bits: dict[str, int]) -> Plan:
    tensors = tuple(
        TensorPlan(name, b, 0 if b >= 16 else 32, "float" if b >= 16 else "asymmetric", "test")
        for name, b in bits.items()
    )
    nothing = Prediction(0, 0, 0, 0, 0, 0.0, 0.0)
    return Plan("tiny", "test", tensors, None, 0, 0, {}, 1, ("simd128",), 8, nothing)
