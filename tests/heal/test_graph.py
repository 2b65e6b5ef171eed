"""Graphs in torch give what onnxruntime gives, and their gradients are those of the numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir
import onnxruntime
import pytest
import torch

from edgec.compress.calibration.feeds import decoder_feeds
from edgec.errors import UnsupportedError
from edgec.frontend import load
from edgec.heal.graph import TorchGraph
from edgec.passes import simplify
from tests.compress.graphs import convolution_model
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
    with pytest.raises(UnsupportedError, match="`Conv`"):
        TorchGraph(convolution_model(), ["y"])
