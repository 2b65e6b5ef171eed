"""Calibration text from the model itself, for when the user gives none.

A model's own samples show its layers what they were trained on (Liu et al. 2023, "LLM-QAT:
Data-Free Quantization Aware Training"). One token after the other would read all weights for each,
so all positions of a window are sampled together, over and over, each time from the window before
(Jacobi iteration: Santilli et al. 2023, "Accelerating Transformer Inference for Translation via
Parallel Decoding"). The random numbers of a position stay the same, so after as many rounds as
there are tokens it would be the very text that sampling one by one gives; a few rounds are enough
for statistics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from edgec.compress.calibration.feeds import decoder_feeds
from edgec.compress.calibration.session import Session
from edgec.compress.finite import check_all_finite
from edgec.errors import ModelError
from edgec.ir.model import ModelIR

_ROUNDS = 2
_SEED = 20221031


def generated_windows(
    model: ModelIR, windows: Iterable[int], tokens: int, prefix: list[int], *, rounds: int = _ROUNDS
) -> Iterator[list[int]]:
    """Lists of `tokens` ids for the numbers `windows`, each starting with `prefix`; the same for the same model."""
    assert model.decoder is not None
    session = Session(model, list(model.model.graph), ["logits"], decoder_feeds(model, prefix), {})
    vocabulary = model.decoder.vocabulary
    for number in windows:
        random = np.random.default_rng([_SEED, number])
        ids = np.concatenate([prefix, random.integers(0, vocabulary, tokens - len(prefix))]).astype(np.int64)
        uniform = random.random(tokens)
        for _ in range(rounds):
            logits = session(decoder_feeds(model, ids.tolist()))["logits"][0]
            if not np.isfinite(logits).all():
                check_all_finite(model)
                raise ModelError(
                    f"`{model.facts.name}` computes logits that are not finite, it cannot calibrate itself",
                    hint="check the checkpoint for damage, or compile with `--quantizer rtn`",
                )
            ids[1:] = np.where(np.arange(1, tokens) < len(prefix), ids[1:], _sample(logits[:-1], uniform[1:]))
        yield [int(i) for i in ids]


def _sample(logits: npt.NDArray[np.float32], uniform: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """An id per row of logits, by inverting the cumulative distribution at `uniform`."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    cumulative = np.cumsum(np.exp(shifted, dtype=np.float64), axis=1)
    found: npt.NDArray[np.int64] = (cumulative < (uniform * cumulative[:, -1])[:, None]).sum(axis=1, dtype=np.int64)
    return np.minimum(found, np.int64(logits.shape[1] - 1))


__all__ = ["generated_windows"]
