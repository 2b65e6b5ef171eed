import dataclasses

import onnx_ir
import pytest

from edgec.errors import ModelError
from edgec.frontend import load
from edgec.ir.model import ModelIR


@pytest.fixture
def model(tiny_llama: object) -> ModelIR:
    return load(str(tiny_llama))


def test_decoder_convention_holds(model: ModelIR) -> None:
    model.verify()


def test_facts_of_another_decoder(model: ModelIR) -> None:
    assert model.decoder is not None
    with pytest.raises(ModelError, match="has the inputs"):
        dataclasses.replace(model, decoder=dataclasses.replace(model.decoder, layers=3)).verify()
    with pytest.raises(ModelError, match="windows of 3 layers"):
        dataclasses.replace(model, decoder=dataclasses.replace(model.decoder, windows=(None,) * 3)).verify()


def test_decoder_and_graph_exclude_each_other(model: ModelIR) -> None:
    with pytest.raises(ModelError, match="is a graph model with decoder facts"):
        dataclasses.replace(model, kind="graph").verify()
    with pytest.raises(ModelError, match="is a decoder model without decoder facts"):
        dataclasses.replace(model, decoder=None).verify()


def test_old_opset(model: ModelIR) -> None:
    graph = model.model.graph
    graph.opset_imports[""] = 22
    assert isinstance(graph, onnx_ir.Graph)
    with pytest.raises(ModelError, match="opset 22"):
        model.verify()
