"""The description of a decoder graph, and that no graph that computes something else has one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir
import pytest

from edgec.errors import UnsupportedError
from edgec.frontend import load
from edgec.ir import ModelIR
from edgec.lower.wasm.decoder_match import match_decoder
from edgec.passes import simplify
from tests.frontend.decoders import save_reference

# Together they have every part that a decoder can have.
FAMILIES = ("gemma2", "gemma3", "gpt2", "granitemoe", "mixtral", "olmo2", "phi", "stablelm")


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelIR:
    folder = tmp_path_factory.mktemp("model")
    save_reference(folder, request.param, plain=False)
    return simplify(load(folder))


def test_a_node_more_anywhere_is_refused(model: ModelIR) -> None:
    description, graph = match_decoder(model), model.model.graph
    for value in [value for node in graph for value in node.outputs if value.uses()]:
        more = onnx_ir.Node("", "Neg", [value])
        more.outputs[0].name = "more"
        graph.insert_after(value.producer(), more)
        value.replace_all_uses_with(more.outputs[0])
        more.replace_input_with(0, value)
        with pytest.raises(UnsupportedError):
            match_decoder(model)
        more.outputs[0].replace_all_uses_with(value)
        graph.remove(more)
    assert match_decoder(model) == description


def test_a_node_beside_is_refused(model: ModelIR) -> None:
    """Even where nothing but an output reads it."""
    graph = model.model.graph
    more = onnx_ir.Node("", "Neg", [graph[0].outputs[0]])
    graph.append(more)
    with pytest.raises(UnsupportedError, match="`Neg`"):
        match_decoder(model)
    graph.remove(more, safe=True)


CHANGES: list[tuple[str, str, dict[str, Any]]] = [
    ("gemma2", "Attention", {"is_causal": 0}),
    ("gemma2", "Attention", {"qk_matmul_output_mode": 1}),
    ("gemma2", "RotaryEmbedding", {"interleaved": 1}),
    ("gemma2", "RotaryEmbedding", {"rotary_embedding_dim": 4}),
    ("gemma2", "RMSNormalization", {"axis": 1}),
    ("gemma2", "Gather", {"axis": 1}),
    ("gemma2", "Split", {"axis": 1}),
    ("gpt2", "LayerNormalization", {"stash_type": 10}),
    ("mixtral", "Softmax", {"axis": 1}),
    ("mixtral", "TopK", {"largest": 0}),
    ("mixtral", "ScatterElements", {"axis": 1}),
    ("mixtral", "Transpose", {"perm": [1, 2, 0]}),
    ("mixtral", "ReduceSum", {"keepdims": 0}),
]
OPERATORS = [
    ("gemma2", "Greater", "GreaterOrEqual"),
    ("gemma2", "Sub", "Add"),
    ("gemma2", "ReduceMax", "ReduceMin"),
    ("gemma2", "Tanh", "Sigmoid"),
    ("gemma2", "Cos", "Sin"),
    ("mixtral", "Div", "Mul"),
    ("mixtral", "Sigmoid", "Tanh"),
]


@pytest.mark.parametrize(("family", "operator", "attributes"), CHANGES)
def test_other_attributes_are_refused(family: str, operator: str, attributes: dict[str, Any], tmp_path: Path) -> None:
    node, changed = first(family, operator, tmp_path)
    for attribute in onnx_ir.convenience.convert_attributes(attributes):
        node.attributes[attribute.name] = attribute
    with pytest.raises(UnsupportedError, match=f"`{operator}`"):
        match_decoder(changed)


@pytest.mark.parametrize(("family", "operator", "other"), OPERATORS)
def test_other_operators_are_refused(family: str, operator: str, other: str, tmp_path: Path) -> None:
    node, changed = first(family, operator, tmp_path)
    node.op_type = other
    with pytest.raises(UnsupportedError, match=f"`{other}`"):
        match_decoder(changed)


def first(family: str, operator: str, folder: Path) -> tuple[onnx_ir.Node, ModelIR]:
    save_reference(folder, family, plain=False)
    model = simplify(load(folder))
    return next(node for node in model.model.graph if node.op_type == operator), model
