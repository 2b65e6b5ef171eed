"""What no kernel handles is refused with the node's name, before anything is compiled."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx.defs
import onnx.helper as oh
import pytest

from edgec.errors import UnsupportedError, UsageError
from edgec.ir.model import ModelIR
from edgec.lower.wasm.graph import SUPPORTED_OPS, lower_graph
from edgec.passes import fix_inputs, simplify
from edgec.passes.shape_rules import RULES
from tests.lower.graph.harness import compressed, make_model


def _unknown_operator() -> ModelIR:
    nodes = [oh.make_node("Multinomial", ["x"], ["y"], sample_size=2)]
    return make_model(nodes, {"x": ("f", [3, 3])}, {"y": "i4"})


def _random() -> ModelIR:
    nodes = [oh.make_node("Dropout", ["x", "", "training"], ["y"])]
    return make_model(nodes, {"x": ("f", [4])}, {"y": "f"}, {"training": np.array(True)})


def _contradiction() -> ModelIR:
    """ONNX's text and its tests compute different corners."""
    attributes = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
    nodes = [oh.make_node("Resize", ["x", "", "scales"], ["y"], **attributes)]
    return make_model(nodes, {"x": ("f", [1, 1, 4, 4])}, {"y": "f"}, {"scales": np.array([1, 1, 0.8, 0.8], np.float32)})


def _computed_axis() -> ModelIR:
    nodes = [oh.make_node("Abs", ["axis"], ["a"]), oh.make_node("DFT", ["x", "", "a"], ["y"])]
    return make_model(nodes, {"x": ("f", [1, 4, 1]), "axis": ("i", [])}, {"y": "f"})


def _unknown_condition() -> ModelIR:
    branches = {
        name: oh.make_graph([oh.make_node(op, ["x"], [name])], name, [], [oh.make_tensor_value_info(name, 1, [4])])
        for name, op in (("then", "Relu"), ("else", "Neg"))
    }
    node = oh.make_node("If", ["c"], ["y"], then_branch=branches["then"], else_branch=branches["else"])
    return make_model([node], {"x": ("f", [4]), "c": ("b", [])}, {"y": "f"})


def _large_loop() -> ModelIR:
    state = oh.make_tensor_value_info("s", 1, [4])
    body = oh.make_graph(
        [oh.make_node("Relu", ["s"], ["t"]), oh.make_node("Identity", ["c"], ["d"])],
        "body",
        [oh.make_tensor_value_info("i", 7, []), oh.make_tensor_value_info("c", 9, []), state],
        [oh.make_tensor_value_info("d", 9, []), oh.make_tensor_value_info("t", 1, [4])],
    )
    nodes = [oh.make_node("Loop", ["n", "", "x"], ["y"], name="steps", body=body)]
    return make_model(nodes, {"x": ("f", [4])}, {"y": "f"}, {"n": np.array(10_000, np.int64)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_unknown_operator, "no kernels for `Multinomial`"),
        (_random, "drops elements at random"),
        (_contradiction, "aligns corners by a scale that makes 3.2 elements"),
        (_computed_axis, r"`axis` of `DFT` .* from the values of the input `axis`\n.*--fix-input axis=VALUE"),
        (_unknown_condition, "`cond` of `If` .* from the values of the input `c`"),
        (_large_loop, r"`Loop` \(steps\) has 10000 steps, at most 256 are unrolled"),
    ],
)
def test_refusals(make: Callable[[], ModelIR], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        lower_graph(compressed(simplify(make())))


def test_fixing_the_named_inputs_is_enough() -> None:
    model = _computed_axis()
    with pytest.raises(UnsupportedError) as refused:
        lower_graph(compressed(simplify(model)))
    assert refused.value.inputs == ("axis",)
    fixed = fix_inputs(model, {"axis": 1})
    assert [value.name for value in fixed.model.graph.inputs] == ["x"]
    assert [value.name for value in model.model.graph.inputs] == ["x", "axis"]
    lower_graph(compressed(simplify(fixed)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"axes": [1]}, "has no input `axes`\n.*`x`, `axis`"),
        ({"axis": [0.5]}, "`axis` is INT64, which does not hold"),
        ({"axis": [0, 1]}, "`axis` has the shape .*, 2 numbers do not fill it"),
    ],
)
def test_inputs_are_fixed_to_what_they_hold(values: dict[str, list[float]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fix_inputs(_computed_axis(), values)


def test_every_supported_operator_has_a_shape_rule() -> None:
    """Ours, or the one of the standard."""
    for name in sorted(SUPPORTED_OPS - set(RULES) - {"Constant", "Upsample"}):
        assert onnx.defs.get_schema(name).has_type_and_shape_inference_function, name
