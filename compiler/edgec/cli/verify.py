"""`edgec verify`."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgec.cli import javascript
from edgec.cli.javascript import ENGINES
from edgec.errors import BundleError, RunError, UsageError

if TYPE_CHECKING:
    from edgec.run import SelfTest


EPILOG = """\
Examples:

\b
  edgec verify smollm2.edgec
  edgec verify --run smollm2.edgec
  edgec verify --run --engine chromium --engine firefox smollm2.edgec
"""


@click.command(epilog=EPILOG)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--run",
    "run_too",
    is_flag=True,
    help="Also run its small fixed input on every variant that works here, at every depth of nested codes.",
)
@click.option(
    "--engine",
    "engines",
    multiple=True,
    type=click.Choice(ENGINES),
    help="With --run: where, several times if you like. Default: wasmtime; the others take the fastest variant.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option(
    "--quiet", "-q", is_flag=True, help="Say it by the exit code alone: 0 sound, 7 not, 11 computes otherwise."
)
def command(bundle: Path, run_too: bool, engines: tuple[str, ...], as_json: bool, quiet: bool) -> int:
    """Check every name, length, hash and bound of BUNDLE.

    The browser applies the same checks before it uses a byte, and comes to the same verdict.
    """
    from edgec import bundle as bundles
    from edgec.cli import console
    from edgec.report.units import mebibytes

    if engines and not run_too:
        raise UsageError("`--engine` says where the input runs", hint="add `--run`")
    hashed = 0

    def count(size: int) -> None:
        nonlocal hashed
        hashed += size

    shown = sys.stderr.isatty() and not (as_json or quiet)
    with console.stderr().status("checking") if shown else contextlib.nullcontext():
        findings = bundles.verify(bundle, progress=count)
        tests = _self_tests(bundle, engines or ENGINES[:1]) if run_too and not findings else []
    if as_json:
        listed = [{"code": f.code, "file": f.file, "message": f.message} for f in findings]
        document: dict[str, Any] = {"bundle": str(bundle), "sound": not findings, "findings": listed}
        if run_too:
            document["self_tests"] = [
                {"engine": name, "depth": depth, **dataclasses.asdict(test)} for name, depth, test in tests
            ]
        console.print_json(document)
    elif not quiet:
        for finding in findings:
            click.echo(f"{click.style(finding.code, fg='red')}  {finding.message}")
        if not findings:
            click.echo(f"{click.style('sound', fg='green')}  {bundle}, {mebibytes(hashed)} checked")
        for name, depth, test in tests:
            _show(name, depth, test)
    if findings:
        return BundleError.exit_code
    return RunError.exit_code if any(test.passed is False for *_, test in tests) else 0


def _self_tests(bundle: Path, engines: Sequence[str]) -> list[tuple[str, int | None, SelfTest]]:
    """(engine, depth, test): in wasmtime one for every variant that it can run."""
    from edgec import bundle as bundles
    from edgec.run import load
    from edgec.run.engine import runnable_variants

    opened, tests = bundles.read(bundle), []
    for engine, depth in itertools.product(engines, opened.manifest.depth_bits or (None,)):
        if engine != "wasmtime":
            tests.append((engine, depth, _in_javascript(engine, bundle, depth)))
            continue
        for variant in runnable_variants(opened):
            with load(opened, variant=variant, depth=depth) as model:
                tests.append((engine, depth, model.self_test()))
    return tests


def _in_javascript(engine: str, bundle: Path, depth: int | None) -> SelfTest:
    from edgec.run import Difference, SelfTest

    found = javascript.run_in(engine, bundle, [], ["--depth", str(depth)] if depth else [])["selfTest"]
    differences = tuple(
        Difference(one["what"], one["expectedSha256"], one["sha256"], one["largestError"])
        for one in found["differences"]
    )
    facts = (found["passed"], found["variant"], found["threads"], found["compared"])
    return SelfTest(*facts, differences, found["seconds"])


def _show(engine: str, depth: int | None, test: SelfTest) -> None:
    threads = f"{test.threads} thread{'' if test.threads == 1 else 's'}"
    where = f"{engine}, {test.variant}, {threads}" + (f", {depth} bits" if depth else "")
    if test.passed is None:
        click.echo(f"{click.style('untested', fg='yellow')}  {where}: the bundle keeps nothing to compare with")
    elif test.passed:
        click.echo(f"{click.style('same bits', fg='green')}  {where}, {test.compared} compared")
    for difference in test.differences:
        error = difference.largest_error
        size = "" if error is None else f", by {error:.3g} among the values kept"
        click.echo(f"{click.style('differs', fg='red')}  {where}: {difference.what}{size}")
