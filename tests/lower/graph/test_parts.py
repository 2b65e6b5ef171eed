"""A graph in parts: each is an entry point of the same module, and what they share is there once."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import onnx.helper as oh
import pytest

from edgec.errors import ModelError
from edgec.ir import GraphPart, ModelIR
from edgec.passes import fix_inputs, simplify
from tests.lower.graph.harness import EACH, WasmGraph, assert_close, lowered, make_model
from tests.passes.graphs import run

RNG = np.random.default_rng(5)
PARTS = {"left": GraphPart(("a",), ("x", "both")), "right": GraphPart(("b", "a"), ("y", "both"))}


def model() -> ModelIR:
    """`x` of `a`, `y` of `b` (and of `a`), by one matrix; `both` belongs to two parts; `z` to none of them."""
    nodes = [
        oh.make_node("MatMul", ["a", "w"], ["aw"]),
        oh.make_node("Relu", ["aw"], ["x"]),
        oh.make_node("ReduceMean", ["x"], ["both"], keepdims=1),
        oh.make_node("MatMul", ["b", "w"], ["bw"]),
        oh.make_node("Add", ["bw", "both"], ["y"]),
        oh.make_node("Transpose", ["y"], ["yt"], perm=[1, 0]),
        oh.make_node("MatMul", ["x", "yt"], ["z"]),
    ]
    inputs = {"a": ("f", ["n", 33]), "b": ("f", ["m", 33])}
    weights = {"w": RNG.normal(size=(33, 9)).astype(np.float32)}
    made = make_model(nodes, inputs, dict.fromkeys(["x", "both", "y", "z"], "f"), weights)
    return dataclasses.replace(made, parts=PARTS)


@pytest.mark.parametrize("bits", [32, 4])
def test_parts_are_entry_points(bits: int) -> None:
    source = model()
    module = lowered(simplify(source), dims={"n": 5, "m": 6}, bits=bits, variants=EACH)
    assert [(e.name, e.parameters, e.inputs, e.outputs) for e in module.entry_points] == [
        ("left", ("n",), ("a",), ("x", "both")),
        ("right", ("m", "n"), ("b", "a"), ("y", "both")),
    ]
    assert [slot.name for slot in module.inputs] == ["a", "b"]
    assert sorted(slot.name for slot in module.outputs) == ["both", "x", "y"]
    assert len(module.weights) == (1 if bits == 32 else 3)
    feed = {"a": RNG.normal(size=(3, 33)).astype(np.float32), "b": RNG.normal(size=(5, 33)).astype(np.float32)}
    x, both, y, _ = run(source.model, feed)
    tolerance = 1e-5 if bits == 32 else 0.2
    for variant in EACH:
        assert_close([x, both], WasmGraph(module, variant, "left")(feed), tolerance)
        assert_close([both, y], WasmGraph(module, variant, "right")(feed), tolerance)


def test_one_part_leaves_the_other_s_results_alone() -> None:
    """The entry points of one instance take turns; inputs and outputs have their own memory."""
    module = lowered(simplify(model()), dims={"n": 5, "m": 6}, variants=["simd128"])
    persistent = [*module.inputs, *module.outputs]
    spans = sorted((slot.offset, slot.offset + slot.bytes) for slot in persistent)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_a_part_must_have_its_inputs() -> None:
    broken = dataclasses.replace(model(), parts={"right": GraphPart(("b",), ("y",))})
    with pytest.raises(ModelError, match="also needs the input `a`"):
        broken.verify()
    broken = dataclasses.replace(model(), parts={"right": GraphPart(("b",), ("q",))})
    with pytest.raises(ModelError, match="has no output `q`"):
        broken.verify()


def test_fixed_inputs_leave_the_parts() -> None:
    fixed = fix_inputs(model(), {"a": np.ones((1, 33), np.float32)})
    assert fixed.parts["right"] == GraphPart(("b",), ("y", "both"))
    fixed.verify()
