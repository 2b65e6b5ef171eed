"""How much of the float model a quantized one keeps, on samples that it was not calibrated on: 1 is all of it.

    language models, classifiers   exp(-KL): what is left, on average, of the probability of what the float model
                                   expects; the perplexity of its own text rises by the inverse
    embeddings                     Spearman's correlation of the cosines of all pairs of samples with the float model's
    other graphs                   1 - the squared error of the outputs relative to their power, not below 0

Weights are those of the compressed model, activations are float.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.compress.calibration.samples import Sample
from edgec.compress.calibration.session import Session
from edgec.compress.dequantize import dequantized_model
from edgec.compress.finite import check_all_finite
from edgec.compress.ranks import spearman
from edgec.compress.sensitivity import classifies, divergence, relative_error
from edgec.errors import ModelError
from edgec.ir.compressed import CompressedModel
from edgec.ir.model import ModelIR

_EVERY = 4  # of so many samples one is left out of calibration
_FEWEST_TEXTS = 3  # whose cosines can be ranked
Outputs = list[npt.NDArray[Any]]


def held_out(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Samples to calibrate on, and every fourth one, to judge by; both are all of them where they are few."""
    if len(samples) < _EVERY:
        return list(samples), list(samples)
    judged = set(range(_EVERY - 1, len(samples), _EVERY))
    return [s for i, s in enumerate(samples) if i not in judged], [s for i, s in enumerate(samples) if i in judged]


class Agreement:
    """Compares compressed models with `model`, whose outputs are computed once."""

    def __init__(self, model: ModelIR, samples: Sequence[Sample]) -> None:
        self._model, self._samples = model, samples
        task = model.task or {}
        self._pooling = (
            task.get("pooling") if task.get("type") == "embedding" and len(samples) >= _FEWEST_TEXTS else None
        )
        self._probabilities = model.kind == "decoder" or classifies(model)
        self._expected = self._outputs(model)
        if not all(
            np.isfinite(array).all() for outputs in self._expected for array in outputs if array.dtype.kind == "f"
        ):
            check_all_finite(model)
            raise ModelError(f"`{model.facts.name}` computes values that are not finite on the calibration data")

    @property
    def measure(self) -> str:
        """What is measured, in words."""
        if self._probabilities:
            return "exp(-KL) of the predictions"
        return "Spearman correlation of the cosines" if self._pooling is not None else "1 - relative squared error"

    def __call__(self, compressed: CompressedModel) -> float:
        found = self._outputs(dequantized_model(compressed))
        pairs = list(zip(self._expected, found, strict=True))
        if self._probabilities:
            return float(np.exp(-np.mean([divergence(a, b) for a, b in pairs])))
        if self._pooling is not None:
            return spearman(self._cosines(self._expected), self._cosines(found))
        return max(0.0, 1 - float(np.mean([relative_error(a, b) for a, b in pairs])))

    def _outputs(self, model: ModelIR) -> list[Outputs]:
        kept = ["logits"] if model.kind == "decoder" else [str(value.name) for value in model.model.graph.outputs]
        session = Session(model, list(model.model.graph), kept, self._samples[0], {})
        return [list(session(sample).values()) for sample in self._samples]

    def _cosines(self, outputs: Sequence[Outputs]) -> npt.NDArray[np.float64]:
        """Of all pairs of samples."""
        vectors = []
        for arrays in outputs:
            states = arrays[0][0].astype(np.float64)
            pooled = states if states.ndim == 1 else states[0] if self._pooling == "cls" else states.mean(axis=0)
            vectors.append(pooled / max(float(np.linalg.norm(pooled)), 1e-12))
        matrix = np.stack(vectors)
        cosines: npt.NDArray[np.float64] = (matrix @ matrix.T)[np.triu_indices(len(vectors), 1)]
        return cosines


__all__ = ["Agreement", "held_out"]
