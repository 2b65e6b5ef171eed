"""Text in the making, piece by piece: what answers and transcripts have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from typing import ClassVar

from edgec.errors import RunError


class TextPieces(ABC):
    """Iterate for the pieces as they come, or call `text()` for all of it.

    `superseded` is set by the model when another request takes over.
    """

    _before_the_next: ClassVar[str]  # what a caller should do, for the error when it was superseded

    def __init__(self) -> None:
        self.superseded = False
        self._parts: list[str] = []
        self._pieces = self._run()

    @abstractmethod
    def _run(self) -> Generator[str, None, None]:
        """Compute the pieces; calls `_claim` before it uses the engine."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        piece = next(self._pieces)
        self._parts.append(piece)
        return piece

    def text(self) -> str:
        """Run to the end; the whole text, pieces already taken included."""
        for _ in self:
            pass
        return "".join(self._parts)

    __str__ = text

    def _claim(self) -> None:
        if self.superseded:
            raise RunError("another request has taken over the model", hint=self._before_the_next)


__all__ = ["TextPieces"]
