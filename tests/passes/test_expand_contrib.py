"""onnxruntime's own operators, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper as oh
import onnx.numpy_helper as onh
import pytest

from edgec.ir.weight_use import weight_uses
from edgec.passes import simplify
from tests.passes.graphs import graph_model, run

RNG = np.random.default_rng(13)
OPSETS = [oh.make_opsetid("", 23), oh.make_opsetid("com.microsoft", 1)]
Arrays = dict[str, npt.NDArray[Any]]


def contrib(op_type: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return oh.make_node(op_type, inputs, outputs, domain="com.microsoft", **attributes)


def model(nodes: list[onnx.NodeProto], inputs: Arrays, outputs: list[str], weights: Arrays | None = None) -> Any:
    kinds = {name: oh.np_dtype_to_tensor_dtype(array.dtype) for name, array in inputs.items()}
    graph = oh.make_graph(
        nodes,
        "g",
        [oh.make_tensor_value_info(name, kinds[name], array.shape) for name, array in inputs.items()],
        [oh.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [onh.from_array(array, name) for name, array in (weights or {}).items()],
    )
    return graph_model(oh.make_model(graph, opset_imports=OPSETS, ir_version=10))


def floats(*shape: int) -> npt.NDArray[np.float32]:
    return RNG.normal(size=shape).astype(np.float32)


X = floats(2, 3, 5, 7)
CASES: dict[str, tuple[list[onnx.NodeProto], Arrays, Arrays]] = {
    "gelu": ([contrib("Gelu", ["x"], ["y"])], {"x": X}, {}),
    "quick-gelu": ([contrib("QuickGelu", ["x"], ["y"], alpha=1.5)], {"x": X}, {}),
    "quick-gelu-silu": ([contrib("QuickGelu", ["x"], ["y"], alpha=1.0)], {"x": X}, {}),
    "fast-gelu": ([contrib("FastGelu", ["x"], ["y"])], {"x": X}, {}),
    "fast-gelu-bias": ([contrib("FastGelu", ["x", "b"], ["y"])], {"x": X}, {"b": floats(7)}),
    "bias-gelu": ([contrib("BiasGelu", ["x", "b"], ["y"])], {"x": X}, {"b": floats(7)}),
    "fused-matmul": (
        [contrib("FusedMatMul", ["x", "z"], ["y"], transB=1, alpha=0.25)],
        {"x": X, "z": floats(2, 3, 4, 7)},
        {},
    ),
    "fused-matmul-left": ([contrib("FusedMatMul", ["x", "z"], ["y"], transA=1)], {"x": X, "z": floats(5, 4)}, {}),
    "fused-matmul-plain": ([contrib("FusedMatMul", ["x", "z"], ["y"])], {"x": X, "z": floats(2, 1, 7, 4)}, {}),
    "fused-conv": (
        [
            contrib(
                *("FusedConv", ["x", "w", "b"], ["y"]),
                activation="Tanh",
                kernel_shape=[3, 3],
                strides=[2, 1],
                pads=[1, 0, 1, 1],
            )
        ],
        {"x": X},
        {"w": floats(4, 3, 3, 3), "b": floats(4)},
    ),
    "fused-conv-none": (
        [contrib("FusedConv", ["x", "w"], ["y"], kernel_shape=[2, 2])],
        {"x": X},
        {"w": floats(4, 3, 2, 2)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_like_onnxruntime(name: str) -> None:
    nodes, feed, weights = CASES[name]
    source = model(nodes, feed, ["y"], weights)
    result = simplify(source).model
    assert all(node.domain == "" for node in result.graph)
    [expected], [found] = run(source.model, feed), run(result, feed)
    assert np.abs(expected - found).max() <= 2e-6 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("more", [[], ["beta"], ["beta", "bias"]])
def test_skip_layer_normalization(more: list[str]) -> None:
    weights = {"gamma": floats(6), "beta": floats(6), "bias": floats(6)}
    feed = {"x": floats(2, 4, 6), "skip": floats(2, 4, 6)}
    node = contrib("SkipLayerNormalization", ["x", "skip", "gamma", *more], ["y", "", "", "sum"], epsilon=1e-5)
    source = model([node], feed, ["y", "sum"], {name: weights[name] for name in ("gamma", *more)})
    result = simplify(source).model
    assert all(node.domain == "" for node in result.graph)
    for expected, found in zip(run(source.model, feed), run(result, feed), strict=True):
        assert np.abs(expected - found).max() <= 1e-5


@pytest.mark.parametrize("more", [[], ["bias"]])
def test_skip_simplified_layer_normalization(more: list[str]) -> None:
    weights = {"gamma": floats(6), "bias": floats(6)}
    feed = {"x": floats(2, 4, 6), "skip": floats(2, 4, 6)}
    node = contrib(
        "SkipSimplifiedLayerNormalization", ["x", "skip", "gamma", *more], ["y", "", "", "sum"], epsilon=1e-5
    )
    source = model([node], feed, ["y", "sum"], {name: weights[name] for name in ("gamma", *more)})
    result = simplify(source).model
    assert all(node.domain == "" for node in result.graph)
    for expected, found in zip(run(source.model, feed), run(result, feed), strict=True):
        assert np.abs(expected - found).max() <= 1e-5


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("shape", [(2, 4, 24), (2, 3, 4, 8)])
def test_rotary_embedding(shape: tuple[int, ...], interleaved: int) -> None:
    tables = {"cos": floats(16, 4), "sin": floats(16, 4)}
    feed = {"x": floats(*shape), "positions": RNG.integers(0, 16, (2, 4))}
    heads = {"num_heads": 3} if len(shape) == 3 else {}
    node = contrib("RotaryEmbedding", ["x", "positions", "cos", "sin"], ["y"], interleaved=interleaved, **heads)
    source = model([node], feed, ["y"], tables)
    result = simplify(source).model
    assert all(node.domain == "" for node in result.graph)
    for expected, found in zip(run(source.model, feed), run(result, feed), strict=True):
        assert np.abs(expected - found).max() <= 1e-5


def quantized(columns: int, dtype: type, *, per_column: bool) -> Arrays:
    info = np.iinfo(dtype)
    shape = (columns,) if per_column else ()
    return {
        "w": RNG.integers(info.min, int(info.max) + 1, (40, columns)).astype(dtype),
        "scale": RNG.uniform(0.001, 0.02, shape).astype(np.float32),
        "zero": RNG.integers(info.min // 4, info.max // 4, shape).astype(dtype),
    }


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("op", ["DynamicQuantizeMatMul", "MatMulIntegerToFloat"])
def test_quantized_weights_mean_their_numbers(op: str, dtype: type, per_column: bool) -> None:
    """onnxruntime rounds the activations to 8 bits first, which is left out: so far do they differ, and no further."""
    weights = quantized(9, dtype, per_column=per_column) | {"b": floats(9)}
    feed = {"x": floats(2, 3, 40)}
    if op == "DynamicQuantizeMatMul":
        nodes = [contrib(op, ["x", "w", "scale", "zero", "b"], ["y"])]
    else:
        nodes = [
            oh.make_node("DynamicQuantizeLinear", ["x"], ["codes", "x.scale", "x.zero"]),
            contrib(op, ["codes", "w", "x.scale", "scale", "x.zero", "zero", "b"], ["y"]),
        ]
    source = model(nodes, feed, ["y"], weights)
    result = simplify(source).model
    exact = (weights["w"].astype(np.float64) - weights["zero"]) * weights["scale"]
    expected = feed["x"].astype(np.float64) @ exact + weights["b"]
    [found], [rounded] = run(result, feed), run(source.model, feed)
    assert np.abs(found - expected).max() <= 1e-5 * max(1, np.abs(expected).max())
    step = (feed["x"].max() - feed["x"].min()) / 255
    assert np.abs(rounded - expected).max() <= step * np.abs(exact).sum(axis=0).max()
    assert [use.shape for use in weight_uses(result).values()] == [(40, 9)]


def test_codes_that_come_from_elsewhere_are_dequantized() -> None:
    weights = quantized(5, np.uint8, per_column=False)
    feed = {
        "codes": RNG.integers(0, 256, (3, 40)).astype(np.uint8),
        "a.scale": np.float32(0.02),
        "a.zero": np.uint8(100),
    }
    inputs = {name: np.asarray(array) for name, array in feed.items()}
    node = contrib("MatMulIntegerToFloat", ["codes", "w", "a.scale", "scale", "a.zero", "zero"], ["y"])
    source = model([node], inputs, ["y"], weights)
    [expected], [found] = run(source.model, inputs), run(simplify(source).model, inputs)
    assert np.abs(expected - found).max() <= 1e-5 * np.abs(expected).max()


def test_a_weight_of_two_branches_is_one() -> None:
    """Both branches of an `If` read it; the one that is not taken leaves nothing behind."""
    weights = quantized(6, np.uint8, per_column=False) | {"cached": np.array([True]), "zeros": np.zeros(6, np.float32)}

    def branch(name: str, *more: onnx.NodeProto, results: list[str]) -> onnx.GraphProto:
        nodes = [contrib("DynamicQuantizeMatMul", ["x", "w", "scale", "zero"], [f"{name}.product"]), *more]
        values = [oh.make_tensor_value_info(result, onnx.TensorProto.FLOAT, None) for result in results]
        own = [onh.from_array(floats(2, 2), f"{name}.own")]
        return oh.make_graph(nodes, name, [], values, own)

    taken = branch("then", oh.make_node("Relu", ["then.product"], ["then.y"]), results=["then.y", "then.own"])
    other = branch("else", oh.make_node("Exp", ["else.product"], ["else.y"]), results=["else.y", "else.own"])
    nodes = [oh.make_node("If", ["cached"], ["y", "own"], then_branch=taken, else_branch=other)]
    feed = {"x": floats(3, 40)}
    source = model(nodes, feed, ["y", "own"], weights)
    result = simplify(source).model
    assert sorted(node.op_type for node in result.graph) == ["Identity", "MatMul", "Relu"]
    assert len(weight_uses(result)) == 1
    assert len(result.graph.initializers) == 2  # the weight, and the branch's own result
    expected, found = run(source.model, feed), run(result, feed)
    assert np.abs(expected[0] - found[0]).max() < 0.05 * np.abs(expected[0]).max()
    assert np.array_equal(expected[1], found[1])
