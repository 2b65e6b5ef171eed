"""Names and other stretches of a text (docs/tasks.md, "Token classification")."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.errors import RunError, UnsupportedError
from edgec.run.tasks.classification import label_of, softmax
from edgec.run.tasks.places import Place, places_of
from edgec.run.tasks.runner import GraphRunner, first_float_output
from edgec.run.tasks.texts import text_length, text_outputs
from edgec.run.tokenizer import Encoded, Tokenizer, well_formed

TASK = "token-classification"
OUTSIDE = "O"


@dataclass(frozen=True)
class Entity:
    """`text[start:end]` of what was given; `score` is the mean over its tokens."""

    label: str
    score: float
    start: int
    end: int
    text: str

    def __str__(self) -> str:
        return f"{self.label}  {self.text}  ({self.start}-{self.end})"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Tagged:
    label: str
    score: float
    place: Place


def entities(
    runner: GraphRunner, tokenizer: Tokenizer, task: Mapping[str, Any], text: str, *, pad_token_id: int
) -> list[Entity]:
    """Neighbouring tokens of one kind together, in the order of the text; what is outside of all is left out."""
    text = well_formed(text)
    ids = tokenizer.encode_plain(text)
    tagged: list[_Tagged] = []
    places = places_of(text, [tokenizer.surface(id) for id in ids])
    for scores, place in zip(_scores(runner, tokenizer, task, ids, pad_token_id), places, strict=True):
        best = int(np.argmax(scores))
        tagged.append(_Tagged(label_of(task, best), float(scores[best]), place))
    return [entity for group in _groups(tagged) if (entity := _entity(text, group)).label != OUTSIDE]


def _scores(
    runner: GraphRunner, tokenizer: Tokenizer, task: Mapping[str, Any], ids: Sequence[int], pad_token_id: int
) -> Iterator[npt.NDArray[np.float64]]:
    """The probabilities of each token, window by window."""
    fixed, limit = text_length(runner, int(task["max_length"]))
    before, after = tokenizer.around()
    room = limit - len(before) - len(after)
    if room < 1:
        raise UnsupportedError(f"the model holds {limit} tokens, the tokenizer's own leave no room for a text")
    for start in range(0, len(ids), room):
        window = [*before, *ids[start : start + room], *after]
        logits = first_float_output(text_outputs(runner, Encoded(window, [0] * len(window)), fixed, pad_token_id), 3)
        if logits.shape[1] < len(window):
            raise RunError(f"the output has the shape {list(logits.shape)}, expected [1, {len(window)}, classes]")
        for row in logits[0, len(before) : len(window) - len(after)]:
            yield softmax(row.astype(np.float64))


def _groups(tagged: Sequence[_Tagged]) -> Iterator[list[_Tagged]]:
    group: list[_Tagged] = []
    for token in tagged:
        if group and (token.label.startswith("B-") or _kind(token.label) != _kind(group[0].label)):
            yield group
            group = []
        group.append(token)
    if group:
        yield group


def _kind(label: str) -> str:
    """A label without what says that it begins or goes on."""
    return label[2:] if label.startswith(("B-", "I-")) else label


def _entity(text: str, group: Sequence[_Tagged]) -> Entity:
    seen = [token.place for token in group if token.place.end > token.place.start] or [group[0].place]
    start, end = seen[0].start, seen[-1].end
    score = 0.0
    for token in group:
        score += token.score
    return Entity(_kind(group[0].label), score / len(group), start, end, text[start:end])
