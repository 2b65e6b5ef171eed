from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from edgec.errors import UsageError
from edgec.eval.language import compare, kl_divergence, log_softmax, perplexity, windows

VOCABULARY = 11


class Toy:
    """Logits that depend on the whole past; `noise` makes another model of it."""

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise
        self.asked: list[list[int]] = []

    def __call__(self, ids: Sequence[int]) -> Iterator[npt.NDArray[np.float32]]:
        self.asked.append(list(ids))
        for end in range(1, len(ids) + 1):
            random = np.random.default_rng(ids[:end])
            logits = random.normal(size=VOCABULARY)
            yield (logits + self.noise * random.normal(size=VOCABULARY)).astype(np.float32)


IDS = [int(id) for id in np.random.default_rng(1).integers(0, VOCABULARY, 23)]


def nll_by_hand(context: int) -> list[float]:
    result = []
    for start in range(0, len(IDS), context):
        window = IDS[start : start + context]
        for row, target in zip(Toy()(window[:-1]), window[1:], strict=True):
            exponentials = [math.exp(value) for value in row.tolist()]
            result.append(-math.log(exponentials[target] / sum(exponentials)))
    return result


@pytest.mark.parametrize("context", [2, 5, 11, 22, 100])
def test_perplexity_by_hand(context: int) -> None:
    expected = nll_by_hand(context)
    result = perplexity(Toy(), IDS, context)
    assert result.tokens == len(expected)
    assert result.nll == pytest.approx(sum(expected) / len(expected))
    assert result.perplexity == pytest.approx(math.exp(result.nll))


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary() -> None:
    result = perplexity(lambda ids: (np.zeros(VOCABULARY, np.float32) for _ in ids), IDS, 7)
    assert result.perplexity == pytest.approx(VOCABULARY)


def test_windows() -> None:
    assert windows([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4]]  # a last window of one id predicts nothing
    assert windows([1, 2, 3, 4, 5], 3) == [[1, 2, 3], [4, 5]]
    with pytest.raises(UsageError, match="context of 1"):
        windows([1, 2], 1)
    with pytest.raises(UsageError, match="fewer than two"):
        windows([1], 8)


def test_a_model_agrees_with_itself() -> None:
    seen: list[int] = []
    result = compare(Toy(), Toy(), IDS, 8, progress=seen.append)
    assert (result.kl_mean, result.kl_max, result.top1_agreement, result.perplexity_ratio) == (0, 0, 1, 1)
    assert result.model == result.reference == perplexity(Toy(), IDS, 8)
    assert sum(seen) == result.model.tokens == 20


def test_a_noisy_model_does_not() -> None:
    ours, theirs = Toy(0.5), Toy()
    result = compare(ours, theirs, IDS, 8)
    assert ours.asked == theirs.asked
    assert 0 < result.kl_mean < result.kl_p99 <= result.kl_max
    assert 0 < result.top1_agreement < 1
    assert result.model.nll != result.reference.nll
    divergences = []
    for window in windows(IDS, 8):
        for p, q in zip(Toy()(window[:-1]), Toy(0.5)(window[:-1]), strict=True):
            log_p, log_q = log_softmax(p), log_softmax(q)
            divergences.append(sum(math.exp(a) * (a - b) for a, b in zip(log_p, log_q, strict=True)))
    assert result.kl_mean == pytest.approx(sum(divergences) / len(divergences))


def test_large_logits_do_not_overflow() -> None:
    logits = np.array([1e4, -1e4, 0], np.float32)
    assert log_softmax(logits).tolist() == [0.0, -2e4, -1e4]
    assert kl_divergence(log_softmax(logits), log_softmax(logits)) == 0
