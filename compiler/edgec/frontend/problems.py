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


def refuse(source: str, problems: Sequence[Problem], *, hint: str | None = None) -> None:
    """Raises `UnsupportedError` that names every problem; returns when there is none."""
    if not problems:
        return
    groups: dict[str, list[str]] = {}
    for problem in problems:
        groups.setdefault(problem.supported, []).append(f"`{problem.subject}` is {problem.found}")
    listed = "; ".join(f"{', '.join(found)} (supported: {supported})" for supported, found in groups.items())
    raise UnsupportedError(f"`{source}` cannot be compiled: {listed}", hint=hint)
