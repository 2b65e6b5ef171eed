"""What is wrong with a source, collected completely before the first weight is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgec.errors import UnsupportedError


@dataclass(frozen=True)
class Problem:
    """One unsupported thing: `subject` is a config field, an op or a tensor type."""

    subject: str
    found: str
    supported: str

    def __str__(self) -> str:
        return f"`{self.subject}` is {self.found} (supported: {self.supported})"


def refuse(source: str, problems: Sequence[Problem], *, hint: str | None = None) -> None:
    """Raises `UnsupportedError` that names every problem; returns when there is none."""
    if problems:
        listed = "; ".join(str(problem) for problem in problems)
        raise UnsupportedError(f"`{source}` cannot be compiled: {listed}", hint=hint)
