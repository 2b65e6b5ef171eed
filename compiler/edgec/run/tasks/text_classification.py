"""Texts, and pairs of texts, to classes and to a ranking (docs/tasks.md, "Text classification")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.errors import UnsupportedError, UsageError
from edgec.run.exp64 import exp
from edgec.run.tasks.classification import Classification, label_of, softmax
from edgec.run.tasks.runner import GraphRunner, first_float_output
from edgec.run.tasks.texts import text_length, text_outputs
from edgec.run.tokenizer import Tokenizer

TASK = "text-classification"
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ranked:
    """A document by its place in what was given, and how well it answers."""

    index: int
    score: float
    text: str

    def __str__(self) -> str:
        return self.text

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class TextClassifier:
    runner: GraphRunner
    tokenizer: Tokenizer
    task: Mapping[str, Any]
    pad_token_id: int

    def classify(self, text: str | Sequence[str], top_k: int) -> list[Classification]:
        """The best classes of a text, or of a pair of texts."""
        first, second = pair_of(text)
        scores = self._scores(first, second)
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [Classification(int(index), label_of(self.task, int(index)), float(scores[index])) for index in order]

    def rerank(self, query: str, documents: Sequence[str]) -> list[Ranked]:
        """All documents, the best first. Raises `UnsupportedError` for a model of several classes."""
        found = []
        for index, document in enumerate(documents):
            scores = self._scores(query, document)
            if len(scores) != 1:
                raise UnsupportedError(
                    f"the model gives {len(scores)} classes to a query and a document, ranking takes one score",
                    hint="use `classify` with the pair",
                )
            found.append(Ranked(index, float(scores[0]), document))
        return sorted(found, key=lambda ranked: (-ranked.score, ranked.index))

    def _scores(self, first: str, second: str | None) -> Scores:
        fixed, limit = text_length(self.runner, int(self.task["max_length"]))
        encoded = self.tokenizer.encode_pair(first, second, limit)
        outputs = text_outputs(self.runner, encoded, fixed, self.pad_token_id)
        logits = first_float_output(outputs, 2)[0].astype(np.float64)
        if self.task["scores"] == "softmax":
            return softmax(logits)
        return 1 / (1 + exp(-logits)) if self.task["scores"] == "sigmoid" else logits


def pair_of(text: Any) -> tuple[str, str | None]:
    """A text alone, or two. Raises `UsageError` for anything else."""
    if isinstance(text, str):
        return text, None
    if isinstance(text, (list, tuple)) and len(text) == 2 and all(isinstance(part, str) for part in text):
        return text[0], text[1]
    raise UsageError("the model takes a text, or two as a pair")
