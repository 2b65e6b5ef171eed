"""Running a bundle in Node or a browser by `runtime_wasm/tools/run-in.mjs`."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgec.errors import MissingDependencyError, RunError

ENGINES = ("wasmtime", "node", "chromium", "firefox")  # the first is Python's
TIME_LIMIT = 1800.0  # seconds for one engine
GRACE = 10.0  # seconds to close a browser


def run_in(engine: str, bundle: Path, jobs: Sequence[dict[str, Any]], arguments: Sequence[str] = ()) -> dict[str, Any]:
    """Do the jobs (`runtime_wasm/tools/scenario.mjs`) and return what the script prints; the self-test is always in it.

    Raises `MissingDependencyError` without Node or the runtime, `RunError` for what went wrong inside.
    """
    from edgec import resources

    node = shutil.which("node")
    script = resources.runtime_tools_directory() / "run-in.mjs"
    if node is None:
        raise MissingDependencyError("Node is not installed", hint="install Node 20 or newer")
    if not script.is_file() or not resources.runtime_directory().is_dir():
        raise MissingDependencyError(
            "the JavaScript runtime and its tools are not here", hint="run `make runtime` in a checkout of edgec"
        )
    command = [node, str(script), "--engine", engine, "--bundle", str(bundle.resolve()), "--prompts", "-", "--json"]
    process = subprocess.Popen(
        [*command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        output, complaints = process.communicate(json.dumps(jobs), timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        raise RunError(f"{engine} did not finish within {TIME_LIMIT:.0f} seconds") from None
    finally:
        _end(process)
    try:
        document: dict[str, Any] = json.loads(output)
    except ValueError:
        line = next((line for line in complaints.splitlines() if line.strip()), "nothing was printed")
        raise RunError(f"{engine} failed: {line}") from None
    if "error" in document:
        error = document["error"]
        raise RunError(f"{engine} failed: {error.get('message') or error.get('code')}", hint=error.get("hint"))
    return document


def _end(process: subprocess.Popen[str]) -> None:
    """Ask politely first: then the script closes its browser."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.communicate(timeout=GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
