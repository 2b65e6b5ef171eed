"""Predicted times: more work never takes less time, better devices are faster, and measuring inverts predicting."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx.helper as oh
import pytest

from edgec import profiles
from edgec.frontend import load
from edgec.ir import ModelIR
from edgec.ir.plan import Prediction
from edgec.ir.work import KernelWork
from edgec.passes import simplify
from edgec.pipeline.planning import foreseen
from edgec.plan import make_plan
from edgec.plan.speed import Rates, kernel_seconds, operations, rates_of, step_seconds, with_limits
from tests.lower.graph.harness import make_model

RATES = Rates(memory=1e10, narrow=4e10, wide=5e10, floats=2e10, moved=1.5e10, call=5e-5)


def encoder() -> ModelIR:
    nodes = [oh.make_node("MatMul", ["x", "w"], ["h"]), oh.make_node("Erf", ["h"], ["y"])]
    weights = {"w": np.ones((512, 512), np.float32)}
    return simplify(make_model(nodes, {"x": ("f", ["batch", 512])}, {"y": "f"}, weights))


def predicted(model: ModelIR, name: str, **choices: object) -> Prediction:
    profile = profiles.load(name)
    return foreseen(model, make_plan(model, profile, **choices), profile).prediction  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["products", "weights", "cache", "moved", "results", "functions"])
def test_more_work_takes_longer(field: str) -> None:
    work = KernelWork("linear", 10_000, "float32", weights=10_000, cache=100, moved=100, results=100, functions=100)
    more = dataclasses.replace(work, **{field: 100_000})
    assert kernel_seconds(more, RATES) > kernel_seconds(work, RATES) > 0


def test_products_and_weights_hide_each_other() -> None:
    bound = KernelWork("linear", 1000, "codes", 4, weights=10**6)
    assert kernel_seconds(dataclasses.replace(bound, products=2000), RATES) == kernel_seconds(bound, RATES)


def test_kinds_of_products() -> None:
    def seconds(arithmetic: str | None, bits: int = 32, group_size: int = 32) -> float:
        return kernel_seconds(KernelWork("linear", 10**9, arithmetic, bits, group_size), RATES)  # type: ignore[arg-type]

    assert seconds("scalar") > seconds("float32") > seconds("int16") > seconds("codes", 7)
    assert seconds("codes", 8) > seconds("codes", 4) > seconds("codes", 7) > seconds("codes", 7, 128)
    wide = KernelWork("linear", 100, "codes", 7, 32)
    assert operations(wide) == 200 and operations(dataclasses.replace(wide, group_size=1 << 20)) < 0.7 * 200


def test_graphs_with_more_rows_take_longer_and_threads_help() -> None:
    few, many = (predicted(encoder(), "laptop-8gb", max_dims={"batch": batch}) for batch in (16, 64))
    assert 0 < few.run_seconds < many.run_seconds
    profile = profiles.load("laptop-8gb")
    works = [KernelWork("linear", 10**8, "codes", 7)]
    assert step_seconds(works, rates_of(profile, 4)) < step_seconds(works, rates_of(profile, 1))


def test_better_devices_are_faster(tiny_llama: Path) -> None:
    model = simplify(load(tiny_llama))
    found = [predicted(model, name) for name in ("phone-4gb", "phone-8gb", "phone-12gb", "node-server")]
    for key in ("decode_tokens_per_second", "prefill_tokens_per_second"):
        speeds = [getattr(prediction, key) for prediction in found]
        assert speeds == sorted(speeds) and speeds[0] > 0


def test_limits_are_what_predicts_the_measured_seconds() -> None:
    head = KernelWork("linear", 10**6, "codes", 7, weights=10**7, results=1000)
    layer = KernelWork("linear", 10**9, "codes", 4, weights=10**7, results=10**5)
    norm = KernelWork("norm", moved=10**5, results=10**4)
    single = dataclasses.replace(layer, products=10**7, cache=10**6)
    steps = {"prefill": [norm, layer], "head": [norm, head], "decode": [norm, single, head]}
    prompt = step_seconds(steps["prefill"], RATES) + step_seconds(steps["head"], RATES)
    found = with_limits(RATES, steps, prompt, step_seconds(steps["decode"], RATES))
    assert (found.memory, found.narrow) == pytest.approx((RATES.memory, RATES.narrow), rel=0.01)
