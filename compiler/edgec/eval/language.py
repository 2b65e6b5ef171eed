"""How well a language model predicts a text, and how close two models' predictions are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgec.errors import UsageError

Logits = npt.NDArray[np.float32]
LogitsFunction = Callable[[Sequence[int]], Iterable[Logits]]
"""The logits after each id from an empty cache: `Model.logits`, `ReferenceDecoder.logits`."""


@dataclass(frozen=True)
class Perplexity:
    tokens: int  # predicted ones; the first of each window is not
    nll: float  # mean negative log likelihood, nats per token

    @property
    def perplexity(self) -> float:
        return math.exp(self.nll)


@dataclass(frozen=True)
class Comparison:
    """A model against its reference, over the same text."""

    model: Perplexity
    reference: Perplexity
    kl_mean: float  # KL(reference || model), nats per token
    kl_p99: float  # its 99th percentile
    kl_max: float
    top1_agreement: float  # share of positions with the same most likely token

    @property
    def perplexity_ratio(self) -> float:
        return self.model.perplexity / self.reference.perplexity


def windows(ids: Sequence[int], context: int) -> list[Sequence[int]]:
    """Windows of `context` ids that do not overlap; the last may be shorter, with at least two ids."""
    if context < 2:
        raise UsageError(f"a context of {context} predicts nothing", hint="give 2 or more")
    if len(ids) < 2:
        raise UsageError("the text has fewer than two tokens")
    cut = [ids[start : start + context] for start in range(0, len(ids), context)]
    return [window for window in cut if len(window) > 1]


def perplexity(
    logits: LogitsFunction,
    ids: Sequence[int],
    context: int,
    *,
    progress: Callable[[int], None] | None = None,
) -> Perplexity:
    """Perplexity of `ids` in windows of `context`, each from an empty cache.

    In each window all ids but the first are predicted from those before them. `progress` is called
    with the number of ids done since the last call.
    """
    total, count = 0.0, 0
    for window in windows(ids, context):
        for row, target in _predictions(logits, window):
            total -= float(log_softmax(row)[target])
            count += 1
            if progress:
                progress(1)
    return Perplexity(count, total / count)


def compare(
    model: LogitsFunction,
    reference: LogitsFunction,
    ids: Sequence[int],
    context: int,
    *,
    progress: Callable[[int], None] | None = None,
) -> Comparison:
    """Both models over the same windows, position by position."""
    model_nll = reference_nll = 0.0
    divergences: list[float] = []
    agreements = 0
    for window in windows(ids, context):
        for (row, target), (expected, _) in zip(
            _predictions(model, window), _predictions(reference, window), strict=True
        ):
            ours, theirs = log_softmax(row), log_softmax(expected)
            model_nll -= float(ours[target])
            reference_nll -= float(theirs[target])
            divergences.append(kl_divergence(theirs, ours))
            agreements += int(np.argmax(row) == np.argmax(expected))
            if progress:
                progress(1)
    count = len(divergences)
    return Comparison(
        model=Perplexity(count, model_nll / count),
        reference=Perplexity(count, reference_nll / count),
        kl_mean=float(np.mean(divergences)),
        kl_p99=float(np.percentile(divergences, 99)),
        kl_max=max(divergences),
        top1_agreement=agreements / count,
    )


def log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    """Natural logarithms of the probabilities, in double."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max()
    shifted -= math.log(float(np.exp(shifted).sum()))
    return shifted


def kl_divergence(log_p: npt.NDArray[np.float64], log_q: npt.NDArray[np.float64]) -> float:
    """KL(p || q) in nats, never below 0 by rounding."""
    return max(0.0, float(np.exp(log_p) @ (log_p - log_q)))


def _predictions(logits: LogitsFunction, window: Sequence[int]) -> Iterator[tuple[Logits, int]]:
    """(logits, the id that came) for all ids of a window but the first."""
    yield from zip(logits(window[:-1]), window[1:], strict=True)
