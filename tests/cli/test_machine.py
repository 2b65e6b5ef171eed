"""`edgec profiles measure`: the profile that it writes predicts what was measured."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from edgec import profiles
from edgec.cli import machine
from edgec.cli.machine import Measured, Speeds, make_graph
from edgec.ir.work import KernelWork
from edgec.plan.speed import Rates, kernel_seconds, operations
from edgec.profiles import query
from tests.cli.conftest import Edgec

SPEEDS = {
    ("relaxed", 1): Speeds(20e9, 100e9),
    ("simd128", 1): Speeds(15e9, 40e9),
    ("relaxed", 2): Speeds(33e9, 190e9),
}


def written(folder: Path, speeds: dict[tuple[str, int], Speeds], threads: int) -> profiles.Profile:
    file = folder / "my-machine.toml"
    measured = Measured(speeds, wide=80e9, floats=30e9, moved=12e9, call=4e-5)
    file.write_text(machine.profile_text("my-machine", measured, threads, "50"))
    return profiles.load(file)


def test_a_written_profile_is_one(tmp_path: Path) -> None:
    profile = written(tmp_path, SPEEDS, 2)
    values = {key: query(profile, f"cpu.{key}").value for key in ("bandwidth", "thread_bandwidth", "int8_relaxed")}
    assert values == {"bandwidth": 33e9, "thread_bandwidth": 20e9, "int8_relaxed": 100e9}
    assert query(profile, "cpu.int8_simd128").value == 40e9 and query(profile, "cpu.int8_simd128").basis == "measured"
    assert [query(profile, f"cpu.{key}").value for key in ("int8_wide", "float32", "moved")] == [80e9, 30e9, 12e9]
    assert query(profile, "cpu.call").value == pytest.approx(4e-5)
    assert query(profile, "features.relaxed_simd").value and query(profile, "cpu.threads").value == 2


def test_a_machine_without_relaxed_simd_and_with_one_thread(tmp_path: Path) -> None:
    profile = written(tmp_path, {("simd128", 1): Speeds(15e9, 40e9)}, 1)
    assert not query(profile, "features.relaxed_simd").value and not query(profile, "features.threads").value
    assert query(profile, "cpu.bandwidth").value == query(profile, "cpu.thread_bandwidth").value == 15e9


@pytest.fixture(autouse=True)
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)


def test_rates_are_what_predicts_the_measured_kernels() -> None:
    rates = Rates(np.inf, np.inf, wide=5e10, floats=2e10, moved=1.5e10, call=3e-5)
    works = [
        KernelWork("quantize", moved=10**6),
        KernelWork("linear", 10**8, "codes", 7, results=10**5),
        KernelWork("linear_float", 10**7, "float32", results=10**4),
    ]
    seconds = np.array([*(kernel_seconds(work, rates) for work in works), rates.call])
    assert dataclasses.astuple(machine._rates(works, seconds)) == pytest.approx(dataclasses.astuple(rates))


@pytest.mark.slow
def test_this_machine(edgec: Edgec, working_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_ROUNDS", 2)
    result = edgec("profiles", "measure", "-o", "here.toml", "--threads", "2", "--json")
    assert result.code == 0, result.stderr
    facts = json.loads(result.stdout)["facts"]
    assert 1e8 < facts["cpu.thread_bandwidth"]["value"] < 1e12
    assert all(facts[f"cpu.{key}"]["value"] > 1e8 for key in ("int8_wide", "float32", "moved"))
    assert facts["cpu.int8_simd128"]["value"] > 1e9 and facts["cpu.threads"]["value"] == 2
    again = edgec("profiles", "measure", "-o", "here.toml")
    assert again.code == 10 and "--force" in again.stderr
    assert edgec("profiles", "measure", "-o", "Bad Name.toml").code == 2
    assert edgec("profiles", "measure", "-o", "b.toml", "--threads", "64").code == 2


def test_the_network_that_is_measured_has_every_kind_of_kernel(tmp_path: Path) -> None:
    """Codes of 8 bits, floats, and what moves bytes alone: each has a rate of its own in a profile."""
    _, works = make_graph(tmp_path, None)
    assert {work.arithmetic for work in works if operations(work)} == {"codes", "float32"}
    assert any(work.moved > 0 for work in works)
