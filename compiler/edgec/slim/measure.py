"""What a slimmed and quantized model loses, before any healing, on texts or arrays that it was not made from.

Language models: the KL divergence of the next token's distribution, over the tokens that both know, plus what the
whole model gives to the others (- log of the share of the former), summed over the text as the slimmed model's
tokenizer cuts it and divided by the number of tokens of the whole model's: a vocabulary that needs more tokens pays
for them. The text itself is not what is judged by: one that a model wrote in a hurry favours whoever expects anything.
Embeddings: 1 - the mean cosine with the whole model's. Other graphs: the squared error of the outputs relative to
their power.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.compress import Sample
from edgec.compress.calibration.feeds import decoder_feeds
from edgec.compress.calibration.samples import whole_samples
from edgec.compress.calibration.session import Session
from edgec.compress.quantize import Grid
from edgec.compress.quantize.rtn import importance, quantized_by_groups
from edgec.compress.quantize.search import RangeSearch
from edgec.ir.model import ModelIR
from edgec.ir.weight_use import WeightUse, weight_uses
from edgec.slim.mix import Slimmed

Array = npt.NDArray[Any]
_WIDER = (0.0, 0.75, 1.5)  # levels over which a group's range is spread, more than there are


class Judge:
    """Compares models with `model` on the same `texts`, or on `samples` where the model reads no text."""

    def __init__(self, model: ModelIR, texts: Sequence[str], samples: Sequence[Sample]) -> None:
        self._model, self._texts, self._samples = model, texts, samples
        self._pooling = (model.task or {}).get("pooling") if (model.task or {}).get("type") == "embedding" else None
        fed = self.samples(model)
        self._tokens = sum(sample["input_ids"].size for sample in fed) if model.decoder is not None else 0
        self._expected = self._outputs(model, fed, {})
        self._seen: dict[tuple[int, ...], list[Array]] = {}  # what the whole model gives to some tokens alone

    def samples(self, model: ModelIR) -> list[Sample]:
        """The texts in the model's own ids."""
        if self._texts:
            return whole_samples(model, self._texts)
        if model.decoder is None:
            return list(self._samples)
        return [decoder_feeds(model, sample["input_ids"][0].tolist()) for sample in self._samples]

    def loss(self, slimmed: Slimmed, changed: Mapping[str, Array]) -> float:
        """Of a model with the weights `changed`."""
        model, fed = slimmed.model, self.samples(slimmed.model)
        expected = self._expected
        if model.decoder is not None and slimmed.kept is not None:
            if slimmed.kept not in self._seen:
                self._seen[slimmed.kept] = self._seen_through(fed, slimmed.kept)
            expected = self._seen[slimmed.kept]
        pairs = list(zip(expected, self._outputs(model, fed, changed), strict=True))
        if model.decoder is not None:
            return sum(_divergence(expected, found) for expected, found in pairs) / self._tokens
        if self._pooling is not None:
            return 1 - float(np.mean([a @ b for a, b in pairs]))
        power = sum(float(np.square(a).sum()) for a in self._expected)
        return sum(float(np.square(a - b).sum()) for a, b in pairs) / power

    def _seen_through(self, fed: Sequence[Sample], kept: Sequence[int]) -> list[Array]:
        """What the whole model gives to the tokens `kept`, on texts in the ids of those."""
        ids = np.asarray(kept, np.int64)
        translated = [decoder_feeds(self._model, ids[sample["input_ids"][0]].tolist()) for sample in fed]
        return [np.ascontiguousarray(found[:, ids]) for found in self._outputs(self._model, translated, {})]

    def _outputs(self, model: ModelIR, fed: Sequence[Sample], changed: Mapping[str, Array]) -> list[Array]:
        names = ["logits"] if model.decoder else [str(v.name) for v in model.model.graph.outputs]
        session = Session(model, list(model.model.graph), names, fed[0], changed)
        return [self._summary(sample, list(session(sample).values())) for sample in fed]

    def _summary(self, sample: Sample, outputs: Sequence[Array]) -> Array:
        """Logarithms of probabilities `[tokens, vocabulary]`, a unit vector, or the float outputs in a row."""
        if self._model.decoder is not None:
            logits: Array = outputs[0][0] - outputs[0][0].max(axis=1, keepdims=True)
            logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
            return logits
        if self._pooling is not None:
            states = outputs[0][0].astype(np.float64)
            vector = states if states.ndim == 1 else states[0] if self._pooling == "cls" else states.mean(axis=0)
            return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12))
        floats = [array.astype(np.float64).reshape(-1) for array in outputs if array.dtype.kind == "f"]
        return np.concatenate(floats)


def _divergence(expected: Array, found: Array) -> float:
    """Nats of all tokens together; `expected` may lack the tokens that `found` does not know."""
    share = np.log(np.exp(expected, dtype=np.float64).sum(axis=1))
    p = expected - share[:, None]
    return float((np.exp(p) * (p - found)).sum() - share.sum())


class Rounder:
    """Rounds matrices for the inputs that they meet in the float model, in a hurry: a few ranges for each group.

    What was rounded once is kept, up to 1 GiB: of the models that one `Slimmer` makes, matrices of the same name and
    shape are the same.
    """

    def __init__(self) -> None:
        self._done: dict[tuple[str, tuple[int, ...], int], Array] = {}
        self._left = 1 << 30

    def __call__(self, model: ModelIR, bits: Mapping[str, int], powers: Mapping[str, Array]) -> dict[str, Array]:
        """The matrices in `bits`; `powers` has mean squares of what those of this model are multiplied with."""
        uses = weight_uses(model.model)
        return {name: self._rounded(model, uses[name], count, powers.get(name)) for name, count in bits.items()}

    def _rounded(self, model: ModelIR, use: WeightUse, bits: int, power: Array | None) -> Array:
        key = (use.name, use.shape, bits)
        if key in self._done:
            return self._done[key]
        value = model.model.graph.initializers[use.name].const_value
        assert value is not None
        array = value.numpy()
        matrix = np.ascontiguousarray(use.to_matrix(array), np.float32)
        columns = None if power is None else importance(power)
        values = quantized_by_groups(matrix, Grid(bits, compact=True), _few_ranges, columns).values()
        result = use.from_matrix(values).astype(array.dtype, copy=False)
        if result.nbytes <= self._left:
            self._left -= result.nbytes
            self._done[key] = result
        return result


def _few_ranges(weights: Array, grid: Grid, importance: Array | None) -> RangeSearch:
    low = np.minimum(weights.min(axis=0), np.float32(0))
    high = np.maximum(weights.max(axis=0), np.float32(0))
    search = RangeSearch(weights, grid, importance)
    for more in _WIDER:
        search.offer_range(low, high, grid.storable_scales((high - low) / (grid.levels + np.float32(more))), 0.5)
    for _ in range(2):
        search.offer_refit()
    return search


__all__ = ["Judge", "Rounder"]
