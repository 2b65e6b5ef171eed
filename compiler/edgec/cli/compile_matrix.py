"""`edgec compile-matrix`."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from edgec.errors import EdgecError, OutputError, UsageError

if TYPE_CHECKING:
    from rich.progress import TaskID

    from edgec.matrix import Cell, Outcome

EPILOG = """\
Examples:

\b
  edgec compile-matrix matrix.toml
  edgec compile-matrix matrix.toml -j 4 --json > result.json
  edgec compile-matrix matrix.toml --report sizes-and-losses.html
  edgec compile-matrix matrix.toml --dask tcp://scheduler:8786

\b
A matrix:
  output = "bundles"
  profiles = ["phone-4gb", "laptop-8gb"]
  [models.smollm2]
  source = "./SmolLM2-135M-Instruct"
  eval = { text = "wikitext.txt", tokens = 2048 }
  [[cells]]
  model = "smollm2"
  profile = "phone-4gb"
  target_size = "60MB"
"""


@click.command(epilog=EPILOG)
@click.argument("matrix", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--jobs", "-j", type=click.IntRange(min=1), help="Compilations at a time  [default: half the processors]."
)
@click.option("--dask", "address", metavar="ADDRESS", help="Compile on the Dask cluster with this scheduler.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder for finished stages, shared by all cells  [default: the user's].",
)
@click.option("--no-cache", is_flag=True, help="Compute everything, keep nothing.")
@click.option("--report", "page", type=click.Path(path_type=Path), help="Plot sizes and losses as a page (HTML).")
@click.option("--json", "as_json", is_flag=True, help="Print the outcomes as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Say it by the exit code alone: 0 all compiled, 1 not.")
def command(
    matrix: Path,
    jobs: int | None,
    address: str | None,
    cache: Path | None,
    no_cache: bool,
    page: Path | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Compile every model of MATRIX for every device in it.

    MATRIX is a TOML file. Each compilation is a process of its own; one that fails does not stop the others. Options in
    the file are those of `edgec compile`, with `_` for `-`: for all, for a model, or for one cell.
    """
    from edgec.cache import default_folder
    from edgec.matrix import read_matrix, run_local

    if cache and no_cache:
        raise UsageError("`--cache` and `--no-cache` exclude each other", hint="leave one of them out")
    if address and jobs:
        raise UsageError("the cluster's workers decide how many compilations run", hint="leave `--jobs` out")
    if page is not None and not page.absolute().parent.is_dir():
        raise OutputError(f"`{page}` cannot be written, the folder does not exist")  # now, not after minutes of work
    cells = read_matrix(matrix, None if no_cache else cache or default_folder())
    if page is not None and not any(cell.measure for cell in cells):
        hint = 'for example `eval = { text = "wikitext.txt" }`'
        raise UsageError("a plot of sizes and losses needs losses, and the matrix has no `eval`", hint=hint)
    with _Bars(cells, shown=not quiet and sys.stderr.isatty()) as bars:
        if address:
            from edgec.matrix.cluster import run_on_cluster

            outcomes = run_on_cluster(address, cells, done=bars.done)
        else:
            outcomes = run_local(cells, jobs or _half_the_processors(), watch=bars.watch, done=bars.done)
    if page is not None:
        _write_page(page, cells, outcomes)
    if as_json:
        from edgec.cli import console

        console.print_json(
            {"matrix": str(matrix), "cells": [_row(*pair) for pair in zip(cells, outcomes, strict=True)]}
        )
    elif not quiet:
        _show(cells, outcomes)
    return EdgecError.exit_code if any(outcome.error for outcome in outcomes) else 0


# What `edgec eval` measures -> what the plot calls it
_LOSSES = {"kl_mean": "KL divergence (nats)", "loss": "loss"}


