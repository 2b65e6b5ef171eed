"""`--nested` on the command line and in the pipeline: what it goes with, what is said of it, and what is kept of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from edgec.errors import UsageError
from edgec.pipeline import CompileOptions, run_stages
from tests.cli.conftest import Edgec, edgec, working_folder  # noqa: F401

NESTED = CompileOptions(bits=4, nested=(3,), context_length=64, stop_after="compress")


@pytest.mark.parametrize(
    ("others", "problem"),
    [
        ({"heal_steps": 3}, "healing trains"),
        ({"heal_adapter": 3, "adapter_rank": 8}, "an adapter that makes up for the codes"),
        ({"exits": (1,)}, "early exits"),
        ({"slim": 0.9, "bits": None}, "slimming searches"),
        ({"min_accuracy": 0.9, "bits": None}, "an accuracy is measured"),
    ],
)
def test_what_is_for_one_depth_alone_is_refused(tiny_llama: Path, others: dict[str, Any], problem: str) -> None:
    options = dataclasses.replace(NESTED, stop_after=None, **others)
    with pytest.raises(UsageError, match=f"{problem}.* one depth of nested codes"):
        run_stages(tiny_llama, "phone-8gb", "never.edgec", options)


def test_a_plan_is_replayed(tiny_llama: Path) -> None:
    first = run_stages(tiny_llama, "phone-8gb", options=NESTED).compressed
    assert first is not None
    with pytest.raises(UsageError, match="the plan says which codes are nested"):
        run_stages(tiny_llama, "phone-8gb", options=dataclasses.replace(NESTED, bits=None, plan=first.plan))
    again = run_stages(tiny_llama, "phone-8gb", options=CompileOptions(plan=first.plan, stop_after="compress"))
    assert again.compressed is not None
    for name, tensor in first.packed.items():
        assert tensor.at_depth(3).zeros.tobytes() == again.compressed.packed[name].at_depth(3).zeros.tobytes()


def test_the_cache_keeps_all_depths_and_tells_them_apart(tiny_llama: Path, tmp_path: Path) -> None:
    cached = dataclasses.replace(NESTED, cache=tmp_path / "cache")
    first, second = (run_stages(tiny_llama, "phone-8gb", options=cached) for _ in range(2))
    other = run_stages(tiny_llama, "phone-8gb", options=dataclasses.replace(cached, nested=(3, 2)))
    assert first.compressed is not None and second.compressed is not None and other.compressed is not None
    assert second.cache is not None and second.cache.counts.reused > 0
    for name, tensor in first.compressed.packed.items():
        found = second.compressed.packed[name]
        assert found.error == tensor.error and found.high.tobytes() == tensor.high.tobytes()
        for one, two in zip(tensor.coarser, found.coarser, strict=True):
            assert (one.bits, one.error, one.scales.tobytes()) == (two.bits, two.error, two.scales.tobytes())
        assert len(other.compressed.packed[name].coarser) == 2 * len(tensor.coarser)


def test_on_the_command_line(edgec: Edgec, tiny_llama: Path) -> None:  # noqa: F811
    shown = edgec("compile", tiny_llama, "-p", "phone-8gb", "--bits", "4", "--nested", "3", "-o", "nested.edgec")
    assert shown.code == 0 and "of weights with 3 of 4 bits" in shown.stdout and "--depth 3" in shown.stdout
    assert "nested with 3 of 4 bits" in edgec("inspect", "nested.edgec").stdout
    whole, coarse = (edgec("run", "nested.edgec", "hi", "--depth", bits, "--json") for bits in ("4", "3"))
    assert json.loads(edgec("run", "nested.edgec", "hi", "--json").stdout)["ids"] == json.loads(whole.stdout)["ids"]
    assert json.loads(whole.stdout)["ids"] != json.loads(coarse.stdout)["ids"]
    refused = edgec("run", "nested.edgec", "hi", "--depth", "2")
    assert refused.code == 2 and "has no depth of 2 bits\n hint: it has 4, 3" in refused.stderr
    tested = edgec("verify", "--run", "nested.edgec")
    assert tested.code == 0 and "simd128, 1 thread, 3 bits, 3 compared" in tested.stdout
    tests = json.loads(edgec("verify", "--run", "nested.edgec", "--json").stdout)["self_tests"]
    assert {test["depth"] for test in tests} == {4, 3}
