"""One cell in a process of its own: its memory is free afterwards, and its death is a row of the table."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from edgec.matrix.cell import Cell, Outcome

Event = Mapping[str, Any]  # {"stage", "done", "total"}
Watch = Callable[[Cell, Event], None]


class Processes:
    """Those that run now."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def run(self, cell: Cell, watch: Watch | None = None) -> Outcome:
        """Compile the cell; never raises for what goes wrong in its process."""
        with tempfile.TemporaryFile("w+") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "edgec.matrix.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            self._running.add(process)
            try:
                if self._stopped:
                    self._end(process)
                return _talk(process, cell, watch) or _died(process, log)
            finally:
                self._running.discard(process)
                self._end(process)
                process.wait()

    def stop(self) -> None:
        """End all of them, and any that would be started later."""
        self._stopped = True
        for process in list(self._running):
            self._end(process)

    def _end(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        try:
            process.stdin.close()
        except (OSError, ValueError):
            return  # it is gone, or closed already


def _talk(process: subprocess.Popen[str], cell: Cell, watch: Watch | None) -> Outcome | None:
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(cell.to_json()) + "\n")
        process.stdin.flush()
    except (OSError, ValueError):
        return None
    for line in process.stdout:
        event = json.loads(line)
        if "outcome" in event:
            return Outcome(**event["outcome"])
        if watch is not None:
            watch(cell, event)
    return None


def _died(process: subprocess.Popen[str], log: Any) -> Outcome:
    code = process.wait()
    log.seek(0)
    lines = [line.strip() for line in log if line.strip()]
    how = f"signal {-code}" if code < 0 else f"code {code}"
    hint = "it may have run out of memory; try fewer jobs" if code == -9 else lines[-1] if lines else None
    return Outcome.failed("died", f"the process ended with {how}", hint)


def run_cell(cell: Mapping[str, Any]) -> dict[str, Any]:
    """The same, data in and data out, for workers elsewhere."""
    return Processes().run(Cell(**cell)).to_json()


__all__ = ["Event", "Processes", "Watch", "run_cell"]
