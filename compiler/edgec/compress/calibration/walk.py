"""The graph in onnxruntime, wave by wave, on all samples at once.

Memory holds the values between two waves for every sample, the second moments of one wave's
inputs, and the weights of one wave. The first layers of networks that look at pictures have large values and few
weights: more samples may join where the values of all of them are small enough.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir

from edgec.compress.calibration.moments import Moment, vectors
from edgec.compress.calibration.session import Arrays, Session
from edgec.compress.calibration.sites import Schedule, Site, Wave
from edgec.compress.quantize import InputStatistics
from edgec.ir.model import ModelIR

_MOST_BYTES = 768 << 20  # of values between two waves, when more samples have joined
_ENOUGH = 64  # vectors for each column: of more, every some one is taken when more samples have joined


class MoreSamples(Protocol):
    """Samples that are made when they are needed, the same ones each time; `key` tells them from all others, and
    `of_each` of them are of the same thing.
    """

    of_each: int

    @property
    def key(self) -> str: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[dict[str, npt.NDArray[Any]]]: ...


class Walk:
    """`for wave, statistics in Walk(...)`: quantize the wave's weights, call `replace` for each, go on.

    Statistics of the weights in `whole` have second moments, others the diagonals alone. Those in
    `known` have none: what they are quantized to is known. `more` samples join before wave `joining`.
    """

    def __init__(
        self,
        model: ModelIR,
        schedule: Schedule,
        samples: Sequence[Arrays],
        whole: Collection[str] = (),
        known: Collection[str] = (),
        more: MoreSamples | None = None,
        joining: int = 0,
    ) -> None:
        self._model = model
        self._schedule = schedule
        self._whole = whole
        self._known = known
        self._samples: list[dict[str, npt.NDArray[Any]]] = [dict(sample) for sample in samples]
        self._replaced: dict[str, npt.NDArray[Any]] = {}
        self._more, self._joined = more, False
        self._joining = joining if more is not None else -1

    def __iter__(self) -> Iterator[tuple[Wave, Mapping[str, InputStatistics]]]:
        waves = self._schedule.waves
        for number, wave in enumerate(waves):
            if number == self._joining:
                self._join(number)
            later = {v.name for w in waves[number + 1 :] for node in w.nodes for v in node.inputs if v is not None}
            coming = {value.name for value in awaited(self._schedule, number)}
            moments = self._run(wave, {name for name in later | coming if name is not None})
            yield wave, moments
            # Weights of before are used again by those who join.
            for kept in (*self._samples, *([self._replaced] if number >= self._joining else [])):
                for name in [name for name in kept if name not in later and name not in coming]:
                    del kept[name]

    def replace(self, weight: str, array: npt.NDArray[Any]) -> None:
        """From the next wave on, `weight` has these values."""
        self._replaced[weight] = array

    def _join(self, number: int) -> None:
        """Run what is before wave `number` for the samples that join."""
        assert self._more is not None
        self._joined = True
        nodes = [node for wave in self._schedule.waves[:number] for node in wave.nodes]
        kept, part = set(self._samples[0]), None
        for sample in self._more:
            if nodes and part is None:
                part = Session(self._model, nodes, kept, sample, self._replaced)
            values = {**sample, **(part(sample) if part is not None else {})}
            self._samples.append({name: values[name] for name in kept})

    def _sites(self, weight: str) -> tuple[Site, ...]:
        return self._schedule.sites[weight]

    def _run(self, wave: Wave, kept: set[str]) -> dict[str, InputStatistics]:
        """Run the nodes for every sample, and add up what the wave's weights are multiplied with."""
        part = Session(self._model, wave.nodes, kept, self._samples[0], self._replaced) if wave.nodes else None
        inputs: dict[tuple[Any, ...], Moment] = {}  # weights with the same input share a moment
        weights = [weight for weight in wave.weights if weight not in self._known]
        whole = {_key(site) for weight in weights if weight in self._whole for site in self._sites(weight)}
        for number, sample in enumerate(self._samples):
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
                        skip = self._skip(*rows.shape)
                        inputs[key].add(rows[number % skip :: skip])
        return {weight: self._statistics(weight, inputs) for weight in weights}

    def _independent(self, statistics: InputStatistics) -> InputStatistics:
        """Samples of the same thing are alike: together they count as one."""
        if self._more is None or not self._joined:
            return statistics
        things = len(self._samples) - len(self._more) + len(self._more) // self._more.of_each
        return dataclasses.replace(statistics, count=statistics.count * things // len(self._samples))

    def _skip(self, count: int, columns: int) -> int:
        """Of so many vectors of each sample, how far those are apart that are looked at."""
        return max(1, count * len(self._samples) // (_ENOUGH * columns)) if self._joined else 1

    def _statistics(self, weight: str, inputs: Mapping[tuple[Any, ...], Moment]) -> InputStatistics:
        sums = [inputs[key] for key in dict.fromkeys(_key(site) for site in self._sites(weight))]
        found = [self._independent(one.statistics(weight)) for one in sums]
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


def awaited(schedule: Schedule, number: int) -> set[onnx_ir.Value]:
    """What the weights of wave `number` and of later ones are multiplied with."""
    return {site.value for wave in schedule.waves[number:] for name in wave.weights for site in schedule.sites[name]}


def joining_wave(model: ModelIR, schedule: Schedule, samples: int) -> int:
    """The first wave from which on the values of so many samples are small enough; behind all where none is, and where
    shapes are unknown. It is that of the whole schedule, also where a part of it is known already.
    """
    waves = schedule.waves
    made = set(model.model.graph.inputs).union(*(node.outputs for wave in waves for node in wave.nodes))
    found = len(waves)
    for number in reversed(range(len(waves))):
        later = {v for wave in waves[number + 1 :] for node in wave.nodes for v in node.inputs if v is not None}
        held = made & (later | awaited(schedule, number))
        if samples * sum(_bytes(value) for value in held) > _MOST_BYTES:
            break
        found = number
        made -= {output for node in waves[number].nodes for output in node.outputs}
    return found


def _bytes(value: onnx_ir.Value) -> float:
    """Infinitely many where the shape is unknown."""
    if value.shape is None or value.dtype is None or not all(isinstance(size, int) for size in value.shape.dims):
        return math.inf
    return value.dtype.itemsize * math.prod(value.shape.numpy())


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


__all__ = ["MoreSamples", "Walk", "joining_wave"]
