"""The same jobs on every runtime that we ship: wasmtime, Node, Chromium, Firefox."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import edgec.run

TOOL = Path(__file__).resolve().parents[2] / "runtime_wasm" / "tools" / "run-in.mjs"


@dataclass(frozen=True)
class Runtime:
    engine: str  # "wasmtime", "node", "chromium" or "firefox"
    variant: str
    threads: int

    def __str__(self) -> str:
        return f"{self.engine}-{self.variant}-{self.threads}"


@dataclass(frozen=True)
class Answer:
    ids: tuple[int, ...]
    text: str
    logits_sha256: str


def answers(
    runtime: Runtime, bundle: Path, prompts: Sequence[str], *, max_tokens: int, depth: int | None = None
) -> list[Answer]:
    """Greedy chat answers (each prompt its own conversation) and the hash of all their logits."""
    if runtime.engine == "wasmtime":
        return _in_python(runtime, bundle, prompts, max_tokens, depth)
    flags = ["--max-tokens", str(max_tokens), *(["--depth", str(depth)] if depth else [])]
    results = in_javascript(runtime, bundle, prompts, *flags)
    return [Answer(tuple(r["tokenIds"]), r["text"], r["logitsSha256"]) for r in results]


def in_javascript(runtime: Runtime, bundle: Path, jobs: Sequence[Any], *flags: str) -> list[dict[str, Any]]:
    """Results of the jobs of `runtime_wasm/tools/scenario.mjs`."""
    node = shutil.which("node")
    assert node, "Node is not installed"
    command = [
        *[node, str(TOOL), "--engine", runtime.engine, "--bundle", str(bundle), "--prompts", "-", "--json"],
        *["--variant", runtime.variant, "--threads", str(runtime.threads), *flags],
    ]
    finished = subprocess.run(
        command, input=json.dumps(list(jobs)), capture_output=True, text=True, timeout=1200, check=False
    )
    assert finished.returncode == 0, finished.stderr + finished.stdout
    outcome = json.loads(finished.stdout)
    assert (outcome["stats"]["variant"], outcome["stats"]["threads"]) == (runtime.variant, runtime.threads)
    assert outcome["selfTest"]["passed"] is not False, outcome["selfTest"]
    results: list[dict[str, Any]] = outcome["results"]
    return results


def image_job(pixels: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """A picture, uint8 [height, width, 3], in a job."""
    height, width, _ = pixels.shape
    return {"width": width, "height": height, "data": base64.b64encode(pixels.tobytes()).decode()}


def _in_python(
    runtime: Runtime, bundle: Path, prompts: Sequence[str], max_tokens: int, depth: int | None
) -> list[Answer]:
    found = []
    with edgec.run.load(bundle, variant=runtime.variant, threads=runtime.threads, depth=depth) as model:
        for prompt in prompts:
            model.reset()
            messages = [{"role": "user", "content": prompt}]
            generation = model.chat(messages, max_tokens=max_tokens, temperature=0, hash_logits=True)
            text = generation.text()
            assert generation.logits_sha256 is not None
            found.append(Answer(tuple(generation.ids), text, generation.logits_sha256))
        assert model.self_test().passed
    return found
