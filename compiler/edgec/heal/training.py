"""What every training of this package shares: which steps there are, how fast they learn, and when to save."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgec.compress import Sample
from edgec.errors import UsageError
from edgec.ir.model import ModelIR
from edgec.ir.plan import Plan

CHECKED = 4  # batches whose loss is reported before and after; training begins with the next
_SAVE_SECONDS = 60.0
_WARM_UP = 0.05  # of all steps

Progress = Callable[[str, int, int], None]


class Steps:
    """Numbered from 0. `kept` goes into checkpoints along with them."""

    def __init__(self, total: int, kept: Mapping[str, Any], *, done: int = 0, seconds: float = 0.0) -> None:
        self.total, self.kept, self.done = total, dict(kept), done
        self._spent = seconds
        self._began = self._saved = time.monotonic()

    @classmethod
    def resumed(cls, state: Mapping[str, Any], asked: int | None, folder: Path | None) -> Steps:
        """From a checkpoint. Raises `UsageError` where another number of steps is asked for now."""
        if asked not in (None, state["total"]):
            raise UsageError(
                f"the checkpoint in `{folder}` is of {state['total']:,} steps, not of {asked:,}",
                hint="ask for as many, give another folder with `--heal-dir`, or remove it",
            )
        return cls(state["total"], state["kept"], done=state["done"], seconds=state["seconds"])

    def numbers(self, progress: Progress | None) -> Iterator[int]:
        """Those that are left."""
        while self.done < self.total:
            if progress is not None:
                progress(f"step {self.done + 1:,}", self.done, self.total)
            self.done += 1
            yield self.done - 1
        if progress is not None:
            progress("", self.total, self.total)

    def share(self, number: int) -> float:
        """Of the highest rate: up over the first steps, then down to zero along a cosine."""
        warm = max(1, int(_WARM_UP * self.total))
        if number < warm:
            return (number + 1) / warm
        return 0.5 + 0.5 * math.cos(math.pi * (number - warm) / max(1, self.total - warm))

    def save_now(self) -> bool:
        """Whether it is time to save: every minute, and after the last step."""
        now = time.monotonic()
        if now - self._saved <= _SAVE_SECONDS and self.done < self.total:
            return False
        self._saved = now
        return True

    def state(self, fingerprint: str) -> dict[str, Any]:
        """For a checkpoint, when a step is over."""
        return {
            "fingerprint": fingerprint,
            "done": self.done,
            "total": self.total,
            "seconds": self._spent + time.monotonic() - self._began,
            "kept": self.kept,
        }


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


__all__ = ["CHECKED", "Progress", "Steps", "fingerprint", "one_thread"]
