"""The process of one cell: a line of JSON in, lines of JSON out, the last one the outcome.

It ends when its standard input does, so that it never outlives the process that wants its outcome.
"""

from __future__ import annotations

import _thread
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from edgec.errors import EdgecError
from edgec.matrix.cell import Cell, Outcome
from edgec.pipeline import CompileOptions, StageRecord, run_stages

GRACE = 10.0  # seconds in which temporary files may be removed


class _Reporter:
    """An `edgec.pipeline.Progress` that writes lines."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = 0.0

    def line(self, **event: Any) -> None:
        print(json.dumps(event), file=self._stream, flush=True)

    def started(self, stage: str) -> None:
        self.line(stage=stage, done=0, total=0)

    def advanced(self, stage: str, item: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last > 0.1:
            self._last = now
            self.line(stage=stage, done=done, total=total)

    def finished(self, record: StageRecord) -> None:
        pass


def main() -> None:
    # What libraries print must not come between the lines.
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    reporter = _Reporter(lines)
    cell = Cell(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_input, daemon=True).start()
    reporter.line(outcome=run(cell, reporter).to_json())


def _end_with_input() -> None:
    sys.stdin.read()
    _thread.interrupt_main()
    time.sleep(GRACE)
    os._exit(1)


def run(cell: Cell, reporter: _Reporter) -> Outcome:
    try:
        result = _compile(cell, reporter)
        if cell.measure:
            reporter.line(stage="eval", done=0, total=0)
            result["accuracy"] = _measure(cell)
    except EdgecError as error:
        return Outcome.failed(error.code, error.message, error.hint)
    except Exception as error:  # noqa: BLE001 - one cell's failure is a row of the table, not the end of it
        return Outcome.failed(
            "bug", f"{type(error).__name__}: {error}", "compile it alone with `edgec --debug compile`"
        )
    return Outcome(result, None)


def _compile(cell: Cell, reporter: _Reporter) -> dict[str, Any]:
    paths = {name: Path(cell.options[name]) for name in ("calibration",) if name in cell.options}
    cache = None if cell.cache is None else Path(cell.cache)
    options = CompileOptions(**{**cell.options, **paths}, cache=cache)
    work = run_stages(cell.source, cell.profile, cell.output, options, reporter)
    assert work.bundle is not None and work.plan is not None
    return {
        "bytes": work.bundle.manifest.total_bytes(),
        "manifest_sha256": hashlib.sha256(work.bundle.manifest.dump()).hexdigest(),
        "prediction": dataclasses.asdict(work.plan.prediction),
        "seconds": sum(record.seconds for record in work.records),
        "peak_bytes": max(record.peak_bytes for record in work.records),
        "cache": None if work.cache is None else dataclasses.asdict(work.cache.counts),
        "accuracy": None,
    }


def _measure(cell: Cell) -> dict[str, Any]:
    """What `edgec eval` says of the bundle beside the float model."""
    options = [part for name, value in cell.measure.items() for part in (f"--{name}", str(value))]
    task = ["--task", str(cell.options["task"])] if "task" in cell.options else []
    command = [sys.executable, "-c", "from edgec.cli import main; main()", "eval", cell.output, cell.source]
    finished = subprocess.run([*command, *options, *task, "--json"], capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        lines = [line for line in finished.stderr.splitlines() if line.strip()] or ["no message"]
        raise EdgecError(f"the bundle was compiled, but not measured: {lines[0].removeprefix('error: ')}")
    result: dict[str, Any] = json.loads(finished.stdout)
    return result


if __name__ == "__main__":
    main()
