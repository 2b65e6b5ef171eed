"""The progress of a compilation on a terminal: one line per stage, the running one with a bar."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

from edgec.cli import interrupts
from edgec.pipeline import STAGES, StageRecord

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

_PURPOSE = {stage.name: stage.purpose for stage in STAGES}
_LABEL = max(len(purpose) for purpose in _PURPOSE.values()) + 2


class StageLines:
    """An `edgec.pipeline.Progress`. Prints nothing when stderr is not a terminal or `quiet` is set."""

    def __init__(self, *, quiet: bool = False) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        from edgec.cli import console

        self._console: Console = console.stderr()
        self._shown = not quiet and sys.stderr.isatty()
        self._bars = Progress(
            TextColumn(" "),
            SpinnerColumn(style="cyan"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24, complete_style="cyan", finished_style="cyan"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[item]}"),
            console=self._console,
            transient=True,
            disable=not self._shown,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self._bars.stop()

    def started(self, stage: str) -> None:
        interrupts.check()
        self._task = self._bars.add_task(_PURPOSE[stage].ljust(_LABEL), total=None, item="")

    def advanced(self, stage: str, item: str, done: int, total: int) -> None:
        interrupts.check()
        from edgec.cli import console

        if self._task is not None:
            self._bars.update(self._task, completed=done, total=total or None, item=console.plain(_tail(item)))

    def finished(self, record: StageRecord) -> None:
        from edgec.report.units import mebibytes

        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None
        if self._shown:
            purpose = _PURPOSE[record.stage].ljust(_LABEL)
            memory = f"peak {mebibytes(record.peak_bytes)}" if record.peak_bytes else ""
            self._console.print(f"  [green]✓[/] {purpose}[dim]{record.seconds:6.1f} s   {memory}[/]")


def _tail(item: str, limit: int = 40) -> str:
    """The end of a long tensor name says most."""
    return item if len(item) <= limit else "…" + item[-limit + 1 :]
