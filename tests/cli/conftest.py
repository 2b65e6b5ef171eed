"""The command line, in this process (fast) or as a process of its own (signals, pipes, exit codes)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgec.cli import invoke


@dataclass(frozen=True)
class Result:
    code: int
    stdout: str
    stderr: str


Edgec = Callable[..., Result]


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    folder = tmp_path / "working-folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def edgec(working_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Edgec:
    """`edgec("verify", path)` runs the command in this process, in `working_folder`."""
    monkeypatch.delenv("EDGEC_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: str | Path) -> Result:
        capsys.readouterr()
        code = invoke([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


def command(*arguments: str | Path) -> list[str]:
    """The command line as a process."""
    return [sys.executable, "-c", "from edgec.cli import main; main()", *map(str, arguments)]


def environment() -> dict[str, str]:
    # Without byte code on disk every import would compile its sources again.
    dropped = {"EDGEC_DEBUG", "PYTHONDONTWRITEBYTECODE"}
    return {name: value for name, value in os.environ.items() if name not in dropped} | {"NO_COLOR": "1"}
