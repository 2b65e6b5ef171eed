"""What every training of this package shares: who learns from whom, which steps there are, and when to save."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgec.compress import Sample
from edgec.errors import UsageError
from edgec.heal import checkpoint
from edgec.heal.adam import Adam
from edgec.heal.batches import CHECKED, Batches, PictureBatches
from edgec.heal.graph import TorchGraph
from edgec.heal.loss import Distance
from edgec.heal.ops import Tensor, multiplies_bfloat16
from edgec.ir.model import ModelIR
from edgec.ir.plan import Plan

_SAVE_SECONDS = 60.0
_WARM_UP = 0.05  # of all steps

Progress = Callable[[str, int, int], None]
Weights = Callable[[], Mapping[str, Tensor]]  # the student's, as they are now


@dataclass(frozen=True)
class Distillation:
    """A student that learns to give what its teacher gives for batches of samples."""

    teacher: TorchGraph
    student: TorchGraph
    distance: Distance
    batches: Batches | PictureBatches
    half: bool = field(default_factory=multiplies_bfloat16)  # multiplies in bfloat16 while it learns

    def gradients(self, weights: Weights, number: int) -> None:
        """Adds those of step `number` to what `weights` is made of."""
        batch = self.batches[CHECKED + number]
        with torch.no_grad():
            expected = self.teacher(self.teacher.parameters, batch.teacher, half=self.half)
        loss, _ = self.distance(self.student(weights(), batch.student, half=self.half), expected, batch)
        loss.backward()

    def measured(self, weights: Weights) -> float:
        """The reported loss on a few batches that are not trained on before the first epoch ends."""
        losses = []
        with torch.no_grad():
            current = weights()
            for number in range(CHECKED):
                batch = self.batches[number]
                expected = self.teacher(self.teacher.parameters, batch.teacher)
                losses.append(self.distance(self.student(current, batch.student), expected, batch)[1])
        return float(torch.stack(losses).mean())


class Steps:
    """Numbered from 0. `kept` goes into checkpoints along with them."""

    def __init__(self, total: int, kept: Mapping[str, Any], *, done: int = 0) -> None:
        self.total, self.kept, self.done = total, dict(kept), done
        self._saved = time.monotonic()

    @classmethod
    def resumed(cls, state: Mapping[str, Any], asked: int | None, folder: Path | None) -> Steps:
        """From a checkpoint. Raises `UsageError` where another number of steps is asked for now."""
        if asked not in (None, state["total"]):
            raise UsageError(
                f"the checkpoint in `{folder}` is of {state['total']:,} steps, not of {asked:,}",
                hint="ask for as many, give another folder with `--heal-dir`, or remove it",
            )
        return cls(state["total"], state["kept"], done=state["done"])

    def run(
        self,
        gradients: Callable[[int], None],
        adam: Adam,
        *,
        fingerprint: str,
        folder: Path | None,
        progress: Progress | None,
    ) -> None:
        """Those that are left; with a `folder` they are saved there every minute, and after the last one."""
        while self.done < self.total:
            if progress is not None:
                progress(f"step {self.done + 1:,}", self.done, self.total)
            gradients(self.done)
            adam.step(self.done + 1, self.share(self.done))
            self.done += 1
            if folder is not None and self._save_now():
                checkpoint.save(folder, self._state(fingerprint), adam.arrays())
        if progress is not None:
            progress("", self.total, self.total)

    def share(self, number: int) -> float:
        """Of the highest rate: up over the first steps, then down to zero along a cosine."""
        warm = max(1, int(_WARM_UP * self.total))
        if number < warm:
            return (number + 1) / warm
        return 0.5 + 0.5 * math.cos(math.pi * (number - warm) / max(1, self.total - warm))

    def _save_now(self) -> bool:
        now = time.monotonic()
        if now - self._saved <= _SAVE_SECONDS and self.done < self.total:
            return False
        self._saved = now
        return True

    def _state(self, fingerprint: str) -> dict[str, Any]:
        return {"fingerprint": fingerprint, "done": self.done, "total": self.total, "kept": self.kept}


def fingerprint(teacher: ModelIR, student: ModelIR, plan: Plan, samples: Iterable[Sample]) -> str:
    """What a checkpoint belongs to."""
    digest = hashlib.sha256()
    for model in (teacher, student):
        digest.update(model.facts.source_sha256.encode())
        shapes = {name: list(v.shape or ()) for name, v in model.model.graph.initializers.items()}
        digest.update(json.dumps(shapes, default=str).encode())
    digest.update(json.dumps([[t.name, t.bits, t.scheme, t.group_size] for t in plan.tensors]).encode())
    for sample in samples:
        for name, array in sample.items():
            digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Sums depend on how many threads share them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


__all__ = ["Distillation", "Progress", "Steps", "fingerprint", "one_thread"]
