"""What no kernel handles is refused with the node's name, before anything is compiled."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx.helper as oh
import pytest

from edgec.errors import UnsupportedError
from edgec.ir.model import ModelIR
from edgec.lower.wasm.graph import SUPPORTED_OPS, lower_graph
from edgec.passes import simplify
from edgec.passes.shape_rules import RULES
from tests.lower.graph.harness import compressed, make_model


def _unknown_operator() -> ModelIR:
    return make_model([oh.make_node("Det", ["x"], ["y"])], {"x": ("f", [3, 3])}, {"y": "f"})


def _volume() -> ModelIR:
    nodes = [oh.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2, 2])]
    return make_model(nodes, {"x": ("f", [1, 2, 4, 4, 4])}, {"y": "f"})


def _computed_weights() -> ModelIR:
    nodes = [oh.make_node("Conv", ["x", "w"], ["y"])]
    return make_model(nodes, {"x": ("f", [1, 2, 4, 4]), "w": ("f", [3, 2, 1, 1])}, {"y": "f"})


def _antialias() -> ModelIR:
    nodes = [oh.make_node("Resize", ["x", "", "", "size"], ["y"], mode="linear", antialias=1)]
    size = np.array([1, 1, 2, 2], np.int64)
    return make_model(nodes, {"x": ("f", [1, 1, 4, 4])}, {"y": "f"}, {"size": size})


def _content_dependent_shape() -> ModelIR:
    nodes = [oh.make_node("Reshape", ["x", "shape"], ["r"]), oh.make_node("Relu", ["r"], ["y"])]
    return make_model(nodes, {"x": ("f", [4]), "shape": ("i", [2])}, {"y": "f"})


def _integer_product() -> ModelIR:
    nodes = [oh.make_node("MatMul", ["x", "x"], ["y"])]
    return make_model(nodes, {"x": ("i", [3, 3])}, {"y": "i"})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_unknown_operator, "no kernels for `Det`"),
        (_volume, "5 axes"),
        (_computed_weights, r"`Conv` \(.*\) has no kernel in this form"),
        (_antialias, "antialiasing"),
        (_content_dependent_shape, "depends on the input's content"),
        (_integer_product, "only float32 is supported"),
    ],
)
def test_refusals(make: Callable[[], ModelIR], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        lower_graph(compressed(simplify(make())))


def test_every_supported_operator_has_a_shape_rule() -> None:
    assert SUPPORTED_OPS - set(RULES) == {"Constant"}
