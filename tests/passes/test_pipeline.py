"""Every pass on and off: onnxruntime computes the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from edgec.errors import ModelError
from edgec.ir.model import ModelIR
from edgec.passes import PIPELINE, simplify
from edgec.passes.base import GraphPass
from tests.passes import graphs

TOLERANCE = 2e-5  # of the largest magnitude; float32 in another order

MODELS: dict[str, Callable[[], tuple[ModelIR, graphs.Arrays]]] = {
    "cnn": graphs.convolutional_network,
    "cnn, any batch": lambda: graphs.convolutional_network("batch"),
    "text detector": graphs.text_detector,
    "encoder": graphs.encoder,
    "decoder": lambda: graphs.decoder(biases=False, tied=True)[:2],
    "decoder with biases": lambda: graphs.decoder(biases=True, tied=False)[:2],
}


def assert_same(expected: list[np.ndarray], model: ir.Model, feed: graphs.Arrays) -> None:
    for a, b in zip(expected, graphs.run(model, feed), strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= TOLERANCE * np.abs(a).max()


@pytest.mark.parametrize("name", MODELS)
def test_results_stay_the_same_after_every_pass(name: str) -> None:
    model, feed = MODELS[name]()
    expected = graphs.run(model.model, feed)
    simplify(model, observer=lambda _, graph: assert_same(expected, graph, feed))


@pytest.mark.parametrize("skipped", [pass_class.name for pass_class in PIPELINE])
def test_every_pass_can_be_left_out(skipped: str) -> None:
    for model, feed in (graphs.convolutional_network(), graphs.text_detector(), graphs.encoder(1)):
        assert_same(graphs.run(model.model, feed), simplify(model, skip={skipped}).model, feed)


def test_the_model_itself_is_not_changed() -> None:
    model, _ = graphs.encoder()
    before = ir.serde.serialize_model(model.model).SerializeToString()
    simplify(model)
    assert ir.serde.serialize_model(model.model).SerializeToString() == before


def test_simplifying_twice_changes_nothing() -> None:
    for make in (graphs.convolutional_network, graphs.text_detector, graphs.encoder):
        once = simplify(make()[0]).model
        twice = simplify(make()[0])
        again = simplify(twice).model
        assert [node.op_type for node in again.graph] == [node.op_type for node in once.graph]


def test_names_are_distinct_and_described() -> None:
    names = [pass_class.name for pass_class in PIPELINE]
    assert len(set(names)) == len(names)
    assert all(pass_class.__doc__ is not None or pass_class.__module__ for pass_class in PIPELINE)


class _Breaking(GraphPass):
    name = "breaking"

    def rewrite(self, model: ir.Model) -> bool:
        node = next(iter(model.graph))
        node.outputs[0].name = model.graph.inputs[0].name
        return True


class _Demanding(GraphPass):
    name = "demanding"

    def rewrite(self, model: ir.Model) -> bool:
        return False

    def ensures(self, model: ir.Model) -> None:
        raise ir.passes.PostconditionError("it wanted more")


@pytest.mark.parametrize(("pass_class", "message"), [(_Breaking, "malformed"), (_Demanding, "it wanted more")])
def test_broken_contracts_are_errors(
    monkeypatch: pytest.MonkeyPatch, pass_class: type[GraphPass], message: str
) -> None:
    monkeypatch.setattr("edgec.passes.pipeline.PIPELINE", (pass_class,))
    with pytest.raises(ModelError, match=message):
        simplify(graphs.encoder(1)[0])
