"""How failures look: one sentence, what to do, and never a traceback unless somebody asks for it."""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
import traceback

import click

from edgec import __version__
from edgec.errors import EdgecError, OutputError, UsageError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_WRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM}


def debugging() -> bool:
    """True after `edgec --debug ...` or with EDGEC_DEBUG set in the environment."""
    return os.environ.get("EDGEC_DEBUG", "") not in ("", "0")


def show(error: EdgecError, *, as_json: bool) -> int:
    """Print an error on stderr and return its exit code."""
    if debugging():
        traceback.print_exception(error)
    if as_json:
        _print_json(error.code, error.message, error.hint, error.exit_code)
    else:
        _print_lines(error.message, error.hint)
    return error.exit_code


def show_interrupted(exit_code: int, *, as_json: bool) -> int:
    if as_json:
        _print_json("interrupted", "interrupted, nothing was left behind", None, exit_code)
    else:
        click.echo(click.style("interrupted", fg="yellow") + ", nothing was left behind", err=True)
    return exit_code


def show_bug(error: Exception, exit_code: int, *, as_json: bool) -> int:
    """An exception nobody foresaw is our bug: say so in one line."""
    if debugging():
        traceback.print_exception(error)
    summary = " ".join(str(error).split())[:200]
    message = f"edgec {__version__} has a bug: `{type(error).__name__}`" + (f": {summary}" if summary else "")
    again = f"EDGEC_DEBUG=1 {shlex.join(['edgec', *sys.argv[1:]])}"
    hint = f"please report it with the output of `{again}`"
    if as_json:
        _print_json("bug", message, hint, exit_code)
    else:
        _print_lines(message, hint)
    return exit_code


def from_click(error: click.UsageError) -> UsageError:
    """The same look for click's own complaints about arguments."""
    message = error.format_message().rstrip(".")
    context = error.ctx
    return UsageError(
        message[:1].lower() + message[1:],
        hint=f"see `{context.command_path} --help`" if context is not None else None,
    )


def from_system(error: Exception) -> EdgecError | None:
    """What the operating system refused, in the words of an `EdgecError`; None for everything else."""
    if isinstance(error, MemoryError):
        return EdgecError(
            "the machine ran out of memory",
            hint="close other programs, or compile a smaller model or on a larger machine",
        )
    if not isinstance(error, OSError):
        return None
    where = f" while writing `{error.filename}`" if error.filename else ""
    if error.errno in _NO_SPACE:
        return OutputError(f"no space is left{where}", hint="free some space, or choose another folder with `-o`")
    if error.errno in _NOT_WRITABLE and error.filename:
        return OutputError(f"`{error.filename}` cannot be opened: {_reason(error)}", hint="check its permissions")
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR) and error.filename:
        return UsageError(f"`{error.filename}` cannot be opened: {_reason(error)}")
    if error.errno == errno.EADDRINUSE:
        return UsageError("the port is already in use", hint="choose another one with `--port`")
    return None


def _reason(error: OSError) -> str:
    return (error.strerror or "unknown reason").lower()


def _print_lines(message: str, hint: str | None) -> None:
    click.echo(click.style("error", fg="red", bold=True) + f": {message}", err=True)
    if hint:
        click.echo(click.style(" hint", fg="cyan") + f": {hint}", err=True)


def _print_json(code: str, message: str, hint: str | None, exit_code: int) -> None:
    document = {"error": {"code": code, "message": message, "hint": hint, "exit_code": exit_code}}
    click.echo(json.dumps(document, ensure_ascii=False), err=True)
