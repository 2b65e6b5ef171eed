"""A compilation that was cut short goes on where it was, and whatever differs around it gives the same bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import onnx_ir
import pytest

from edgec import pipeline
from edgec.cache import Cache
from edgec.ir.store import Arrays
from edgec.pipeline import CompileOptions, Work, run_stages
from edgec.pipeline.work import source_key
from tests.cli.conftest import command, environment
from tests.conftest import write_tiny_llama

OPTIONS = CompileOptions(quantizer="gptq", bits=4)
TARGET = CompileOptions(target_bpw=5.0)


class Killed(BaseException):
    """Stands for SIGKILL inside this process."""


def compiled(model: Path, output: Path, options: CompileOptions, cache: Path | None = None) -> Work:
    return run_stages(model, "phone-8gb", output, dataclasses.replace(options, cache=cache, force=True))


def content(bundle: Path) -> dict[str, str]:
    files = sorted(path for path in bundle.rglob("*") if path.is_file())
    return {path.relative_to(bundle).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("options", [OPTIONS, TARGET], ids=["gptq", "target"])
def test_killed_after_every_saved_entry(
    tiny_llama: Path, tmp_path: Path, options: CompileOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, cache = tmp_path / "a.edgec", tmp_path / "cache"
    save, left = Cache.save, 0

    def mortal(self: Cache, key: str, arrays: Arrays) -> None:
        nonlocal left
        save(self, key, arrays)
        left -= 1
        if left == 0:
            raise Killed

    compiled(tiny_llama, out, options)
    expected, kills, total = content(out), 0, 0
    monkeypatch.setattr(Cache, "save", mortal)
    while True:
        left = 4
        try:
            work = compiled(tiny_llama, out, options, cache)
            break
        except Killed:
            kills, total = kills + 1, total + 4
            assert not list(tmp_path.glob(".*.tmp"))
    assert kills >= 3 and work.cache is not None
    assert work.cache.counts.reused == total and work.cache.counts.missing == work.cache.counts.saved < 4
    assert content(out) == expected


@pytest.mark.parametrize("options", [OPTIONS, TARGET], ids=["gptq", "target"])
def test_damaged_entries_are_made_again(tiny_llama: Path, tmp_path: Path, options: CompileOptions) -> None:
    out, cache = tmp_path / "a.edgec", tmp_path / "cache"
    compiled(tiny_llama, out, options, cache)
    expected, choice = content(out), random.Random(3)
    entries = sorted(path for path in cache.rglob("*") if path.is_file())
    damaged = choice.sample(entries, len(entries) // 2)
    for path in damaged:
        path.write_bytes(path.read_bytes()[: choice.randrange(path.stat().st_size)])
    work = compiled(tiny_llama, out, options, cache)
    assert work.cache is not None and work.cache.counts.damaged == work.cache.counts.saved == len(damaged)
    assert content(out) == expected


def test_entries_of_the_right_hash_and_the_wrong_content_are_refused(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an older, faulty edgec might have written them."""
    out, cache = tmp_path / "a.edgec", tmp_path / "cache"
    compiled(tiny_llama, out, OPTIONS)
    expected, save = content(out), Cache.save
    monkeypatch.setattr(Cache, "save", lambda self, key, arrays: save(self, key, {"x": np.zeros(3)}))
    compiled(tiny_llama, out, OPTIONS, cache)
    monkeypatch.setattr(Cache, "save", save)
    work = compiled(tiny_llama, out, OPTIONS, cache)
    assert work.cache is not None and work.cache.counts.reused == 0 and work.cache.counts.damaged >= 10
    assert content(out) == expected


def test_another_profile_takes_what_does_not_depend_on_it(tiny_llama: Path, tmp_path: Path) -> None:
    first = compiled(tiny_llama, tmp_path / "a.edgec", OPTIONS, tmp_path / "cache")
    assert first.cache is not None and first.cache.counts.reused == 0
    options = dataclasses.replace(OPTIONS, cache=tmp_path / "cache")
    other = run_stages(tiny_llama, "phone-4gb", tmp_path / "b.edgec", options)
    assert other.cache is not None and other.cache.counts.reused >= 10


