"""Help, exit codes and the look of failures."""

from __future__ import annotations

import contextlib
import errno
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

import edgec.cli
from edgec import errors
from edgec.cli import app, failures, interrupts
from tests.cli.conftest import Edgec, command, environment


def test_every_command_has_help_with_an_example(edgec: Edgec) -> None:
    for name in app.app.list_commands(click.Context(app.app)):
        result = edgec(name, "--help")
        assert result.code == 0, result.stderr
        assert "Example" in result.stdout, name


def test_help_is_fast_and_imports_no_heavy_module() -> None:
    code = (
        "import sys; from edgec.cli import invoke; invoke(['--help']);"
        "heavy = ('numpy', 'onnx', 'onnx_ir', 'tvm', 'rich', 'wasmtime', 'tokenizers');"
        "print(sorted(module for module in heavy if module in sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
    best = min(_seconds_of_help() for _ in range(3))
    assert best < 0.6  # 0.15 s on a quiet machine


def _seconds_of_help() -> float:
    begin = time.perf_counter()
    subprocess.run(command("--help"), capture_output=True, check=True)
    return time.perf_counter() - begin


def test_a_mistyped_command_gets_a_suggestion(edgec: Edgec) -> None:
    result = edgec("comple")
    assert result.code == 2
    assert result.stdout == ""
    assert "did you mean `compile`?" in result.stderr


def test_errors_as_json(edgec: Edgec) -> None:
    result = edgec("verify", "nowhere", "--json")
    assert result.code == 7
    assert json.loads(result.stderr)["error"] == {
        "code": "bundle",
        "exit_code": 7,
        "hint": "a bundle is the directory that `edgec compile` wrote",
        "message": "`nowhere` is not a directory",
    }


def test_exit_codes_are_those_of_the_docstring() -> None:
    classes = [errors.EdgecError]
    for parent in classes:
        classes.extend(parent.__subclasses__())
    documented = errors.__doc__ or ""
    own_codes = {c: c.exit_code for c in classes if "exit_code" in vars(c)}
    assert sorted(own_codes.values()) == list(range(1, 12))
    for error_class, code in own_codes.items():
        line = next(line for line in documented.splitlines() if f" {error_class.__name__} " in f"{line} ")
        assert f" {code}" in line
    assert len({c.code for c in classes}) == len(classes)


@pytest.mark.parametrize(
    ("raised", "code", "text"),
    [
        (errors.ModelError("`x` is damaged", hint="copy it again"), 3, "error: `x` is damaged\n hint: copy it again\n"),
        (KeyboardInterrupt(), 130, "interrupted, nothing was left behind\n"),
        (interrupts.Terminated(), 143, "interrupted, nothing was left behind\n"),
        (BrokenPipeError(), 141, ""),
        (MemoryError(), 1, "error: the machine ran out of memory\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/a/b"),
            10,
            "error: no space is left while writing `/a/b`\n",
        ),
        (OSError(errno.EACCES, "Permission denied", "/a/b"), 10, "error: `/a/b` cannot be opened: permission denied\n"),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "x.json"),
            2,
            "error: `x.json` cannot be opened: no such file\n",
        ),
    ],
)
def test_how_failures_end(
    raised: BaseException,
    code: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise raised

    monkeypatch.delenv("EDGEC_DEBUG", raising=False)
    monkeypatch.setattr(app.app, "invoke", fail)
    assert edgec.cli.invoke(["doctor"]) == code
    assert capsys.readouterr().err.startswith(text)


def test_an_interrupt_that_comes_out_as_another_error_is_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it happens in Python code that TVM calls."""

    def fail(*_arguments: object, **_options: object) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            interrupts._handle(signal.SIGINT, None)
        raise RuntimeError("the callback failed")

    monkeypatch.setattr(interrupts, "_received", None)
    monkeypatch.setattr(app.app, "invoke", fail)
    assert edgec.cli.invoke(["doctor"]) == 130
    assert capsys.readouterr().err == "interrupted, nothing was left behind\n"
    with pytest.raises(KeyboardInterrupt):
        interrupts.check()
    interrupts.forget()
    interrupts.check()


def test_a_bug_is_one_line_and_a_way_to_report_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.delenv("EDGEC_DEBUG", raising=False)
    monkeypatch.setattr(app.app, "invoke", fail)
    monkeypatch.setattr(sys, "argv", ["edgec", "compile", "my model"])
    assert edgec.cli.invoke(["doctor"]) == 70
    shown = capsys.readouterr().err
    assert "bug: `RuntimeError`: two lines" in shown
    assert "EDGEC_DEBUG=1 edgec compile 'my model'" in shown
    assert "Traceback" not in shown
    monkeypatch.setenv("EDGEC_DEBUG", "1")
    assert edgec.cli.invoke(["doctor"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_no_other_os_error_is_blamed_on_the_user() -> None:
    assert failures.from_system(OSError(errno.EIO, "I/O error")) is None
    assert failures.from_system(ValueError("x")) is None


def test_a_closed_pipe_ends_quietly(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("doctor", "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, env=environment()
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    complaint = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 141
    assert complaint == b""
