"""The command line as a user has it: a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Edgec = Callable[..., "subprocess.CompletedProcess[str]"]


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", "from edgec.cli import main; main()", *map(str, arguments)]


def environment(**extra: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "EDGEC_DEBUG"}
    return inherited | {"NO_COLOR": "1", "COLUMNS": "120"} | extra


@pytest.fixture
def edgec(tmp_path: Path) -> Edgec:
    """`edgec("verify", path)` runs the command in an empty folder and returns the finished process."""
    folder = tmp_path / "working-folder"
    folder.mkdir()

    def run(*arguments: str | Path, input: str | None = None, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            input=input,
            capture_output=True,
            text=True,
            cwd=folder,
            env=environment(**extra),
            timeout=120,
            check=False,
        )

    return run
