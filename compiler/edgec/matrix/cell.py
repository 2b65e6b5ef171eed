"""One compilation of a matrix, and what became of it. Both are plain data that cross processes as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Cell:
    model: str  # its name in the matrix
    profile: str
    source: str
    output: str
    options: Mapping[str, Any] = field(default_factory=dict)  # of `CompileOptions`, paths as texts
    measure: Mapping[str, Any] = field(default_factory=dict)  # options of `edgec eval`, where accuracy is asked for
    cache: str | None = None  # folder

    @property
    def label(self) -> str:
        return f"{self.model} for {self.profile}"

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Outcome:
    """`error` has the fields `code`, `message` and `hint` where the cell failed, `result` the facts where not.

    `result`: bytes, manifest_sha256, prediction (as in the plan), seconds, peak_bytes, cache (see
    `edgec.cache.Counts`), accuracy (what `edgec eval` says, null if not asked for).
    """

    result: Mapping[str, Any] | None
    error: Mapping[str, Any] | None

    @classmethod
    def failed(cls, code: str, message: str, hint: str | None = None) -> Outcome:
        return cls(None, {"code": code, "message": message, "hint": hint})

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class Order:
    """Cells of one model share most of their work, so one goes first, and the others take it from the cache."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.first: list[Cell] = []
        self._waiting: dict[str, list[Cell]] = {}
        for cell in cells:
            if cell.source in self._waiting:
                self._waiting[cell.source].append(cell)
            else:
                self._waiting[cell.source] = []
                self.first.append(cell)

    def after(self, cell: Cell) -> list[Cell]:
        """The cells that may begin now that this one has ended."""
        return self._waiting.pop(cell.source, [])


__all__ = ["Cell", "Order", "Outcome"]
