"""All cells on this machine, some at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from edgec.matrix.cell import Cell, Order, Outcome
from edgec.matrix.process import Processes, Watch

Done = Callable[[Cell, Outcome], None]


def run_local(
    cells: Sequence[Cell], jobs: int, *, watch: Watch | None = None, done: Done | None = None
) -> list[Outcome]:
    """The outcome of each cell; `jobs` processes at a time. An interrupt ends the processes too."""
    processes, order = Processes(), Order(cells)
    outcomes: dict[str, Outcome] = {}
    running: dict[Future[Outcome], Cell] = {}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            ready = order.first
            while ready or running:
                running |= {pool.submit(processes.run, cell, watch): cell for cell in ready}
                ready = []
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    cell = running.pop(future)
                    outcomes[cell.output] = future.result()
                    if done is not None:
                        done(cell, outcomes[cell.output])
                    ready += order.after(cell)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.stop()
            raise
    return [outcomes[cell.output] for cell in cells]


__all__ = ["Done", "run_local"]
