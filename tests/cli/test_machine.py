"""`edgec profiles measure`: the profile that it writes predicts what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgec import profiles
from edgec.cli import machine
from edgec.cli.machine import Speeds
from edgec.plan import roofline
from edgec.profiles import query
from tests.cli.conftest import Edgec

SPEEDS = {
    ("relaxed", 1): Speeds(20e9, 100e9),
    ("simd128", 1): Speeds(15e9, 40e9),
    ("relaxed", 2): Speeds(33e9, 190e9),
}


def written(folder: Path, speeds: dict[tuple[str, int], Speeds], threads: int) -> profiles.Profile:
    file = folder / "my-machine.toml"
    file.write_text(machine.profile_text("my-machine", speeds, threads, "50"))
    return profiles.load(file)


def test_a_written_profile_is_one(tmp_path: Path) -> None:
    profile = written(tmp_path, SPEEDS, 2)
    values = {key: query(profile, f"cpu.{key}").value for key in ("bandwidth", "thread_bandwidth", "int8_relaxed")}
    assert values == {"bandwidth": 33e9, "thread_bandwidth": 20e9, "int8_relaxed": 100e9}
    assert query(profile, "cpu.int8_simd128").value == 40e9 and query(profile, "cpu.int8_simd128").basis == "measured"
    assert query(profile, "features.relaxed_simd").value and query(profile, "cpu.threads").value == 2


def test_a_machine_without_relaxed_simd_and_with_one_thread(tmp_path: Path) -> None:
    profile = written(tmp_path, {("simd128", 1): Speeds(15e9, 40e9)}, 1)
    assert not query(profile, "features.relaxed_simd").value and not query(profile, "features.threads").value
    assert query(profile, "cpu.bandwidth").value == query(profile, "cpu.thread_bandwidth").value == 15e9


@pytest.fixture(autouse=True)
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)


def test_limits_invert_predictions(tmp_path: Path) -> None:
    profile = written(tmp_path, {("relaxed", 1): Speeds(20e9, 100e9), ("simd128", 1): Speeds(15e9, 40e9)}, 1)
    work, rest = roofline.Work(150_000_000, 2.4e8), roofline.rest(2, 25_000)
    prefill = 1 / roofline.prefill_tokens_per_second(profile, work, rest, 1e6, 128, 1)
    decode = 1 / roofline.decode_tokens_per_second(profile, work, rest, 0, 1)
    assert roofline.limits(work, rest, 1e6, 128, prefill, decode) == pytest.approx((20e9, 100e9))


@pytest.mark.slow
def test_this_machine(edgec: Edgec, working_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_ROUNDS", 2)
    result = edgec("profiles", "measure", "-o", "here.toml", "--threads", "2", "--json")
    assert result.code == 0, result.stderr
    facts = json.loads(result.stdout)["facts"]
    assert 1e8 < facts["cpu.thread_bandwidth"]["value"] < 1e12
    assert facts["cpu.int8_simd128"]["value"] > 1e9 and facts["cpu.threads"]["value"] == 2
    again = edgec("profiles", "measure", "-o", "here.toml")
    assert again.code == 10 and "--force" in again.stderr
    assert edgec("profiles", "measure", "-o", "Bad Name.toml").code == 2
    assert edgec("profiles", "measure", "-o", "b.toml", "--threads", "64").code == 2
