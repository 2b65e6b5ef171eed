"""What each pass leaves behind."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx.helper as oh
import onnx_ir as ir
import pytest

from edgec.ir.weight_use import weight_uses
from edgec.passes import simplify
from edgec.passes.joined_linears import joined_name
from tests.passes import graphs


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


@pytest.fixture(scope="module")
def cnn() -> ir.Model:
    return simplify(graphs.convolutional_network()[0]).model


@pytest.fixture(scope="module")
def encoder() -> ir.Model:
    return simplify(graphs.encoder()[0]).model


def test_encoder_is_told_in_large_operators(encoder: ir.Model) -> None:
    found = operators(encoder)
    assert found["Attention"] == 2
    assert found["LayerNormalization"] == 5
    assert found["Gelu"] == 2
    assert found["MatMul"] == 2 * 4  # query, key and value are one
    assert found["Split"] == 2
    for gone in ("Erf", "Softmax", "ReduceMean", "Pow", "Dropout", "Div", "Identity"):
        assert gone not in found


def test_masks_stay_small_until_they_are_read(encoder: ir.Model) -> None:
    expands = [node for node in encoder.graph if node.op_type == "Expand"]
    assert len(expands) == 1
    assert {use.node.op_type for use in expands[0].outputs[0].uses()} == {"Attention"}
    assert [str(dim) for dim in expands[0].inputs[0].shape] == ["batch", "1", "1", "sequence"]


def test_shapes_are_expressions_of_the_inputs(encoder: ir.Model) -> None:
    for node in encoder.graph:
        for value in node.outputs:
            assert value.shape is not None
            assert all(isinstance(dim, int) or dim.free_symbols() <= {"batch", "sequence"} for dim in value.shape)


def test_reshapes_to_symbolic_shapes_are_constants(encoder: ir.Model) -> None:
    targets = [node.inputs[1] for node in encoder.graph if node.op_type == "Reshape" and len(node.outputs[0].shape) > 1]
    assert all(value.is_initializer() for value in targets)


def test_convolutions_take_padding_and_normalization(cnn: ir.Model) -> None:
    found = operators(cnn)
    assert "Pad" not in found and "BatchNormalization" not in found and "Gemm" not in found
    convs = [node for node in cnn.graph if node.op_type == "Conv"]
    assert list(convs[0].attributes.get_ints("pads")) == [0, 0, 1, 1]
    assert all("auto_pad" not in node.attributes for node in convs)


def test_activations_have_their_channels_last(cnn: ir.Model) -> None:
    sandwiched = ("Conv", "MaxPool", "AveragePool", "Resize")
    for node in cnn.graph:
        if node.op_type in sandwiched:
            before, after = node.inputs[0].producer(), [use.node for use in node.outputs[0].uses()]
            assert list(before.attributes.get_ints("perm")) == [0, 3, 1, 2]
            assert [list(n.attributes.get_ints("perm")) for n in after] == [[0, 2, 3, 1]]
    count = sum(node.op_type in sandwiched for node in cnn.graph)
    heads = 1  # the weight of the Gemm
    assert operators(cnn)["Transpose"] == 2 * count + 1 + heads  # and the input


def test_numbers_around_activations_go_into_convolutions() -> None:
    found = operators(simplify(graphs.text_detector()[0]).model)
    assert found["HardSwish"] == 5 and found["Clip"] == 0
    padded, read_twice, gates = 1, 1, 1  # what stays: before the second depthwise convolution, behind the second block
    assert found["Mul"] == read_twice + gates and found["Add"] == padded + read_twice


def test_transposed_windows_side_by_side_are_products() -> None:
    model = simplify(graphs.text_detector()[0]).model
    assert operators(model)["ConvTranspose"] == 0 and operators(model)["DepthToSpace"] == 2
    before = [n.inputs[0].producer().inputs[0].producer() for n in model.graph if n.op_type == "DepthToSpace"]
    assert [node.op_type for node in before] == ["Relu", "Sigmoid"]


@pytest.mark.parametrize("size", [(13, 14), (3, 2), (1, 6)])
def test_maxima_over_growing_windows_are_chained(size: tuple[int, int]) -> None:
    """The largest window takes the next one that it can; others, and what is no centred maximum, stay."""
    pools = [([5, 5], [2, 2]), ([9, 9], [4, 4]), ([3, 13], [1, 6]), ([13, 13], [6, 6]), ([4, 4], [2, 1])]
    nodes = []
    for i, (kernel, before) in enumerate(pools):
        behind = [k - 1 - p for k, p in zip(kernel, before, strict=True)]
        nodes.append(oh.make_node("MaxPool", ["x"], [f"y{i}"], kernel_shape=kernel, pads=before + behind))
    nodes.append(oh.make_node("MaxPool", ["x"], ["y5"], kernel_shape=[7, 7], pads=[3] * 4, strides=[2, 2]))
    nodes.append(oh.make_node("AveragePool", ["x"], ["y6"], kernel_shape=[7, 7], pads=[3] * 4))
    inputs = [oh.make_tensor_value_info("x", 1, [1, 2, *size])]
    outputs = [oh.make_tensor_value_info(f"y{i}", 1, [1, 2, None, None]) for i in range(7)]
    graph = oh.make_graph(nodes, "pools", inputs, outputs)
    model = graphs.graph_model(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 23)]))
    simplified = simplify(model).model
    kernels = [list(node.attributes.get_ints("kernel_shape")) for node in simplified.graph]
    assert kernels == [[5, 5], [5, 5], [3, 13], [5, 5], [4, 4], [7, 7], [7, 7]]
    feed = {"x": np.random.default_rng(0).normal(-3, 1, (1, 2, *size)).astype(np.float32)}
    for one, other in zip(graphs.run(model.model, feed), graphs.run(simplified, feed), strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_are_still_seen_as_matrices(cnn: ir.Model) -> None:
    uses = weight_uses(cnn)
    assert Counter(use.layout for use in uses.values()) == {"conv": 5, "nk": 1}


@pytest.mark.parametrize("biases", [False, True])
def test_decoder_projections_are_joined_and_stay_lazy(biases: bool) -> None:
    model, _, weights = graphs.decoder(biases=biases, tied=True)
    simplified = simplify(model).model
    assert not [name for name in weights.read_names if name.endswith("weight") and "norm" not in name]
    found = operators(simplified)
    assert found["MatMul"] == 2 * 4 + 1
    assert found["Split"] == 2 * 2
    assert found["Add"] == 2 * (3 if biases else 2)
    qkv = simplified.graph.initializers["model.layers.0.self_attn.q_k_v_proj.weight"].const_value
    assert isinstance(qkv, ir.LazyTensor) and list(qkv.shape) == [32, 32 + 16 + 16]
    parts = [weights.read(f"model.layers.0.self_attn.{part}_proj.weight").T for part in "qkv"]
    np.testing.assert_array_equal(qkv.numpy(), np.concatenate(parts, axis=1))
    assert list(simplified.graph.initializers["model.layers.1.mlp.gate_up_proj.weight"].const_value.shape) == [32, 96]


@pytest.mark.parametrize(
    ("names", "joined"),
    [
        (["a.q_proj.weight", "a.k_proj.weight", "a.v_proj.weight"], "a.q_k_v_proj.weight"),
        (["onnx::MatMul_740", "onnx::MatMul_750"], "onnx::MatMul_740_750"),
        (["x", "y"], "x_y"),
        (["layer.1.w", "layer.11.w"], "layer.1_11.w"),
    ],
)
def test_joined_names(names: list[str], joined: str) -> None:
    assert joined_name(names) == joined
