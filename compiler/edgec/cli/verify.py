"""`edgec verify`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edgec.errors import BundleError


@click.command(epilog="Example:\n\n\b\n  edgec verify smollm2.edgec")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Say it by the exit code alone: 0 sound, 7 not.")
def command(bundle: Path, as_json: bool, quiet: bool) -> int:
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

    if sys.stderr.isatty() and not (as_json or quiet):
        with console.stderr().status("checking"):
            findings = bundles.verify(bundle, progress=count)
    else:
        findings = bundles.verify(bundle, progress=count)
    if as_json:
        listed = [{"code": f.code, "file": f.file, "message": f.message} for f in findings]
        console.print_json({"bundle": str(bundle), "sound": not findings, "findings": listed})
    elif not quiet:
        for finding in findings:
            click.echo(f"{click.style(finding.code, fg='red')}  {finding.message}")
        if not findings:
            click.echo(f"{click.style('sound', fg='green')}  {bundle}, {mebibytes(hashed)} checked")
    return BundleError.exit_code if findings else 0
