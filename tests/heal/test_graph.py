"""Graphs in torch give what onnxruntime gives, and their gradients are those of the numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.helper as oh
import onnx_ir
import onnxruntime
import pytest
import torch

from edgec.compress.calibration.feeds import decoder_feeds
from edgec.errors import UnsupportedError
from edgec.frontend import load
from edgec.heal.graph import TorchGraph
from edgec.passes import simplify
from tests.compress.graphs import FLOAT, convolution_model, model_ir
from tests.compress.prune import encoders
from tests.frontend.decoders import save_reference

FAMILIES = [
    "llama",
    "mistral",
    "qwen3",
    "gemma2",
    "gemma3",
    "olmo2",
    "cohere",
    "phi",
    "gpt2",
    "falcon",
    "opt",
    "stablelm",
]


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_onnxruntime(tmp_path: Path, family: str) -> None:
    save_reference(tmp_path, family, plain=False)
    model = simplify(load(str(tmp_path)))
    ids = np.random.default_rng(1).integers(0, 131, 40).tolist()
    feeds = decoder_feeds(model, ids)
    session = onnxruntime.InferenceSession(onnx_ir.to_proto(model.model).SerializeToString())
    expected = session.run(["logits"], feeds)[0]
    graph = TorchGraph(model, ["logits"])
    fed = {name: torch.from_numpy(feeds[name]) for name in ("input_ids", "position_ids")}
    with torch.no_grad():
        got = graph(graph.parameters, fed)["logits"].numpy()
    np.testing.assert_allclose(got, expected, rtol=2e-3, atol=2e-4)
    two = {"input_ids": fed["input_ids"].repeat(2, 1), "position_ids": fed["position_ids"]}
    with torch.no_grad():
        both = graph(graph.parameters, two)["logits"].numpy()
    np.testing.assert_allclose(both[1:], got, rtol=1e-4, atol=1e-5)


def test_an_encoder_is_that_of_onnxruntime() -> None:
    model, sample = encoders.encoder(), encoders.samples()[0]
    session = onnxruntime.InferenceSession(onnx_ir.to_proto(model.model).SerializeToString())
    expected = session.run(None, sample)[0]
    name = str(model.model.graph.outputs[0].name)
    graph = TorchGraph(model, [name])
    assert "sizes" not in graph.parameters and "words" in graph.parameters
    with torch.no_grad():
        got = graph(graph.parameters, {"input_ids": torch.from_numpy(sample["input_ids"])})[name].numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_frequencies_are_not_trained(tmp_path: Path) -> None:
    save_reference(tmp_path, "llama")
    assert not any("inv_freq" in name for name in TorchGraph(simplify(load(str(tmp_path))), ["logits"]).parameters)


def test_operators_that_cannot_be_trained_through_are_named() -> None:
    x = oh.make_tensor_value_info("x", FLOAT, [1, 5])
    nodes = [oh.make_node("NonZero", ["x"], ["i"]), oh.make_node("Cast", ["i"], ["y"], to=FLOAT)]
    with pytest.raises(UnsupportedError, match="`NonZero`"):
        TorchGraph(model_ir(nodes, [x], [oh.make_tensor_value_info("y", FLOAT, [2, None])], {}), ["y"])


CONVOLUTION = {"w": (12, 5, 3, 3), "b": (12,)}
IMAGE_NODES: list[tuple[str, dict[str, tuple[int, ...]], dict[str, object]]] = [
    ("Conv", CONVOLUTION, {}),
    ("Conv", CONVOLUTION, {"pads": [0, 1, 2, 3], "strides": [2, 1], "dilations": [1, 2]}),
    ("Conv", CONVOLUTION, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", CONVOLUTION, {"auto_pad": "SAME_LOWER", "strides": [2, 3]}),
    ("Conv", {"w": (10, 1, 3, 2)}, {"group": 5, "auto_pad": "VALID"}),
    ("MaxPool", {}, {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
    ("AveragePool", {}, {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1]}),
    ("AveragePool", {}, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1, "strides": [2, 2]}),
    ("GlobalAveragePool", {}, {}),
    ("GlobalMaxPool", {}, {}),
    ("Flatten", {}, {"axis": 2}),
    ("Flatten", {}, {"axis": -1}),
    ("BatchNormalization", {"scale": (5,), "bias": (5,), "mean": (5,), "variance": (5,)}, {"epsilon": 1e-3}),
    ("HardSigmoid", {}, {"alpha": 0.3}),
    ("HardSwish", {}, {}),
    ("LeakyRelu", {}, {"alpha": 0.2}),
]


@pytest.mark.parametrize(("operator", "shapes", "attributes"), IMAGE_NODES)
def test_operators_of_pictures(
    operator: str, shapes: dict[str, tuple[int, ...]], attributes: dict[str, object]
) -> None:
    rng = np.random.default_rng(5)
    weights = {name: rng.uniform(0.2, 1.0, shape).astype(np.float32) for name, shape in shapes.items()}
    node = oh.make_node(operator, ["x", *weights], ["y"], **attributes)
    x = oh.make_tensor_value_info("x", FLOAT, [1, 5, 9, 11])
    y = oh.make_tensor_value_info("y", FLOAT, [None] * (2 if operator == "Flatten" else 4))
    model = model_ir([node], [x], [y], weights)
    value = rng.standard_normal((1, 5, 9, 11)).astype(np.float32)
    session = onnxruntime.InferenceSession(onnx_ir.to_proto(model.model).SerializeToString())
    expected = session.run(["y"], {"x": value})[0]
    graph = TorchGraph(model, ["y"])
    got = graph(graph.parameters, {"x": torch.from_numpy(value)})["y"].numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_runs_can_be_stacked() -> None:
    """Of a graph whose batch is fixed: three pictures, each as if it were alone, gradients included."""
    model = convolution_model()
    images = torch.randn((3, 1, 5, 8, 8), generator=torch.Generator().manual_seed(3))
    alone, stacked = TorchGraph(model, ["y"]), TorchGraph(model, ["y"], stacked=True)
    weights = {name: tensor.requires_grad_() for name, tensor in alone.parameters.items()}
    together = stacked(weights, {"image": images})["y"]
    apart = torch.stack([alone(weights, {"image": image})["y"] for image in images])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)
    found = torch.autograd.grad(together.square().sum(), list(weights.values()))
    expected = torch.autograd.grad(apart.square().sum(), list(weights.values()))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-1)  # of values in the thousands


@pytest.mark.parametrize("shape", [(6, 1, 3, 5), (6, 2, 3, 5)])
def test_gradients_through_filters_that_are_not_trained(shape: tuple[int, ...]) -> None:
    """Those of torch's own convolution; each output of the second one has two inputs, so it is none of channels."""
    channels = shape[0] * shape[1]
    node = oh.make_node("Conv", ["x", "w"], ["y"], group=6, pads=[1, 2, 1, 2])
    x = oh.make_tensor_value_info("x", FLOAT, [1, channels, 7, 9])
    rng = np.random.default_rng(8)
    filters = rng.standard_normal(shape).astype(np.float32)
    model = model_ir([node], [x], [oh.make_tensor_value_info("y", FLOAT, [1, 6, 7, 9])], {"w": filters})
    graph = TorchGraph(model, ["y"], stacked=True)
    images = torch.from_numpy(rng.standard_normal((3, 1, channels, 7, 9)).astype(np.float32)).requires_grad_()
    got = graph(graph.parameters, {"x": images})["y"][:, 0]
    expected = torch.nn.functional.conv2d(images[:, 0], torch.from_numpy(filters), padding=(1, 2), groups=6)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    found, wanted = (torch.autograd.grad(values.sin().sum(), [images]) for values in (got, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_size_that_is_rounded_up_is_refused() -> None:
    node = oh.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, name="pool")
    x = oh.make_tensor_value_info("x", FLOAT, [1, 5, 9, 11])
    model = model_ir([node], [x], [oh.make_tensor_value_info("y", FLOAT, [None] * 4)], {})
    graph = TorchGraph(model, ["y"])
    with pytest.raises(UnsupportedError, match=r"`pool` rounds its size up"):
        graph({}, {"x": torch.zeros((1, 5, 9, 11))})
