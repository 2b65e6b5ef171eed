"""200 cases of ONNX's suite that pass in wasmtime pass in a browser too, through the JavaScript runtime."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conformance.onnx_backend import sample, suite

COUNT, SEED = 200, 5
DRIVER = Path(__file__).parent / "onnx_backend" / "browser.mjs"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx-cases")
    sample.compile_all(sample.choose(COUNT, SEED), folder)
    return folder


def test_the_sample_is_spread_over_operators() -> None:
    names = sample.choose(COUNT, SEED)
    operators = {suite.operator_of(suite.cases()[name]) for name in names}
    assert len(set(names)) == COUNT
    assert len(operators) >= 120


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("engine", ["chromium", "firefox"])
def test_cases_pass(engine: str, compiled: Path) -> None:
    node = shutil.which("node")
    assert node, "Node is not installed"
    command = [node, str(DRIVER), "--engine", engine, "--folder", str(compiled)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr
    results = json.loads(finished.stdout)
    jobs = json.loads((compiled / "jobs.json").read_text())
    assert len(results) == len(jobs) == COUNT
    known = suite.cases()
    problems = {
        job["bundle"]: sample.problem_of(known[job["bundle"]], result)
        for job, result in zip(jobs, results, strict=True)
    }
    assert {name: problem for name, problem in problems.items() if problem} == {}
