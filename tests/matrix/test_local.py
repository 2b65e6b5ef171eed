from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

import edgec
from edgec.matrix import Cell, Outcome, read_matrix, run_local
from edgec.matrix.process import Processes
from edgec.pipeline import CompileOptions
from tests.cli.conftest import command, environment
from tests.test_resume import content

TOO_LONG = """
[[cells]]
model = "two"
profile = "phone-4gb"
context = 100000
"""


@pytest.mark.slow
def test_a_matrix_with_a_cell_that_fails(matrix: Path, tmp_path: Path) -> None:
    matrix.write_text(matrix.read_text() + TOO_LONG)
    cells = read_matrix(matrix, tmp_path / "cache")
    seen: list[tuple[str, str]] = []
    ended: list[str] = []
    outcomes = run_local(
        cells,
        2,
        watch=lambda cell, event: seen.append((cell.label, event["stage"])),
        done=lambda cell, outcome: ended.append(cell.label),
    )
    assert sorted(ended) == sorted(cell.label for cell in cells)
    assert ("one for phone-4gb", "compress") in seen
    assert [outcome.error is None for outcome in outcomes] == [True, True, False, True]
    assert outcomes[2].error is not None and outcomes[2].error["code"] == "usage"
    assert "context of 256 tokens" in outcomes[2].error["message"]
    second = outcomes[1].result
    assert second is not None and second["cache"]["reused"] >= 10  # what the first cell of the model has made
    for cell, outcome in zip(cells, outcomes, strict=True):
        if outcome.result is not None:
            alone = tmp_path / "alone.edgec"
            options = CompileOptions(bits=4, quantizer="gptq", name=cell.model, force=True)
            edgec.compile(cell.source, cell.profile, alone, options)
            assert content(Path(cell.output)) == content(alone)


def test_a_process_that_dies_is_an_outcome(matrix: Path, tmp_path: Path) -> None:
    cell, processes = read_matrix(matrix, None)[0], Processes()

    def kill(_cell: Cell, _event: object) -> None:
        for process in processes._running:
            process.send_signal(signal.SIGKILL)

    outcome = processes.run(cell, kill)
    assert outcome == Outcome.failed(
        "died", "the process ended with signal 9", "it may have run out of memory; try fewer jobs"
    )


def test_processes_end_with_the_one_that_started_them(matrix: Path, tmp_path: Path) -> None:
    line = command("compile-matrix", matrix, "--cache", tmp_path / "cache", "-j", "1", "-q")
    parent = subprocess.Popen(line, env=environment(), stderr=subprocess.DEVNULL)

    def children() -> list[int]:
        file = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        tasks = file.parent.parent.glob("*/children")
        return [int(pid) for task in tasks for pid in task.read_text().split()]

    while not (found := children()) and parent.poll() is None:
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    for pid in found:
        while _alive(pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _alive(pid)
    assert not list((tmp_path / "bundles").glob(".*.tmp")) if (tmp_path / "bundles").exists() else True


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
def test_the_command_with_accuracy(matrix: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog " * 3)
    text = matrix.read_text().replace('"phone-4gb", ', "")
    matrix.write_text('eval = { text = "text.txt", tokens = 40 }\n' + text)
    line = command("compile-matrix", matrix, "--cache", tmp_path / "cache")
    finished = subprocess.run([*line, "--json"], env=environment(), capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stderr) == (0, "")
    rows = json.loads(finished.stdout)["cells"]
    assert [row["ok"] for row in rows] == [True, True]
    assert all(0 <= row["result"]["accuracy"]["kl_mean"] < 1 for row in rows)
    shown = subprocess.run(
        [*line, "--report", tmp_path / "page.html"], env=environment(), capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0 and "tok/s" in shown.stdout and "loss" in shown.stdout
    page = (tmp_path / "page.html").read_text()
    assert "one, phone-8gb" in page and "two, phone-8gb" in page and "<polyline" in page
    matrix.write_text(text.replace('source = "two"', 'source = "none"'))
    failing = subprocess.run(line, env=environment(), capture_output=True, text=True, check=False)
    assert failing.returncode == 1 and "failed" in failing.stdout and "hint" in failing.stdout


def test_the_command_refuses(tmp_path: Path) -> None:
    (tmp_path / "matrix.toml").write_text("")
    for options in (("--dask", "tcp://localhost:1", "-j", "2"), ("--cache", "a", "--no-cache"), ()):
        line = command("compile-matrix", "matrix.toml", *options)
        finished = subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
        assert finished.returncode == 2 and finished.stderr.startswith("error: "), finished.stderr
        assert os.listdir(tmp_path) == ["matrix.toml"]
