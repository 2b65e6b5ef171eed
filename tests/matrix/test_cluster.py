"""A cluster of two workers, one of which is killed in the middle."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import edgec
from edgec.matrix import read_matrix
from edgec.pipeline import CompileOptions
from tests.cli.conftest import command, environment
from tests.test_resume import content

pytest.importorskip("distributed", reason="the extra `dask` is not installed")


@contextmanager
def part(*arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    line = [sys.executable, "-m", *map(str, arguments)]
    process = subprocess.Popen(line, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def entries(cache: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in cache.rglob("*") if path.is_file() and path.suffix != ".tmp"}


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_and_nothing_is_done_twice(matrix: Path, tmp_path: Path) -> None:
    cache, address = tmp_path / "cache", tmp_path / "scheduler.json"
    scheduler = ("distributed.cli.dask_scheduler", "--port", "0", "--scheduler-file", address, "--no-dashboard")
    worker = ("distributed.cli.dask_worker", "--scheduler-file", address, "--no-nanny", "--nthreads", "1")
    worker += ("--no-dashboard", "--local-directory", tmp_path)
    with part(*scheduler):
        while not address.exists() or not address.read_text():
            time.sleep(0.1)
        with part(*worker) as first, part(*worker):
            at = json.loads(address.read_text())["address"]
            line = command("compile-matrix", matrix, "--dask", at, "--cache", cache, "--json")
            asked = subprocess.Popen(line, env=environment(), stdout=subprocess.PIPE, text=True)
            wanted = 4 + random.Random(5).randrange(4)
            while len(entries(cache)) < wanted and asked.poll() is None:
                time.sleep(0.002)
            first.send_signal(signal.SIGKILL)
            before = entries(cache)
            output, _ = asked.communicate(timeout=300)
    rows = json.loads(output)["cells"]
    assert asked.returncode == 0 and [row["ok"] for row in rows] == [True] * 4
    after = entries(cache)
    assert {name: after[name] for name in before} == before  # no finished work was written again
    reused = sum(row["result"]["cache"]["reused"] for row in rows)
    assert reused >= 20  # the second cell of each model, and what the killed worker had done
    for cell in read_matrix(matrix, None):
        alone = tmp_path / "alone.edgec"
        options = CompileOptions(bits=4, quantizer="gptq", name=cell.model, force=True)
        edgec.compile(cell.source, cell.profile, alone, options)
        assert content(Path(cell.output)) == content(alone)


def test_no_scheduler(matrix: Path) -> None:
    matrix.write_text(matrix.read_text().split("[models.two]")[0])
    line = command("compile-matrix", matrix, "--dask", "tcp://127.0.0.1:9")
    finished = subprocess.run(line, env=environment(), capture_output=True, text=True, check=False)
    assert finished.returncode == 11 and "no Dask scheduler answers" in finished.stderr
