"""What is wrong with a source, collected completely before the first weight is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgec.errors import UnsupportedError


@dataclass(frozen=True)
class Problem:
    """One unsupported thing: `subject` is a config field, an op or a tensor type, `nodes` are those of an op."""

    subject: str
    found: str
    supported: str
    nodes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """`Loop` (steps, steps_1 and 5 more) is ..."""
        where = ""
        if self.nodes:
            more = len(self.nodes) - _SHOWN
            where = f" ({', '.join(self.nodes[:_SHOWN])}{f' and {more} more' if more > 0 else ''})"
        return f"`{self.subject}`{where} is {self.found}"


_SHOWN = 2  # nodes that a message names


def refuse(source: str, problems: Sequence[Problem], *, file: str | None = None, hint: str | None = None) -> None:
    """Raises `UnsupportedError` that names every problem; returns when there is none.

    `file` is where the subjects are, if not in the source itself.
    """
    if not problems:
        return
    groups: dict[str, list[str]] = {}
    for problem in problems:
        groups.setdefault(problem.supported, []).append(str(problem))
    listed = "; ".join(f"{', '.join(found)} (supported: {supported})" for supported, found in groups.items())
    place = f" because of its `{file}`" if file else ""
    raise UnsupportedError(f"`{source}` cannot be compiled{place}: {listed}", hint=hint)
