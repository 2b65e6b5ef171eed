"""What the two models are shown: batches of texts, in the ids of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgec.compress import Sample
from edgec.heal.ops import Tensor
from edgec.ir.model import ModelIR

TOKENS = 512  # of a batch
CHECKED = 4  # batches whose loss is reported before and after; training begins with the next
PICTURES = 24  # of a batch
_HELD = 10  # of so many pictures one is kept back, to report by
_TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class Batch:
    student: Mapping[str, Tensor]
    teacher: Mapping[str, Tensor]
    weights: Tensor  # float [batch, tokens], 1 for tokens and 0 for padding; of arrays all ones
    teacher_weights: Tensor  # the same of the teacher's tokens


class Batches:
    """Random batches of about `TOKENS` tokens; the same for the same seed, whatever ran before.

    `kept` has the original id of each of the student's, None when they are the same; `originals` are the same
    texts as the teacher's own tokenizer cuts them, where tokens need not be compared one by one.
    """

    def __init__(
        self,
        model: ModelIR,
        samples: Sequence[Sample],
        kept: Sequence[int] | None,
        seed: int,
        originals: Sequence[Sample] | None = None,
    ) -> None:
        self._samples, self._seed, self._originals = samples, seed, originals
        self._kept = None if kept is None else np.asarray(kept, np.int64)
        self._decoder = model.decoder is not None
        names = {str(value.name) for value in model.model.graph.inputs}
        # Padding on the right of a causal model changes nothing; others need a mask for it.
        self.texts = self._decoder or (
            {"input_ids", "attention_mask"} <= names <= set(_TEXT_INPUTS)
            and all(not isinstance(v.shape[0], int) for v in model.model.graph.inputs if v.shape is not None)
        )
        lengths = [sample["input_ids"].size for sample in samples] if self.texts else [TOKENS] * len(samples)
        # Texts of like lengths share a batch, so that little of it is padding.
        order = np.argsort(lengths, kind="stable")
        self._groups: list[list[int]] = [[]]
        longest = 0
        for index in order.tolist():
            longest = max(longest, lengths[index])
            if self._groups[-1] and longest * (len(self._groups[-1]) + 1) > TOKENS:
                self._groups.append([])
                longest = lengths[index]
            self._groups[-1].append(index)

    def __getitem__(self, step: int) -> Batch:
        """Batch number `step` of a shuffled, endless row of them."""
        epoch, place = divmod(step, len(self._groups))
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._groups))
        return self._batch(self._groups[order[place]])

    def _batch(self, group: Sequence[int]) -> Batch:
        samples = [self._samples[index] for index in group]
        if not self.texts:
            feeds = {name: torch.from_numpy(array) for name, array in samples[0].items()}
            return Batch(feeds, feeds, torch.ones(()), torch.ones(()))
        ids, mask = _padded(samples)
        if self._originals is not None:
            original, seen = _padded([self._originals[index] for index in group])
        else:
            original, seen = (ids if self._kept is None else np.where(mask == 1, self._kept[ids], 0)), mask
        return Batch(
            self._feeds(samples[0], ids, mask),
            self._feeds(samples[0], original, seen),
            torch.from_numpy(mask.astype(np.float32)),
            torch.from_numpy(seen.astype(np.float32)),
        )

    def _feeds(self, sample: Sample, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> dict[str, Any]:
        if self._decoder:
            return {"input_ids": torch.from_numpy(ids), "position_ids": torch.arange(ids.shape[1])[None]}
        arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        return {name: torch.from_numpy(arrays[name]) for name in sample}


class PictureBatches:
    """Random batches of views of pictures, by their number; the first `CHECKED` are of pictures that no other has.

    `student` and `teacher` are what each model is fed with for each view, `[views, ...]`; `of_each` views of a picture
    follow each other.
    """

    def __init__(self, name: str, student: Tensor, teacher: Tensor, of_each: int, seed: int) -> None:
        self._name, self._student, self._teacher, self._seed = name, student, teacher, seed
        views = np.arange(len(student))
        held = views // of_each % _HELD == _HELD - 1
        if held.sum() < CHECKED:
            held[:] = True  # too few to keep any back
        self._held = views[held]
        self._trained = views if held.all() else views[~held]

    def __getitem__(self, step: int) -> Batch:
        if step < CHECKED:
            return self._batch(self._held[step::CHECKED])
        size = min(PICTURES, len(self._trained))
        epoch, place = divmod(step - CHECKED, len(self._trained) // size)
        order = np.random.default_rng([self._seed, epoch]).permutation(self._trained)
        return self._batch(order[place * size : (place + 1) * size])

    def _batch(self, views: npt.NDArray[np.int64]) -> Batch:
        chosen = torch.from_numpy(views)
        student, teacher = ({self._name: values[chosen].float()} for values in (self._student, self._teacher))
        return Batch(student, teacher, torch.ones(()), torch.ones(()))


def _padded(samples: Sequence[Sample]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(ids, mask) `[texts, longest]`."""
    rows = [sample["input_ids"][0] for sample in samples]
    longest = max(len(row) for row in rows)
    ids, mask = np.zeros((len(rows), longest), np.int64), np.zeros((len(rows), longest), np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)], mask[index, : len(row)] = row, 1
    return ids, mask


__all__ = ["CHECKED", "PICTURES", "TOKENS", "Batch", "Batches", "PictureBatches"]
