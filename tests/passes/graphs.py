"""Small models that meet every pass: a convolutional network, an encoder as exporters write it, decoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper as oh
import onnx.numpy_helper as onh
import onnx_ir
import onnxruntime

from edgec.frontend.decoder import build_decoder
from edgec.frontend.spec import DecoderSpec, LayerSpec, Rope
from edgec.ir.model import DecoderFacts, ModelFacts, ModelIR

Arrays = dict[str, npt.NDArray[Any]]
FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


class GraphBuilder:
    """Nodes in order, with weights from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: Arrays = {}

    def node(self, op_type: str, inputs: Sequence[str], *, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"{op_type.lower()}{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(oh.make_node(op_type, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def weight(self, *shape: int, scale: float = 0.3, shift: float = 0.0) -> str:
        return self.constant(self.random.normal(shift, scale, shape).astype(np.float32))

    def constant(self, array: Any) -> str:
        name = f"constant{len(self.weights)}"
        self.weights[name] = np.asarray(array)
        return name

    def floats(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def model(
        self, inputs: Mapping[str, tuple[int, Sequence[Any]]], outputs: Mapping[str, tuple[int, Sequence[Any]]]
    ) -> ModelIR:
        for result, name in zip(outputs, self.results, strict=True):
            self.nodes.append(oh.make_node("Identity", [name], [result]))
        graph = oh.make_graph(
            self.nodes,
            "g",
            [oh.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
            [oh.make_tensor_value_info(n, t, s) for n, (t, s) in outputs.items()],
            [onh.from_array(array, name) for name, array in self.weights.items()],
        )
        proto = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 23)], ir_version=10)
        onnx.checker.check_model(proto)
        return graph_model(proto)

    results: Sequence[str] = ()


def graph_model(proto: onnx.ModelProto) -> ModelIR:
    return ModelIR(onnx_ir.serde.deserialize_model(proto), "graph", ModelFacts("tiny", "onnx", "onnx", "0" * 64, 0))


