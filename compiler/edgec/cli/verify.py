"""`edgec verify`."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgec.errors import BundleError, RunError

if TYPE_CHECKING:
    from edgec.run import SelfTest


EPILOG = """\
Examples:

\b
  edgec verify smollm2.edgec
  edgec verify --run smollm2.edgec
"""


@click.command(epilog=EPILOG)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--run", "run_too", is_flag=True, help="Also run its small fixed input on every variant that works here.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option(
    "--quiet", "-q", is_flag=True, help="Say it by the exit code alone: 0 sound, 7 not, 11 computes otherwise."
)
def command(bundle: Path, run_too: bool, as_json: bool, quiet: bool) -> int:
    """Check every name, length, hash and bound of BUNDLE.

    The browser applies the same checks before it uses a byte, and comes to the same verdict.
    """
    from edgec import bundle as bundles
    from edgec.cli import console
    from edgec.report.units import mebibytes

    hashed = 0

    def count(size: int) -> None:
        nonlocal hashed
        hashed += size

    shown = sys.stderr.isatty() and not (as_json or quiet)
    with console.stderr().status("checking") if shown else contextlib.nullcontext():
        findings = bundles.verify(bundle, progress=count)
        tests = _self_tests(bundle) if run_too and not findings else []
    if as_json:
        listed = [{"code": f.code, "file": f.file, "message": f.message} for f in findings]
        document: dict[str, Any] = {"bundle": str(bundle), "sound": not findings, "findings": listed}
        if run_too:
            document["self_tests"] = [dataclasses.asdict(test) for test in tests]
        console.print_json(document)
    elif not quiet:
        for finding in findings:
            click.echo(f"{click.style(finding.code, fg='red')}  {finding.message}")
        if not findings:
            click.echo(f"{click.style('sound', fg='green')}  {bundle}, {mebibytes(hashed)} checked")
        for test in tests:
            _show(test)
    if findings:
        return BundleError.exit_code
    return RunError.exit_code if any(test.passed is False for test in tests) else 0


def _self_tests(bundle: Path) -> list[SelfTest]:
    """One for every variant of the bundle that this engine can run."""
    from edgec import bundle as bundles
    from edgec.run import load
    from edgec.run.engine import runnable_variants

    opened, tests = bundles.read(bundle), []
    for variant in runnable_variants(opened):
        with load(opened, variant=variant) as model:
            tests.append(model.self_test())
    return tests


def _show(test: SelfTest) -> None:
    threads = f"{test.threads} thread{'' if test.threads == 1 else 's'}"
    if test.passed is None:
        click.echo(f"{click.style('untested', fg='yellow')}  {test.variant}: the bundle keeps nothing to compare with")
    elif test.passed:
        click.echo(f"{click.style('same bits', fg='green')}  {test.variant}, {threads}, {test.compared} compared")
    for difference in test.differences:
        error = difference.largest_error
        size = "" if error is None else f", by {error:.3g} among the values kept"
        click.echo(f"{click.style('differs', fg='red')}  {test.variant}, {threads}: {difference.what}{size}")
