"""Scores to labels (docs/tasks.md, "Image classification")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.run.exp64 import exp


@dataclass(frozen=True)
class Classification:
    index: int
    label: str
    score: float  # a probability

    def __str__(self) -> str:
        return self.label

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def classifications(output: npt.NDArray[np.float32], task: Mapping[str, Any], top_k: int) -> list[Classification]:
    """The `top_k` best classes, best first."""
    scores = output.reshape(-1).astype(np.float64)
    if task["scores"] == "logits":
        scores = softmax(scores)
    order = np.argsort(-scores, kind="stable")[:top_k]
    return [Classification(int(index), label_of(task, int(index)), float(scores[index])) for index in order]


def softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Probabilities of one choice among all."""
    powers = exp(logits - logits.max())
    total = np.cumsum(powers)[-1]  # added one after the other, as the other runtimes add
    return np.asarray(powers / total)


def label_of(task: Mapping[str, Any], index: int) -> str:
    labels = task["labels"] or []
    return str(labels[index]) if index < len(labels) else str(index)