def _write_page(file: Path, cells: Sequence[Cell], outcomes: Sequence[Outcome]) -> None:
    from edgec.cli.inspect import write_text
    from edgec.report.evidence import Candidate, render_candidates

    results = [(cell, outcome.result) for cell, outcome in zip(cells, outcomes, strict=True) if outcome.result]
    measured = [(cell, result, result["accuracy"]) for cell, result in results if result["accuracy"]]
    key = next(name for name in _LOSSES if all(name in accuracy for _, _, accuracy in measured))
    candidates = [
        Candidate(
            Path(cell.source).name,
            f"{cell.model}, {Path(cell.profile).stem}",
            result["bytes"],
            accuracy[key],
            result["prediction"]["decode_tokens_per_second"],
            result["prediction"]["peak_bytes"],
        )
        for cell, result, accuracy in measured
    ]
    try:
        write_text(file, render_candidates(candidates, _LOSSES[key]))
    except OSError as error:
        raise OutputError(f"`{file}` cannot be written ({error.strerror})") from error


def _half_the_processors() -> int:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, count // 2)


def _row(cell: Cell, outcome: Outcome) -> dict[str, Any]:
    return {
        "model": cell.model,
        "profile": cell.profile,
        "bundle": cell.output,
        "ok": outcome.error is None,
        **outcome.to_json(),
    }


class _Bars:
    """A line for each cell that runs, on a terminal; where the bars do not go, what has ended."""

    def __init__(self, cells: Sequence[Cell], *, shown: bool) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        from edgec.cli import console

        columns = (
            TextColumn("  {task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            MofNCompleteColumn(),
        )
        self._console = console.stderr()
        self._shown = shown
        self._bars = Progress(*columns, console=self._console, transient=True, disable=not shown)
        self._all = self._bars.add_task("all", total=len(cells))
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self._bars.stop()

    def watch(self, cell: Cell, event: Any) -> None:
        from edgec.cli import console

        with self._lock:
            if cell.output not in self._tasks:
                self._tasks[cell.output] = self._bars.add_task("", total=None)
            description = f"{console.plain(cell.label)}  [dim]{event['stage']}[/]"
            total = event["total"] or None
            self._bars.update(self._tasks[cell.output], description=description, completed=event["done"], total=total)

    def done(self, cell: Cell, outcome: Outcome) -> None:
        from edgec.cli import console

        with self._lock:
            task = self._tasks.pop(cell.output, None)
            if task is not None:
                self._bars.remove_task(task)
            self._bars.advance(self._all)
            if self._shown:
                mark = "[red]✗[/]" if outcome.error else "[green]✓[/]"
                self._console.print(f"  {mark} {console.plain(cell.label)}")


def _show(cells: Sequence[Cell], outcomes: Sequence[Outcome]) -> None:
    from edgec.cli import console
    from edgec.report.units import mebibytes

    out = console.stdout()
    measured = any(outcome.result and outcome.result["accuracy"] for outcome in outcomes)
    numbers = ["size", "memory", "prompt", "answer", "took", *(["loss"] if measured else [])]
    table = console.table("model", "for", *numbers, right=numbers)
    for cell, outcome in zip(cells, outcomes, strict=True):
        result = outcome.result
        if result is None:
            table.add_row(console.plain(cell.model), Path(cell.profile).stem, "[red]failed[/]")
            continue
        prediction = result["prediction"]
        speeds = (prediction["prefill_tokens_per_second"], prediction["decode_tokens_per_second"])
        loss = (result["accuracy"] or {}).get("loss")
        table.add_row(
            console.plain(cell.model),
            Path(cell.profile).stem,
            mebibytes(result["bytes"]),
            mebibytes(prediction["peak_bytes"]),
            *(f"{speed:,.0f} tok/s" if speed else "" for speed in speeds),
            f"{result['seconds']:.1f} s",
            *([f"{loss:+.4f}" if loss is not None else ""] if measured else []),
        )
    out.print(table)
    for cell, outcome in zip(cells, outcomes, strict=True):
        if outcome.error:
            out.print(f"[red]{console.plain(cell.label)}:[/] {console.plain(outcome.error['message'])}")
            if outcome.error["hint"]:
                out.print(f"  [dim]hint: {console.plain(outcome.error['hint'])}[/]")
