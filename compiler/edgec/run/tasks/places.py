"""Where in a text its tokens lie (docs/tasks.md, "Places of tokens").

The JavaScript tokenizer gives no offsets, and what tokenizers give differs; this looks for the tokens' letters.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

_IDEOGRAPHS = (
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F)),
    *((0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
)


@dataclass(frozen=True)
class Surface:
    """A vocabulary entry: its letters, None where it does not tell them; whether it begins a word."""

    letters: str | None
    begins: bool = False
    exact: bool = False  # letters are bytes, spaces among them, and were not folded
    byte: int | None = None  # of a character that the vocabulary lacks


@dataclass(frozen=True)
class Place:
    """`text[start:end]`; of a token without letters the next letter's place, twice."""

    start: int
    end: int


def fold(text: str) -> str:
    """Letters that are the same for what normalizers do: no case, accents, widths and spaces."""
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(char.lower() for char in decomposed if not _dropped(char))


def _dropped(char: str) -> bool:
    return unicodedata.category(char) in ("Mn", "Mc", "Me", "Zs", "Zl", "Zp", "Cc", "Cf") or char == "▁"


def places_of(text: str, surfaces: Sequence[Surface]) -> list[Place]:
    """The place of each of the tokens that `text` was encoded as."""
    joined: list[tuple[Surface, int]] = []  # with how many tokens each stands for
    for byte, run in itertools.groupby(surfaces, lambda surface: surface.byte is not None):
        alike = list(run)
        joined += _characters([surface.byte or 0 for surface in alike]) if byte else [(each, 1) for each in alike]
    search = _Search(text, any(surface.exact for surface in surfaces))
    found = search.run([surface for surface, _ in joined])
    return [place for place, (_, count) in zip(found, joined, strict=True) for _ in range(count)]


def _characters(run: Sequence[int]) -> list[tuple[Surface, int]]:
    """Bytes that follow each other as characters, with the number of bytes of each."""
    try:
        return [(Surface(fold(char)), len(char.encode())) for char in bytes(run).decode()]
    except UnicodeDecodeError:
        return [(Surface(None), len(run))]


@dataclass
class _Search:
    text: str
    exact: bool
    at: int = 0  # letters before it are found
    letters: str = ""
    chars: list[int] = field(default_factory=list)  # the character that each letter comes from

    def __post_init__(self) -> None:
        parts = []
        for index, char in enumerate(self.text):
            parts.append(char.encode("utf-8", "replace").decode("latin-1") if self.exact else fold(char))
            self.chars += [index] * len(parts[-1])
        self.letters = "".join(parts)

    def run(self, surfaces: Sequence[Surface]) -> list[Place]:
        found: list[Place] = []
        unknown = 0
        for surface in surfaces:
            start = self._find(surface, unknown) if surface.letters is not None else -1
            if start < 0:
                unknown += 1
                continue
            found += self._share(self.at, start, unknown)
            unknown, self.at = 0, start + len(surface.letters or "")
            found.append(self._place(start, self.at))
        return found + self._share(self.at, len(self.letters), unknown)

    def _find(self, surface: Surface, unknown: int) -> int:
        """The first letter of a token; what is unknown before it has at least one."""
        letters = surface.letters or ""
        if self.exact and not self.letters.startswith(letters, self.at):
            letters = letters.removeprefix(" ")  # put before the text
        if unknown == 0 and self.letters.startswith(letters, self.at):
            return self.at
        start = self.letters.find(letters, self.at + min(unknown, 1)) if letters else -1
        while start >= 0 and surface.begins and not self._begins(self.chars[start]):
            start = self.letters.find(letters, start + 1)
        return start

    def _place(self, start: int, end: int) -> Place:
        if self.exact:
            while start < end and _blank(self.text[self.chars[start]]):
                start += 1
            while end > start and _blank(self.text[self.chars[end - 1]]):
                end -= 1
        if start == end:
            here = self.chars[start] if start < len(self.chars) else len(self.text)
            return Place(here, here)
        last = self.chars[end - 1] + 1
        while last < len(self.text) and unicodedata.category(self.text[last])[0] == "M":
            last += 1  # an accent of its own
        return Place(self.chars[start], last)

    def _share(self, start: int, end: int, tokens: int) -> list[Place]:
        """Tokens that are unknown: a word for each if there are as many, else all of it for all."""
        if tokens == 0:
            return []
        if start >= end:
            return [self._place(start, start)] * tokens
        words = [at for at in range(start, end) if at == start or self._begins(self.chars[at], self.chars[at - 1])]
        if len(words) != tokens:
            return [self._place(start, end)] * tokens
        return [self._place(*word) for word in zip(words, [*words[1:], end], strict=True)]

    def _begins(self, index: int, before: int | None = None) -> bool:
        """Whether a word begins at a character."""
        if index == before:
            return False
        return index == 0 or not _joined(self.text[index - 1]) or not _joined(self.text[index])


def _blank(char: str) -> bool:
    return unicodedata.category(char)[0] == "Z" or "\t" <= char <= "\r" or char == "\x85"


def _joined(char: str) -> bool:
    """Whether it makes words with its neighbours, as for BERT."""
    code, kind = ord(char), unicodedata.category(char)
    if _blank(char) or kind[0] == "P" or (kind[0] == "S" and code < 128):
        return False
    return not any(low <= code <= high for low, high in _IDEOGRAPHS)
