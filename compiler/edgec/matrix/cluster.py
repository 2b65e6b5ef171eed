"""All cells on a Dask cluster. Its workers need edgec, and the same files at the same places as here.

What a worker had finished when it died lies in the cache, and Dask gives the cell to another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgec.errors import MissingDependencyError, RunError
from edgec.ir.store import key_of
from edgec.matrix.cell import Cell, Order, Outcome
from edgec.matrix.local import Done
from edgec.matrix.process import run_cell

CONNECT_SECONDS = 20


def run_on_cluster(address: str, cells: Sequence[Cell], *, done: Done | None = None) -> list[Outcome]:
    """The outcome of each cell. Raises `RunError` if there is no scheduler at `address`."""
    try:
        from distributed import Client, as_completed
    except ImportError:
        hint = "pip install 'edgec[dask]'"
        raise MissingDependencyError("a cluster needs the package `distributed`", hint=hint) from None
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise RunError(f"no Dask scheduler answers at `{address}`", hint="start one with `dask scheduler`") from error
    order = Order(cells)
    outcomes: dict[str, Outcome] = {}
    with client:
        futures: dict[Any, Cell] = {}

        def submit(cell: Cell) -> Any:
            data = cell.to_json()
            future = client.submit(run_cell, data, key=f"edgec-{cell.model}-{key_of(data)}", pure=False)
            futures[future.key] = cell
            return future

        pending = as_completed([submit(cell) for cell in order.first])
        for future in pending:
            cell = futures[future.key]
            failure = future.exception()
            if failure is None:
                outcome = Outcome(**future.result())
            else:
                outcome = Outcome.failed(
                    "worker", f"{type(failure).__name__}: {failure}", "see the logs of the workers"
                )
            outcomes[cell.output] = outcome
            if done is not None:
                done(cell, outcome)
            for follower in order.after(cell):
                pending.add(submit(follower))
    return [outcomes[cell.output] for cell in cells]


__all__ = ["run_on_cluster"]
