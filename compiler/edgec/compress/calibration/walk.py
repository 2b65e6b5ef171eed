"""The graph in onnxruntime, wave by wave, on all samples at once.

Memory holds the values between two waves for every sample, the second moments of one wave's
inputs, and the weights of one wave.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.compress.calibration.moments import Moment, vectors
from edgec.compress.calibration.session import Arrays, Session
from edgec.compress.calibration.sites import Schedule, Site, Wave
from edgec.compress.quantize import InputStatistics
from edgec.ir.model import ModelIR


class Walk:
    """`for wave, statistics in Walk(...)`: quantize the wave's weights, call `replace` for each, go on.

    Statistics of the weights in `whole` have second moments, others the diagonals alone. Those in
    `known` have none: what they are quantized to is known.
    """

    def __init__(
        self,
        model: ModelIR,
        schedule: Schedule,
        samples: Sequence[Arrays],
        whole: Collection[str] = (),
        known: Collection[str] = (),
    ) -> None:
        self._model = model
        self._schedule = schedule
        self._whole = whole
        self._known = known
        self._samples: list[dict[str, npt.NDArray[Any]]] = [dict(sample) for sample in samples]
        self._replaced: dict[str, npt.NDArray[Any]] = {}

    def __iter__(self) -> Iterator[tuple[Wave, Mapping[str, InputStatistics]]]:
        waves = self._schedule.waves
        for number, wave in enumerate(waves):
            later = {v.name for w in waves[number + 1 :] for node in w.nodes for v in node.inputs if v is not None}
            awaited = {site.value.name for w in waves[number:] for name in w.weights for site in self._sites(name)}
            moments = self._run(wave, {name for name in later | awaited if name is not None})
            yield wave, moments
            for kept in (*self._samples, self._replaced):
                for name in [name for name in kept if name not in later and name not in awaited]:
                    del kept[name]

    def replace(self, weight: str, array: npt.NDArray[Any]) -> None:
        """From the next wave on, `weight` has these values."""
        self._replaced[weight] = array

    def _sites(self, weight: str) -> tuple[Site, ...]:
        return self._schedule.sites[weight]

    def _run(self, wave: Wave, kept: set[str]) -> dict[str, InputStatistics]:
        """Run the nodes for every sample, and add up what the wave's weights are multiplied with."""
        part = Session(self._model, wave.nodes, kept, self._samples[0], self._replaced) if wave.nodes else None
        inputs: dict[tuple[Any, ...], Moment] = {}  # weights with the same input share a moment
        weights = [weight for weight in wave.weights if weight not in self._known]
        whole = {_key(site) for weight in weights if weight in self._whole for site in self._sites(weight)}
        for sample in self._samples:
            if part is not None:
                sample.update(part(sample))
            added: set[tuple[Any, ...]] = set()
            for weight in weights:
                for site in self._sites(weight):
                    key = _key(site)
                    if key not in added:
                        added.add(key)
                        rows = vectors(site, sample[key[0]])
                        if key not in inputs:
                            inputs[key] = Moment(rows.shape[1], whole=key in whole)
                        inputs[key].add(rows)
        return {weight: self._statistics(weight, inputs) for weight in weights}

    def _statistics(self, weight: str, inputs: Mapping[tuple[Any, ...], Moment]) -> InputStatistics:
        sums = [inputs[key] for key in dict.fromkeys(_key(site) for site in self._sites(weight))]
        found = [one.statistics(weight) for one in sums]
        if len(found) == 1:
            return found[0]
        count = sum(one.count for one in found)
        shares = [one.count / max(count, 1) for one in found]
        power = sum(one.power * share for one, share in zip(found, shares, strict=True))
        moments = [one.second_moment for one in found]
        if any(moment is None for moment in moments):
            return InputStatistics(np.asarray(power), None, count)
        total = sum(moment * share for moment, share in zip(moments, shares, strict=True) if moment is not None)
        return InputStatistics(np.asarray(power), np.asarray(total), count)


def _key(site: Site) -> tuple[Any, ...]:
    """Sites of the same key have the same vectors."""
    name = site.value.name
    assert name is not None
    if site.node.op_type == "MatMul":
        return (name,)
    if site.node.op_type == "Conv" and site.node.inputs[1] is not None and site.node.inputs[1].shape is not None:
        attributes = tuple(
            sorted((k, str(a.value)) for k, a in site.node.attributes.items() if k not in ("group", "kernel_shape"))
        )
        return (name, "Conv", tuple(site.node.inputs[1].shape.numpy()[2:]), attributes)
    return (name, site.node.op_type, str(sorted((k, str(a.value)) for k, a in site.node.attributes.items())))


__all__ = ["Walk"]
