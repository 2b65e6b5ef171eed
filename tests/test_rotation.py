"""`--rotate` through the pipeline: what it goes with, and what the plan says of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from edgec import profiles
from edgec.errors import UsageError
from edgec.frontend import load
from edgec.ir import Plan
from edgec.ir.model import TURN, TURN_BACK
from edgec.passes import rotate, simplify
from edgec.pipeline import CompileOptions, Work, run_stages
from edgec.plan import make_plan

ROTATED = CompileOptions(rotate=True, stop_after="compress", quantizer="rtn", bits=4)


def compressed(model: Path, options: CompileOptions) -> Work:
    return run_stages(model, "phone-8gb", None, options)


def codes(work: Work) -> dict[str, bytes]:
    assert work.compressed is not None
    return {name: tensor.high.tobytes() + tensor.scales.tobytes() for name, tensor in work.compressed.packed.items()}


def test_the_plan_says_it_and_can_be_replayed(tiny_llama: Path, tmp_path: Path) -> None:
    first = compressed(tiny_llama, dataclasses.replace(ROTATED, cache=tmp_path))
    plan = first.plan
    assert plan is not None and plan.rotated and any("rotated" in reason for reason in plan.reasons)
    assert {tensor.bits for tensor in plan.tensors if tensor.name in (TURN, TURN_BACK)} == {4}
    assert {tensor.reason for tensor in plan.tensors if tensor.name in (TURN, TURN_BACK)} != {"asked for"}
    again = Plan.from_json(plan.to_json())
    for cache in (None, tmp_path):
        replayed = compressed(tiny_llama, CompileOptions(plan=again, stop_after="compress", cache=cache))
        assert codes(replayed) == codes(first)
    plain = compressed(tiny_llama, dataclasses.replace(ROTATED, rotate=False, cache=tmp_path))
    name = "model.layers.0.self_attn.o_proj.weight"
    assert codes(plain)[name] != codes(first)[name]


def test_weights_that_are_rounded_twice_are_named(tiny_llama: Path) -> None:
    model = simplify(rotate(load(tiny_llama)))
    of_file = dataclasses.replace(model, facts=dataclasses.replace(model.facts, source_format="gguf"))
    told = [
        any("a second time" in reason for reason in make_plan(one, profiles.load("phone-8gb"), rotated=True).reasons)
        for one in (model, of_file)
    ]
    assert told == [False, True]


def test_targets_leave_the_rotation_alone(tiny_llama: Path) -> None:
    plans = []
    for rotated in (False, True):
        options = CompileOptions(rotate=rotated, target_bpw=3.5, stop_after="plan")
        plans.append(run_stages(tiny_llama, "phone-8gb", None, options).plan)
    plain, turned = plans
    assert plain is not None and turned is not None
    assert {tensor.name for tensor in turned.tensors} - {tensor.name for tensor in plain.tensors} == {TURN, TURN_BACK}
    for name in (TURN, TURN_BACK):
        tensor = turned.tensor(name)
        assert tensor is not None and (tensor.bits, tensor.scheme) == (4, "asymmetric")


def test_slimmed_and_rotated(tiny_llama: Path) -> None:
    work = compressed(tiny_llama, dataclasses.replace(ROTATED, bits=None, slim=0.7))
    assert work.plan is not None and work.plan.rotated and work.plan.slim is not None
    assert work.compressed is not None and TURN in work.compressed.packed


def test_what_it_does_not_go_with(tiny_llama: Path) -> None:
    for options, named in [
        (CompileOptions(rotate=True, adapter_rank=8), "adapters"),
        (CompileOptions(rotate=True, exits=(1,)), "early exits"),
    ]:
        with pytest.raises(UsageError, match=named):
            run_stages(tiny_llama, "phone-8gb", None, dataclasses.replace(options, stop_after="plan"))
    plain = run_stages(tiny_llama, "phone-8gb", None, CompileOptions(stop_after="plan")).plan
    with pytest.raises(UsageError, match="make the plan with `--rotate`"):
        run_stages(tiny_llama, "phone-8gb", None, CompileOptions(rotate=True, plan=plain, stop_after="compress"))
    assert plain is not None
    document = {**plain.to_json(), "rotated": "yes"}
    with pytest.raises(UsageError, match="expected true or false"):
        Plan.from_json(document)
    assert np.all([not tensor.name.startswith("model.turn") for tensor in plain.tensors])
