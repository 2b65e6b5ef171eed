"""Predicted times of graphs: multiply-adds are counted as they are, and more work never takes less time."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.helper as oh
import pytest

from edgec import profiles
from edgec.passes import simplify
from edgec.plan import make_plan
from edgec.plan.graph_speed import multiply_adds, run_seconds
from tests.lower.graph.harness import make_model


def first_macs(op_type: str, inputs: dict[str, Any], weights: dict[str, np.ndarray], **attributes: Any) -> int:
    node = oh.make_node(op_type, [*inputs, *weights], ["y"], **attributes)
    model = simplify(make_model([node], inputs, {"y": "f"}, weights))
    return sum(multiply_adds(node, {"n": 3}) for node in model.model.graph)


def zeros(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("op_type", "inputs", "weights", "attributes", "macs"),
    [
        ("MatMul", {"x": ("f", ["n", 5, 7])}, {"w": zeros(7, 4)}, {}, 3 * 5 * 7 * 4),
        ("MatMul", {"x": ("f", [2, 5, 7]), "z": ("f", [2, 7, 6])}, {}, {}, 2 * 5 * 7 * 6),
        ("Conv", {"x": ("f", [1, 4, 9, 9])}, {"w": zeros(8, 4, 3, 3)}, {"strides": [2, 2]}, 8 * 4 * 4 * 36),
        ("Conv", {"x": ("f", [1, 8, 9, 9])}, {"w": zeros(8, 1, 3, 3)}, {"group": 8}, 8 * 7 * 7 * 9),
        ("Gemm", {"x": ("f", [3, 5])}, {"w": zeros(6, 5)}, {"transB": 1}, 3 * 5 * 6),
        ("Relu", {"x": ("f", ["n", 5])}, {}, {}, 0),
    ],
)
def test_multiply_adds(
    op_type: str, inputs: dict[str, Any], weights: dict[str, np.ndarray], attributes: dict[str, Any], macs: int
) -> None:
    assert first_macs(op_type, inputs, weights, **attributes) == macs


def test_more_work_takes_longer_and_threads_help() -> None:
    nodes = [oh.make_node("MatMul", ["x", "w"], ["h"]), oh.make_node("Erf", ["h"], ["y"])]
    model = simplify(make_model(nodes, {"x": ("f", ["batch", 512])}, {"y": "f"}, {"w": zeros(512, 512)}))
    profile = profiles.load("laptop-8gb")
    plan = make_plan(model, profile, max_dims={"batch": 64})
    assert plan.prediction.run_seconds > 0

    def seconds(batch: int, threads: int) -> float:
        return run_seconds(model, plan.tensors, {"batch": batch}, profile, threads)

    assert seconds(16, 1) < seconds(64, 1)
    assert seconds(64, 4) < seconds(64, 1)
    assert plan.prediction.run_seconds == pytest.approx(seconds(64, plan.max_threads), rel=1e-2)