def run(model: onnx_ir.Model, feed: Arrays) -> list[npt.NDArray[Any]]:
    """The graph in onnxruntime, without its own optimizations."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = onnx_ir.serde.serialize_model(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return [np.asarray(result) for result in session.run(None, feed)]


def convolutional_network(batch: int | str = 1) -> tuple[ModelIR, Arrays]:
    """Stem, depthwise and pointwise convolutions, a residual, pools, resize, concat, two heads."""
    g = GraphBuilder(3)

    def conv(x: str, inputs: int, outputs: int, kernel: int, group: int = 1, **attributes: Any) -> str:
        weight = g.weight(outputs, inputs // group, kernel, kernel)
        return str(g.node("Conv", [x, weight, g.weight(outputs)], group=group, **attributes))

    def relu6(x: str) -> str:
        return str(g.node("Clip", [x, g.floats(0.0), g.floats(6.0)]))

    padded = g.node("Pad", ["image", g.integers(0, 0, 0, 0, 0, 0, 1, 1), g.floats(0.0)])
    stem = conv(padded, 3, 16, 3, strides=[2, 2])
    scale = [
        g.weight(16, shift=1.0),
        g.weight(16),
        g.weight(16),
        g.constant(g.random.uniform(0.5, 2, 16).astype(np.float32)),
    ]
    stem = relu6(g.node("BatchNormalization", [stem, *scale], epsilon=1e-3))
    wide = relu6(conv(stem, 16, 24, 1))
    deep = relu6(conv(wide, 24, 24, 3, group=24, auto_pad="SAME_UPPER"))
    block = g.node("Add", [conv(deep, 24, 16, 1), stem])
    pooled = g.node("MaxPool", [block], kernel_shape=[2, 2], strides=[2, 2])
    up = g.node(
        "Resize",
        [pooled, "", g.constant(np.array([1, 1, 2, 2], np.float32))],
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )
    joined = g.node("Concat", [up, block], axis=1)
    mixed = conv(joined, 32, 20, 3, pads=[1, 1, 1, 1])
    silu = g.node("Mul", [mixed, g.node("Sigmoid", [mixed])])
    averaged = g.node("AveragePool", [silu], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    head = g.node("Flatten", [g.node("GlobalAveragePool", [averaged])])
    logits = g.node("Gemm", [head, g.weight(7, 20), g.weight(7)], transB=1)
    boxes = g.node("Reshape", [conv(silu, 20, 5, 1), g.integers(0, 5, -1)])
    boxes = g.node("Transpose", [g.node("Sigmoid", [boxes])], perm=[0, 2, 1])
    g.results = [logits, boxes]
    model = g.model(
        {"image": (FLOAT, [batch, 3, 16, 16])}, {"logits": (FLOAT, [batch, 7]), "boxes": (FLOAT, [batch, 64, 5])}
    )
    count = batch if isinstance(batch, int) else 2
    return model, {"image": np.random.default_rng(4).normal(size=(count, 3, 16, 16)).astype(np.float32)}


def text_detector() -> tuple[ModelIR, Arrays]:
    """Like PP-OCR's: single numbers around activations written out, windows that are transposed side by side."""
    g = GraphBuilder(11)

    def conv(x: str, inputs: int, outputs: int, kernel: int = 1, group: int = 1, **attributes: Any) -> str:
        weight = g.weight(outputs, inputs // group, kernel, kernel)
        return str(g.node("Conv", [x, weight, g.weight(outputs)], group=group, **attributes))

    def affine(x: str) -> str:
        product = g.node("Mul", [g.weight(1, shift=1.0), x])
        return str(g.node("Add", [product, g.weight(1)]))

    def hard_swish(x: str) -> str:
        gate = g.node("Clip", [g.node("Add", [x, g.floats(3.0)]), g.floats(0.0), g.floats(6.0)])
        return str(g.node("Div", [g.node("Mul", [x, gate]), g.floats(6.0)]))

    def block(x: str, inputs: int, outputs: int) -> str:
        deep = affine(hard_swish(affine(conv(x, inputs, inputs, 3, group=inputs, pads=[1, 1, 1, 1]))))
        return affine(hard_swish(affine(conv(deep, inputs, outputs))))

    def up(x: str, inputs: int, outputs: int) -> str:
        return str(g.node("ConvTranspose", [x, g.weight(inputs, outputs, 2, 2)], strides=[2, 2]))

    stem = conv("image", 3, 8, 3, strides=[2, 2], pads=[1, 1, 1, 1])
    features = block(block(stem, 8, 12), 12, 9)
    squeezed = conv(g.node("GlobalAveragePool", [features]), 9, 9)
    gate = g.node("HardSigmoid", [squeezed], alpha=1 / 6, beta=0.5)
    excited = g.node("Mul", [features, gate])
    own = g.node("Mul", [excited, g.node("HardSigmoid", [excited], alpha=1 / 6, beta=0.5)])
    scale = [
        g.weight(6, shift=1.0),
        g.weight(6),
        g.weight(6),
        g.constant(g.random.uniform(0.5, 2, 6).astype(np.float32)),
    ]
    wide = g.node("Relu", [g.node("BatchNormalization", [up(own, 9, 6), *scale])])
    g.results = [g.node("Sigmoid", [g.node("Add", [up(wide, 6, 1), g.weight(1)])])]
    model = g.model({"image": (FLOAT, [1, 3, 12, 16])}, {"map": (FLOAT, [1, 1, 24, 32])})
    return model, {"image": np.random.default_rng(12).normal(size=(1, 3, 12, 16)).astype(np.float32)}


def encoder(layers: int = 2) -> tuple[ModelIR, Arrays]:
    """A BERT in the words of an exporter: shapes computed from Shape, LayerNorm and GELU from primitives."""
    g = GraphBuilder(5)
    hidden, heads, width, inner = 24, 3, 8, 40

    def layer_norm(x: str) -> str:
        mean = g.node("ReduceMean", [x, g.integers(-1)], keepdims=1)
        centred = g.node("Sub", [x, mean])
        variance = g.node("ReduceMean", [g.node("Pow", [centred, g.floats(2.0)]), g.integers(-1)], keepdims=1)
        root = g.node("Sqrt", [g.node("Add", [variance, g.floats(1e-12)])])
        normal = g.node("Div", [centred, root])
        return str(g.node("Add", [g.node("Mul", [normal, g.weight(hidden, shift=1.0)]), g.weight(hidden)]))

    def linear(x: str, inputs: int, outputs: int) -> str:
        return str(g.node("Add", [g.weight(outputs), g.node("MatMul", [x, g.weight(inputs, outputs)])]))

    def dim(of: str, axis: int) -> str:
        return str(
            g.node(
                "Unsqueeze",
                [g.node("Gather", [g.node("Shape", [of]), g.constant(np.array(axis, np.int64))]), g.integers(0)],
            )
        )

    batch, sequence = dim("ids", 0), dim("ids", 1)
    positions = g.node(
        "Slice", [g.constant(np.arange(16, dtype=np.int64)[None]), g.integers(0), sequence, g.integers(1)]
    )
    x = g.node(
        "Add", [g.node("Gather", [g.weight(50, hidden), "ids"]), g.node("Gather", [g.weight(16, hidden), positions])]
    )
    x = g.node("Dropout", [layer_norm(x)])
    mask = g.node("Unsqueeze", ["mask", g.integers(1, 2)])
    ones = g.constant(np.array([1], np.int64))
    target = g.node("Concat", [batch, ones, sequence, sequence], axis=0)
    mask = g.node("Cast", [g.node("Expand", [mask, target])], to=FLOAT)
    mask = g.node("Mul", [g.node("Sub", [g.floats(1.0), mask]), g.floats(-1e9)])
    for _ in range(layers):

        def split_heads(y: str, order: list[int]) -> str:
            shape = g.node("Concat", [batch, sequence, g.integers(heads), g.integers(width)], axis=0)
            return str(g.node("Transpose", [g.node("Reshape", [y, shape])], perm=order))

        query = split_heads(linear(x, hidden, hidden), [0, 2, 1, 3])
        key = split_heads(linear(x, hidden, hidden), [0, 2, 3, 1])
        value = split_heads(linear(x, hidden, hidden), [0, 2, 1, 3])
        scores = g.node("Div", [g.node("MatMul", [query, key]), g.floats(float(np.sqrt(width)))])
        weights = g.node("Softmax", [g.node("Add", [scores, mask])], axis=-1)
        context = g.node("Transpose", [g.node("MatMul", [weights, value])], perm=[0, 2, 1, 3])
        context = g.node("Reshape", [context, g.node("Concat", [batch, sequence, g.integers(hidden)], axis=0)])
        x = layer_norm(g.node("Add", [linear(context, hidden, hidden), x]))
        wide = linear(x, hidden, inner)
        bell = g.node("Erf", [g.node("Div", [wide, g.floats(float(np.sqrt(2)))])])
        gelu = g.node("Mul", [g.node("Mul", [wide, g.node("Add", [bell, g.floats(1.0)])]), g.floats(0.5)])
        x = layer_norm(g.node("Add", [linear(gelu, inner, hidden), x]))
    g.results = [x]
    shape = ["batch", "sequence"]
    model = g.model({"ids": (INT64, shape), "mask": (INT64, shape)}, {"hidden": (FLOAT, [*shape, hidden])})
    random = np.random.default_rng(6)
    mask_array = np.ones((2, 9), np.int64)
    mask_array[1, 5:] = 0
    return model, {"ids": random.integers(0, 50, (2, 9)), "mask": mask_array}


class RandomWeights:
    """Weights of a decoder by name, made when they are asked for."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = shapes
        self.read_names: list[str] = []

    def read(self, name: str) -> npt.NDArray[np.float32]:
        self.read_names.append(name)
        seed = sum(name.encode())
        shift = 1.0 if "norm" in name else 0.0
        return np.random.default_rng(seed).normal(shift, 0.2, self.shapes[name]).astype(np.float32)

    def grid_bits(self, name: str) -> int | None:
        return None


def decoder(*, biases: bool, tied: bool) -> tuple[ModelIR, Arrays, RandomWeights]:
    from edgec.frontend.tensors import tensor_shapes

    facts = DecoderFacts(
        layers=2,
        hidden=32,
        intermediate=48,
        heads=4,
        kv_heads=2,
        head_dim=8,
        vocabulary=40,
        context_length=64,
        tied_embedding=tied,
    )
    rope = Rope(tuple(float(10000.0 ** (-i / 4)) for i in range(4)))
    biased = frozenset({"q_proj", "k_proj", "v_proj"} if biases else ())
    spec = DecoderSpec(facts, (LayerSpec(rope),) * 2, norm_epsilon=1e-5, biases=biased)
    weights = RandomWeights(dict(tensor_shapes(spec)))
    model = build_decoder(spec, weights, name="tiny")
    ir = ModelIR(model, "decoder", ModelFacts("tiny", "llama", "hf", "0" * 64, 0), facts)
    random = np.random.default_rng(8)
    feed: Arrays = {"input_ids": random.integers(0, 40, (1, 3)), "position_ids": np.arange(2, 5, dtype=np.int64)[None]}
    for layer in range(2):
        for part in ("key", "value"):
            feed[f"past_key_values.{layer}.{part}"] = random.normal(size=(1, 2, 2, 8)).astype(np.float32)
    return ir, feed, weights
