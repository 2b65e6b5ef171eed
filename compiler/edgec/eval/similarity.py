"""Do embeddings order pairs of sentences as people do? Files as of the STS benchmark."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgec.compress.ranks import spearman
from edgec.errors import UsageError

EmbedFunction = Callable[[Sequence[str]], npt.NDArray[np.float32]]
_BATCH = 64


@dataclass(frozen=True)
class Pair:
    first: str
    second: str
    score: float


def read_pairs(path: Path) -> list[Pair]:
    """Sentence pairs with a score from a .csv or .tsv file.

    Columns are found by name (`sentence1`, `sentence2` and `score`, or a name that ends so), or
    are those of the original STS benchmark: genre, file, year, number, score, sentence, sentence.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"`{path}` cannot be read as text ({error})") from error
    if "\t" in text.partition("\n")[0]:  # STS's own files have quotation marks that quote nothing
        lines = csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        lines = csv.reader(io.StringIO(text, newline=""))
    rows = [row for row in lines if row]
    if not rows:
        raise UsageError(f"`{path}` is empty")
    columns = _named_columns(rows[0])
    if columns is not None:
        rows = rows[1:]
    elif len(rows[0]) >= 7:
        columns = (5, 6, 4)
    elif len(rows[0]) == 3:
        columns = (0, 1, 2)
    else:
        hint = "name the columns `sentence1`, `sentence2` and `score` in the first line"
        raise UsageError(f"`{path}` has {len(rows[0])} columns that are not known", hint=hint)
    try:
        return [Pair(row[columns[0]], row[columns[1]], float(row[columns[2]])) for row in rows]
    except (IndexError, ValueError) as error:
        raise UsageError(f"`{path}` has a line that is no pair with a score ({error})") from error


def _named_columns(header: Sequence[str]) -> tuple[int, int, int] | None:
    names = [name.strip().lower() for name in header]

    def find(*endings: str) -> int | None:
        return next((i for i, name in enumerate(names) if name.endswith(endings)), None)

    first, second, score = find("sentence1", "text1"), find("sentence2", "text2"), find("score", "label")
    return None if first is None or second is None or score is None else (first, second, score)


def sts_spearman(
    embed: EmbedFunction, pairs: Sequence[Pair], *, progress: Callable[[int], None] | None = None
) -> float:
    """Spearman correlation of cosine similarities with the scores.

    `progress` is called with the number of pairs done since the last call.
    """
    if len(pairs) < 2:
        raise UsageError("a correlation needs at least two pairs")
    similarities: list[float] = []
    for start in range(0, len(pairs), _BATCH):
        batch = pairs[start : start + _BATCH]
        first = embed([pair.first for pair in batch]).astype(np.float64)
        second = embed([pair.second for pair in batch]).astype(np.float64)
        norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        similarities += ((first * second).sum(axis=1) / np.maximum(norms, 1e-12)).tolist()
        if progress:
            progress(len(batch))
    return spearman(similarities, [pair.score for pair in pairs])
