"""How far the student is from its teacher, on one batch.

Decoders are held to the distribution of the next token (Hinton et al. 2015, "Distilling the Knowledge in a Neural
Network"), classifiers to that of the classes, embeddings to their direction, other graphs to their outputs. All of them
are also held to the stream between the blocks that both models have (Jiao et al. 2020, "TinyBERT"): token by token
where both read the same ones, else to its mean over each text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from edgec.compress import classifies
from edgec.heal.batches import Batch
from edgec.heal.ops import Tensor
from edgec.ir.model import ModelIR

_STREAM = 0.1  # weight of what is between the blocks


class Distance:
    """`distance(student's values, teacher's values, batch)`: (to be minimised, what is reported)."""

    def __init__(self, student: ModelIR, hints: Sequence[str], *, same_tokens: bool = True) -> None:
        self._hints, self._same_tokens = hints, same_tokens
        self.decoder = student.decoder is not None
        self.classifier = classifies(student)
        self.pooling = pooling_of(student)
        outputs = [
            value for value in student.model.graph.outputs if value.dtype is None or value.dtype.is_floating_point()
        ]
        self.outputs = ["logits"] if self.decoder else [str(value.name) for value in outputs]

    @property
    def wanted(self) -> list[str]:
        """The values of both models that are compared."""
        return [*self.outputs, *self._hints]

    def __call__(
        self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], batch: Batch
    ) -> tuple[Tensor, Tensor]:
        reported = self._outputs(student, teacher, batch)
        if not self._hints:
            return reported, reported
        stream = sum(self._hint(student[name], teacher[name], batch) for name in self._hints)
        return reported + _STREAM / len(self._hints) * stream, reported

    def _hint(self, value: Tensor, expected: Tensor, batch: Batch) -> Tensor:
        if self._same_tokens:
            return _relative(value, expected, batch.weights)
        return _relative(_mean(value, batch.weights), _mean(expected, batch.teacher_weights), torch.ones(()))

    def _outputs(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], batch: Batch) -> Tensor:
        weights = batch.weights
        if self.decoder:
            p, q = torch.log_softmax(teacher["logits"], -1), torch.log_softmax(student["logits"], -1)
            return ((p.exp() * (p - q)).sum(-1) * weights).sum() / weights.sum()
        if self.classifier:
            name = self.outputs[0]
            p, q = torch.log_softmax(teacher[name], -1), torch.log_softmax(student[name], -1)
            return (p.exp() * (p - q)).sum(-1).mean()
        if self.pooling is not None:
            name = self.outputs[0]
            a, b = self._pooled(student[name], weights), self._pooled(teacher[name], batch.teacher_weights)
            return (1 - torch.cosine_similarity(a, b, -1)).mean()
        return sum(_relative(student[name], teacher[name], weights) for name in self.outputs) / len(self.outputs)

    def _pooled(self, states: Tensor, weights: Tensor) -> Tensor:
        """One vector per text."""
        if states.dim() == 2:
            return states
        return states[:, 0] if self.pooling == "cls" else _mean(states, weights)


def _mean(states: Tensor, weights: Tensor) -> Tensor:
    """Over the tokens of each text, `[texts, tokens, ...]` to `[texts, ...]`."""
    return (states * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)


def pooling_of(model: ModelIR) -> str | None:
    """How an embedding model makes one vector of a text; None for other models."""
    task = model.task or {}
    return str(task["pooling"]) if task.get("type") == "embedding" else None


def _relative(value: Tensor, expected: Tensor, weights: Tensor) -> Tensor:
    """Squared error relative to the power; of texts, the mean over tokens."""
    if weights.dim() == 2 and value.dim() == 3 and value.shape[:2] == weights.shape:
        errors = (value - expected).square().sum(-1) / expected.square().sum(-1).clamp_min(1e-12)
        return (errors * weights).sum() / weights.sum()
    return (value - expected).square().sum() / expected.square().sum().clamp_min(1e-12)


__all__ = ["Distance", "pooling_of"]
