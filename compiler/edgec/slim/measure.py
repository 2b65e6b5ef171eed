"""What a slimmed and quantized model loses, before any healing, on texts or arrays that it was not made from.

Language models: how many more nats a token of the text costs than with the whole model (each with its own tokenizer,
per token of the whole model's). Embeddings: 1 - the mean cosine with the whole model's. Other graphs: the
squared error of the outputs relative to their power.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from edgec.compress import Sample
from edgec.compress.calibration.samples import whole_samples
from edgec.compress.calibration.session import Session
from edgec.compress.calibration.sites import schedule
from edgec.compress.calibration.walk import Walk
from edgec.compress.quantize import QUANTIZERS, InputStatistics
from edgec.ir.model import ModelIR
from edgec.ir.weight_use import WeightUse, weight_uses

Array = npt.NDArray[Any]
_STATISTICS = 4  # samples from which mean squares are taken


class Judge:
    """Compares models with `model` on the same `texts`, or on `samples` where the model reads no text."""

    def __init__(self, model: ModelIR, texts: Sequence[str], samples: Sequence[Sample]) -> None:
        self._model, self._texts, self._samples = model, texts, samples
        self._pooling = (model.task or {}).get("pooling") if (model.task or {}).get("type") == "embedding" else None
        fed = self.samples(model)
        self._tokens = sum(sample["input_ids"].size - 1 for sample in fed) if model.decoder is not None else 0
        self._expected = self._outputs(model, fed, {})

    def samples(self, model: ModelIR) -> list[Sample]:
        """The texts in the model's own ids."""
        return whole_samples(model, self._texts) if self._texts else list(self._samples)

    def loss(self, model: ModelIR, changed: Mapping[str, Array]) -> float:
        """Of `model` with the weights `changed`."""
        found = self._outputs(model, self.samples(model), changed)
        if model.decoder is not None:
            return (sum(float(v) for v in found) - sum(float(v) for v in self._expected)) / self._tokens
        if self._pooling is not None:
            return 1 - float(np.mean([a @ b for a, b in zip(self._expected, found, strict=True)]))
        power = sum(float(np.square(a).sum()) for a in self._expected)
        return sum(float(np.square(a - b).sum()) for a, b in zip(self._expected, found, strict=True)) / power

    def _outputs(self, model: ModelIR, fed: Sequence[Sample], changed: Mapping[str, Array]) -> list[Array]:
        names = ["logits"] if model.decoder else [str(v.name) for v in model.model.graph.outputs]
        session = Session(model, list(model.model.graph), names, fed[0], changed)
        return [self._summary(sample, list(session(sample).values())) for sample in fed]

    def _summary(self, sample: Sample, outputs: Sequence[Array]) -> Array:
        """Negative log likelihood of a text (nats), its unit vector, or the float outputs in a row."""
        if self._model.decoder is not None:
            logits, ids = outputs[0][0, :-1].astype(np.float64), sample["input_ids"][0, 1:]
            highest = logits.max(axis=1)
            total = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))
            return np.asarray((total - logits[np.arange(len(ids)), ids]).sum())
        if self._pooling is not None:
            states = outputs[0][0].astype(np.float64)
            vector = states if states.ndim == 1 else states[0] if self._pooling == "cls" else states.mean(axis=0)
            return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12))
        floats = [array.astype(np.float64).reshape(-1) for array in outputs if array.dtype.kind == "f"]
        return np.concatenate(floats)


class Rounder:
    """Rounds matrices for the inputs that they meet in the float model.

    What was rounded once is kept, up to 1 GiB: of the models that one `Slimmer` makes, matrices of the same name and
    shape are the same.
    """

    def __init__(self) -> None:
        self._done: dict[tuple[str, tuple[int, ...], int], Array] = {}
        self._power: dict[tuple[str, int], InputStatistics] = {}
        self._left = 1 << 30

    def __call__(self, model: ModelIR, bits: Mapping[str, int], samples: Sequence[Sample]) -> dict[str, Array]:
        """The matrices in `bits`; `samples` are in the model's own ids."""
        uses = weight_uses(model.model)
        with threadpool_limits(1, "blas"):
            self._measure(model, [uses[name] for name in bits if uses[name].uses_per_run], samples)
            return {name: self._rounded(model, uses[name], count) for name, count in bits.items()}

    def _measure(self, model: ModelIR, uses: Sequence[WeightUse], samples: Sequence[Sample]) -> None:
        """Mean squares of the inputs that are not known yet."""
        missing = [use.name for use in uses if (use.name, use.columns) not in self._power]
        if not missing:
            return
        plan = schedule(model.model.graph, {use.name: use for use in uses}, missing)
        for wave, statistics in Walk(model, plan, samples[:_STATISTICS]):
            for name in wave.weights:
                self._power[name, statistics[name].power.size] = statistics[name]

    def _rounded(self, model: ModelIR, use: WeightUse, bits: int) -> Array:
        key = (use.name, use.shape, bits)
        if key in self._done:
            return self._done[key]
        value = model.model.graph.initializers[use.name].const_value
        assert value is not None
        array = value.numpy()
        power = self._power.get((use.name, use.columns))
        quantizer = QUANTIZERS["rtn" if power is None else "irtn"](bits, power)
        values = quantizer.quantize(np.ascontiguousarray(use.to_matrix(array), np.float32)).values()
        result = use.from_matrix(values).astype(array.dtype, copy=False)
        if result.nbytes <= self._left:
            self._left -= result.nbytes
            self._done[key] = result
        return result


__all__ = ["Judge", "Rounder"]
