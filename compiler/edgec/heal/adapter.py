"""An adapter that gives back what quantization took: low-rank matrices beside codes that stand still.

Distilled from the original through frozen weights (Dettmers et al. 2023, "QLoRA"), from the best low-rank fit of the
rounding errors on (Li et al. 2023, "LoftQ", without its rounds: the codes are there already). The bundle does not
change: its runtimes add the adapter to its linears, or do without (docs/decisions/0030).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from edgec.compress import Sample
from edgec.compress.dequantize import dequantized_model
from edgec.compress.prune.blocks import blocks
from edgec.errors import UnsupportedError
from edgec.heal import checkpoint
from edgec.heal.adam import Adam
from edgec.heal.batches import Batches
from edgec.heal.graph import TorchGraph
from edgec.heal.loss import Distance
from edgec.heal.ops import Tensor
from edgec.heal.training import Distillation, Progress, Steps, fingerprint, one_thread
from edgec.ir.adapter import LowRank
from edgec.ir.compressed import CompressedModel
from edgec.ir.lowered import AdapterSlot
from edgec.ir.model import ModelIR
from edgec.ir.store import key_of

SEED = 20230523
_RATE = 1e-3  # Adam's, at its highest


@dataclass(frozen=True)
class HealingAdapter:
    """Pairs by linear. Losses are nats of KL a token on texts kept back (`edgec.heal.loss`)."""

    pairs: Mapping[str, LowRank]
    steps: int
    before: float  # without the adapter
    fitted: float  # with the fit of the rounding errors, before it is trained
    after: float


@dataclass(frozen=True)
class _Part:
    """A linear of the checkpoint inside a matrix of the graph, `[inputs, first:last]` of it."""

    name: str
    first: int
    last: int


def train_adapter(
    teacher: ModelIR,
    compressed: CompressedModel,
    linears: Sequence[AdapterSlot],
    samples: Sequence[Sample],
    *,
    rank: int,
    steps: int,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> HealingAdapter:
    """An adapter of `rank` for the decoder `compressed`, in whose `linears` it has room, trained on `samples`.

    With a `folder`, training is saved there every minute and goes on from there. Raises `UnsupportedError` for models
    that cannot be trained through and `UsageError` for a checkpoint of something else.
    """
    with one_thread():
        return _Training(teacher, compressed, linears, samples, rank).run(steps, folder, progress)


class _Training:
    def __init__(
        self,
        teacher: ModelIR,
        compressed: CompressedModel,
        linears: Sequence[AdapterSlot],
        samples: Sequence[Sample],
        rank: int,
    ) -> None:
        student = dequantized_model(compressed)
        hints = [str(block.end.name) for block in blocks(student)]
        distance = Distance(student, hints)
        self.teacher, self.student = TorchGraph(teacher, distance.wanted), TorchGraph(student, distance.wanted)
        batches = Batches(student, samples, None, SEED)
        self.distillation = Distillation(self.teacher, self.student, distance, batches)
        self.parts = _parts(linears, self.student.parameters)
        self.pairs: dict[str, tuple[Tensor, Tensor]] = {}
        for matrix, parts in self.parts.items():
            error = (self.teacher.parameters[matrix] - self.student.parameters[matrix]).numpy()
            for part in parts:
                down, up = _fit(error[:, part.first : part.last].T, rank)
                self.pairs[part.name] = (torch.from_numpy(down), torch.from_numpy(up))
        trained = {
            f"{name}/{side}": (tensor.requires_grad_(), _RATE)
            for name, pair in self.pairs.items()
            for side, tensor in zip(("down", "up"), pair, strict=True)
        }
        self.adam = Adam(trained)
        codes = [tensor.high for _, tensor in sorted(compressed.packed.items())]
        self.fingerprint = key_of(fingerprint(teacher, student, compressed.plan, samples), str(rank), codes)

    def run(self, steps: int, folder: Path | None, progress: Progress | None) -> HealingAdapter:
        found = checkpoint.load(folder, self.fingerprint) if folder is not None else None
        if found is None:
            before = self.distillation.measured(lambda: self.student.parameters)
            fitted = self.distillation.measured(self._weights)
            loop = Steps(steps, {"before": before, "fitted": fitted})
        else:
            state, arrays = found
            loop = Steps.resumed(state, steps, folder)
            self.adam.restore(arrays)
        loop.run(self._gradients, self.adam, fingerprint=self.fingerprint, folder=folder, progress=progress)
        after = self.distillation.measured(self._weights)
        return HealingAdapter(self._stored(), loop.done, loop.kept["before"], loop.kept["fitted"], after)

    def _gradients(self, number: int) -> None:
        self.distillation.gradients(self._weights, number)

    def _weights(self) -> dict[str, Tensor]:
        """The stored ones, with the adapter added."""
        weights = dict(self.student.parameters)
        for matrix, parts in self.parts.items():
            added = [(self.pairs[part.name][1] @ self.pairs[part.name][0]).T for part in parts]
            weights[matrix] = weights[matrix] + (added[0] if len(added) == 1 else torch.cat(added, 1))
        return weights

    def _stored(self) -> dict[str, LowRank]:
        return {
            name: LowRank(down.detach().numpy().copy(), up.detach().numpy().copy(), 1.0)
            for name, (down, up) in self.pairs.items()
        }


def _parts(linears: Sequence[AdapterSlot], matrices: Mapping[str, Tensor]) -> dict[str, list[_Part]]:
    """By the graph's matrix, `[inputs, outputs]`: simplifying may have joined linears that read the same input, whose
    names it has joined too (`q_k_v_proj`)."""
    rows = {linear.name: linear.rows for linear in linears}
    found: dict[str, list[_Part]] = {}
    for matrix, tensor in matrices.items():
        place, _, last = matrix.removesuffix(".weight").rpartition(".")
        stem, ending, _ = last.partition("_proj")
        names = [f"{place}.{last}"]
        if names[0] not in rows and ending:
            names = [f"{place}.{name}_proj" for name in stem.split("_")]
        if not all(name in rows for name in names):
            continue
        ends = np.cumsum([rows[name] for name in names]).tolist()
        if tensor.dim() != 2 or tensor.shape[1] != ends[-1]:
            continue
        found[matrix] = [_Part(name, end - rows[name], end) for name, end in zip(names, ends, strict=True)]
    missing = rows.keys() - {part.name for parts in found.values() for part in parts}
    if missing:
        raise UnsupportedError(f"`{min(missing)}` is no matrix of its own, it cannot be healed by an adapter")
    return found


def _fit(error: npt.NDArray[np.float32], rank: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(down, up) whose product is the closest to `error` `[outputs, inputs]` of all of this rank."""
    exact = error.astype(np.float64)
    wide = error.shape[0] > error.shape[1]
    _, vectors = np.linalg.eigh(exact.T @ exact if wide else exact @ exact.T)
    basis = vectors[:, ::-1][:, :rank]  # of the largest values
    if wide:
        down, up = basis.T, exact @ basis
    else:
        down, up = basis.T @ exact, basis
    # Both sides as large as each other, so that one rate fits both.
    sizes = [math.sqrt(max(float(np.linalg.norm(side)), 1e-12)) for side in (down, up)]
    balanced = sizes[1] / sizes[0]
    pad = rank - basis.shape[1]
    down, up = np.pad(down * balanced, ((0, pad), (0, 0))), np.pad(up / balanced, ((0, 0), (0, pad)))
    return np.ascontiguousarray(down, np.float32), np.ascontiguousarray(up, np.float32)


__all__ = ["HealingAdapter", "train_adapter"]
