"""The harness's own tests run in Node; here they are started, and the command line is tried."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"
pytestmark = pytest.mark.node


def _node(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["node", *arguments], cwd=BENCH, capture_output=True, text=True, timeout=300, check=False)


def test_measuring_and_reporting() -> None:
    result = _node("--test", "test/")
    assert result.returncode == 0, result.stdout


def _turn(prefill: float) -> dict[str, dict[str, float | None]]:
    measures = {"prefill": prefill, "decode": 10.0, "decodeShort": 12.0}
    return {measure: {"speed": speed, "waiting": None} for measure, speed in measures.items()}


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    entries = [
        {"id": "edgec", "engine": "edgec", "label": "edgec", "threads": 1, "turns": [_turn(100), _turn(110)]},
        {"id": "wllama-2", "engine": "wllama-2", "label": "wllama 2", "threads": 1, "turns": [_turn(25), _turn(25)]},
    ]
    content = {
        "date": "2026-01-02",
        "machine": {"processor": "Test", "cores": 2, "memoryGiB": 8},
        "browser": "Chrome/1",
        "niceness": 0,
        "work": {"rounds": 2, "promptTokens": 512, "decodeTokens": 64, "contextLength": 1024},
        "model": {"name": "tiny", "parameters": 1000, "edgec": "0.1.0", "profile": "laptop-8gb"},
        "peers": {"wllama-2": "2.4.0", "wllama-3": "3.13.0"},
        "entries": entries,
    }
    path = tmp_path / "measured.json"
    path.write_text(json.dumps(content))
    return path


def test_a_saved_run_is_judged_and_reported_again(measured: Path, tmp_path: Path) -> None:
    page = tmp_path / "docs" / "benchmarks.md"
    result = _node("run.mjs", "--from", str(measured), "--json", "--report", str(page))
    assert result.returncode == 0, result.stderr
    goals = {goal["name"]: goal for goal in json.loads(result.stdout)["goals"]}
    assert goals["prefill against wllama, 1 thread"]["ratio"] == pytest.approx(4.2)
    assert page.read_text().startswith("# Benchmarks")
    assert page.with_suffix(".svg").read_text().startswith("<svg")


def test_check_fails_where_a_goal_is_missed(measured: Path) -> None:
    assert _node("run.mjs", "--from", str(measured), "--check").returncode == 1


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("run.mjs", [], "give --bundle and --gguf"),
        ("run.mjs", ["--bundle", "x", "--gguf", "y", "--rounds", "0"], "--rounds"),
        ("run.mjs", ["--bundle", "x", "--gguf", "y", "--browser", "lynx"], "there is no browser `lynx`"),
        ("run.mjs", ["--bundle", "x", "--gguf", "y", "--contenders", "nobody"], "there is no `nobody`"),
        ("run.mjs", ["--bundle", "/nowhere", "--gguf", "y"], "manifest.json"),
        ("graphs.mjs", [], "give --models"),
        ("graphs.mjs", ["--models", "x", "--only", "nothing"], "there is no `nothing`"),
        ("graphs.mjs", ["--models", "x", "--contenders", "nobody"], "there is no `nobody`"),
        ("graphs.mjs", ["--models", "x", "--threads", "0"], "--threads"),
        ("graphs.mjs", ["--models", "x", "--rounds", "0"], "--rounds"),
        ("graphs.mjs", ["--models", "x", "--browser", "lynx"], "there is no browser `lynx`"),
        ("load.mjs", [], "give --bundle"),
        ("load.mjs", ["--bundle", "x", "--browsers", "chromium,lynx"], "there is no browser `lynx`"),
        ("load.mjs", ["--bundle", "x", "--threads", "1,0"], "--threads"),
        ("load.mjs", ["--bundle", "x", "--rounds", "0"], "--rounds"),
        ("load.mjs", ["--bundle", "x", "--megabits", "fast"], "--megabits"),
    ],
)
def test_wrong_arguments_are_named(script: str, arguments: list[str], message: str) -> None:
    result = _node(script, *arguments)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr


@pytest.mark.browser
def test_loading_is_measured_in_both_browsers() -> None:
    """A bundle of 6 kB over 8 Mbit/s: first from the network alone, then from storage alone."""
    bundle = BENCH.parent / "runtime_wasm" / "test" / "fixtures" / "decoder"
    flags = ["--bundle", str(bundle), "--megabits", "8", "--threads", "1", "--rounds", "1"]
    cases = json.loads(_node("load.mjs", *flags, "--json").stdout)["cases"]
    assert [case["browser"] for case in cases] == ["chromium", "firefox"]
    for case in cases:
        first, second = case["first"], case["second"]
        assert first["downloadedBytes"] == second["cachedBytes"] > 0
        assert second["downloadedBytes"] == 0
        assert 0 < first["readyAfterLastByte"] < first["tokenAfterLastByte"]
        assert case["ratio"] == pytest.approx(first["seconds"] / second["seconds"])
