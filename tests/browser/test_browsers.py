"""The runtime in real browsers; the tests themselves are in `suite.mjs`, the same for each browser."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ENGINES = ["chromium", "firefox"]
NAMES = re.findall(r'^  "(.+)": async \(', (HERE / "suite.mjs").read_text(encoding="utf-8"), re.MULTILINE)


@functools.cache
def outcome(engine: str) -> dict[str, str]:
    """name of each test -> "passed" or what went wrong."""
    node = shutil.which("node")
    assert node, "Node is not installed"
    command = [node, str(HERE / "suite.mjs"), "--engine", engine, "--json"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert finished.stdout, finished.stderr
    results: dict[str, str] = json.loads(finished.stdout)["results"]
    return results


@pytest.mark.browser
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", NAMES)
def test_in_browser(engine: str, name: str) -> None:
    assert outcome(engine)[name] == "passed"


def test_every_test_of_the_suite_was_found() -> None:
    assert len(NAMES) >= 16