def test_another_model_takes_nothing_but_kernels(tiny_llama: Path, tmp_path: Path) -> None:
    compiled(tiny_llama, tmp_path / "a.edgec", OPTIONS, tmp_path / "cache")
    (tmp_path / "other").mkdir()
    write_tiny_llama(tmp_path / "other", seed=1)
    work = compiled(tmp_path / "other", tmp_path / "b.edgec", OPTIONS, tmp_path / "cache")
    assert work.cache is not None and work.cache.counts.reused == 3  # one set of kernels per instruction set


def test_options_that_may_change_weights_make_their_content_count(tiny_llama: Path, tmp_path: Path) -> None:
    """As somebody else's stage might, which trains weights for some minutes."""
    work = Work(str(tiny_llama), "phone-8gb", None, CompileOptions())
    frontend, simplify = pipeline.STAGES[0].run, pipeline.STAGES[1].run
    frontend(work)
    simplify(work)
    assert work.model is not None
    weight = work.model.model.graph.initializers["model.layers.0.self_attn.o_proj.weight"]
    keys = []
    for options in (CompileOptions(bits=4), CompileOptions(fixed_inputs={})):
        work.options = options
        keys.append([])
        for value in (0.0, 1.0):
            weight.const_value = onnx_ir.tensor(np.full((64, 64), value, np.float32), name=weight.name)
            keys[-1].append(source_key(work, work.model))
    assert keys[0][0] == keys[0][1] and keys[1][0] != keys[1][1]


@pytest.mark.slow
def test_sigkill_at_any_moment(tiny_llama: Path, tmp_path: Path) -> None:
    choice = random.Random(11)
    reference = run_stages(tiny_llama, "phone-8gb", tmp_path / "reference.edgec", OPTIONS)
    assert reference.bundle is not None
    out, cache = tmp_path / "a.edgec", tmp_path / "cache"
    line = command(
        *["compile", tiny_llama, "-p", "phone-8gb", "--bits", "4", "--quantizer", "gptq", "--name", "tiny-llama"],
        *["-o", out, "--cache", cache, "--json"],
    )

    def entries() -> int:
        return sum(path.is_file() and path.suffix != ".tmp" for path in cache.rglob("*"))

    killed = 0
    for _ in range(4):
        process = subprocess.Popen(line, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wanted = entries() + choice.randint(1, 3)
        while entries() < wanted and process.poll() is None:
            time.sleep(0.001)
        time.sleep(choice.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if out.exists():  # it was faster; then the bundle is whole
            assert content(out) == content(reference.bundle.path)
            shutil.rmtree(out)
            break
        killed += 1
    assert killed > 0
    before = entries()
    finished = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["cache"]["reused"] >= before
    assert content(out) == content(reference.bundle.path)


@pytest.mark.slow
def test_the_same_bytes_wherever_and_however(tiny_llama: Path, tmp_path: Path) -> None:
    """Processors, BLAS threads, locale, hash seed, working and temporary folder."""
    options = ("-p", "phone-8gb", "--bits", "4", "--quantizer", "gptq", "--name", "tiny", "--no-cache")
    worlds = [
        {"LC_ALL": "C", "PYTHONHASHSEED": "1", "OPENBLAS_NUM_THREADS": "1", "TZ": "UTC"},
        {"LC_ALL": "tr_TR.UTF-8", "PYTHONHASHSEED": "77", "OPENBLAS_NUM_THREADS": "4", "TZ": "Asia/Tokyo"},
    ]
    found = []
    for number, world in enumerate(worlds):
        folder = tmp_path / f"world {number}"
        (folder / "tmp").mkdir(parents=True)
        model = os.path.relpath(tiny_llama, folder) if number else str(tiny_llama)
        cpus = sorted(os.sched_getaffinity(0))
        finished = subprocess.run(
            command("compile", model, *options, "-o", "out.edgec"),
            cwd=folder,
            env=environment() | world | {"TMPDIR": str(folder / "tmp")},
            preexec_fn=lambda only=cpus if number else cpus[:1]: os.sched_setaffinity(0, only),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        found.append(content(folder / "out.edgec"))
    assert found[0] == found[1]
