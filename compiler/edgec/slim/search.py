"""The mix that loses least in a number of bytes.

Every mix leaves a number of bytes for the matrices that stay; bits are allocated to them as for any target. What is
lost is predicted for all mixes: by each part of a mix alone, measured, and by the bits of each matrix. The most
promising mixes are measured, and from the best of them the search goes to the best neighbour (one part of the mix a
level more or less) until none is better. What was measured is kept in the store, for the next search.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgec.compress.prune.vocabulary import vocabulary_matrices
from edgec.errors import DoesNotFitError
from edgec.ir.model import ModelIR
from edgec.ir.plan import WEIGHT_BITS, SlimTrial
from edgec.ir.store import Store, key_of
from edgec.ir.weight_use import WeightUse, weight_uses
from edgec.plan import allocate, quantizable
from edgec.plan.allocate import expected_loss
from edgec.plan.memory import float_bytes, matrix_bytes
from edgec.profiles.units import size_text
from edgec.slim.measure import Judge, Rounder
from edgec.slim.mix import Levels, Mix, Slimmed, Slimmer

_MOST_TRIALS = 24
_FEWEST_TRIALS = 5
_SMALL = 32 << 20  # weights up to which there are the most trials; each one rounds all weights that it has first
_PROMISING = 1 / 3  # of the trials, measured before neighbours are
Place = tuple[int, ...]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Found:
    mix: Mix
    slimmed: Slimmed
    trials: tuple[SlimTrial, ...]  # all that were measured, the best first


def search(
    slimmer: Slimmer,
    levels: Levels,
    judge: Judge,
    losses: Mapping[str, float],
    budget: int,
    kept: Sequence[int] | None = None,
    *,
    store: Store | None = None,
    key: str = "",
    progress: Progress | None = None,
) -> Found:
    """The best of `levels` whose weights take at most `budget` bytes as stored; `kept` are tokens chosen already.

    `losses` are the whole model's (`edgec.compress.sensitivities`). `key` names all that the arguments before it were
    made from. Raises `DoesNotFitError` when even the smallest mix is too large.
    """
    return _Search(slimmer, levels, judge, losses, budget, kept, store, key, progress).run()


class _Search:
    def __init__(
        self,
        slimmer: Slimmer,
        levels: Levels,
        judge: Judge,
        losses: Mapping[str, float],
        budget: int,
        kept: Sequence[int] | None,
        store: Store | None,
        key: str,
        progress: Progress | None,
    ) -> None:
        self._slimmer, self._levels, self._judge, self._budget, self._kept = slimmer, levels, judge, budget, kept
        self._losses, self._store, self._key, self._progress = losses, store, key, progress
        self._round = Rounder()
        self._trials: dict[Place, SlimTrial] = {}
        parameters = slimmer.model.facts.parameters
        self._most = max(_FEWEST_TRIALS, min(_MOST_TRIALS, _MOST_TRIALS * _SMALL // max(1, parameters)))

    def run(self) -> Found:
        fitting = self._fitting()
        parts = self._parts()
        expected = {p: lost + sum(part[at] for part, at in zip(parts, p, strict=True)) for p, lost in fitting.items()}
        promising = sorted(fitting, key=lambda place: (expected[place], place))
        for place in promising[: max(2, round(_PROMISING * self._most))]:
            self._try(place)
        at = min(self._trials, key=self._loss)
        while len(self._trials) < self._most:
            near = [place for place in promising if place in _neighbours(at, self._levels)]
            for place in near:
                self._try(place)
            better = min([at, *near], key=self._loss)
            if better == at:
                break
            at = better
        if self._progress is not None:
            self._progress("", self._most, self._most)
        mix = self._levels.mix(at)
        trials = tuple(self._trials[place] for place in sorted(self._trials, key=self._loss))
        return Found(mix, self._slimmer.apply(mix, self._kept), trials)

    def _loss(self, place: Place) -> tuple[float, Place]:
        return self._trials[place].loss if place in self._trials else math.inf, place

    def _fitting(self) -> dict[Place, float]:
        """What the bits of each mix lose that fits, as far as the losses of single matrices tell."""
        found: dict[Place, float] = {}
        smallest: int | None = None
        places = list(itertools.product(*(range(count) for count in self._levels.counts)))
        for number, place in enumerate(places):
            if self._progress is not None and number % 16 == 0:
                self._progress("mixes that fit", number, len(places))
            mix = self._levels.mix(place)
            tokens = mix.vocabulary if self._kept is None else len(self._kept)
            uses, floats = _matrices(self._slimmer.structure(mix), tokens)
            least = floats + sum(matrix_bytes(use, WEIGHT_BITS[0], stored=True, compact=True) for use in uses.values())
            smallest = least if smallest is None else min(smallest, least)
            if least <= self._budget:
                losses = {name: self._losses[name] for name in uses}
                choices = allocate("", uses, losses, self._budget - floats, compact=True)
                found[place] = expected_loss(losses, choices)
        if not found:
            raise DoesNotFitError(
                f"`{self._slimmer.model.facts.name}` has {size_text(smallest or 0)} of weights at the least, "
                f"{size_text(self._budget)} were asked for",
                hint="ask for less slimming",
            )
        return found

    def _parts(self) -> list[list[float]]:
        """For each part of a mix what each of its levels loses alone, nothing rounded."""
        found = [[0.0] * count for count in self._levels.counts]
        places = [(axis, level) for axis, count in enumerate(self._levels.counts) for level in range(1, count)]
        for number, (axis, level) in enumerate(places):
            at = [0] * len(found)
            at[axis] = level
            mix = self._levels.mix(tuple(at))
            key = key_of("part", self._key, dataclasses.astuple(mix))
            kept = self._stored(key, 1)
            if kept is None:
                if self._progress is not None:
                    self._progress(f"{_words(mix)} alone", number, len(places))
                kept = (self._judge.loss(self._slimmer.apply(mix, self._kept), {}),)
                self._keep(key, kept)
            found[axis][level] = max(kept[0], found[axis][level - 1])
        return found

    def _try(self, place: Place) -> None:
        if place in self._trials or len(self._trials) >= self._most:
            return
        mix = self._levels.mix(place)
        key = key_of("mix", self._key, self._budget, dataclasses.astuple(mix))
        kept = self._stored(key, 2)
        if kept is None:
            if self._progress is not None:
                self._progress(_words(mix), len(self._trials), self._most)
            kept = self._measured(mix)
            self._keep(key, kept)
        loss, bits = kept
        self._trials[place] = SlimTrial(
            mix.vocabulary, mix.removed_blocks, mix.mlp_share, mix.head_groups, round(bits, 3), round(loss, 6)
        )

    def _measured(self, mix: Mix) -> tuple[float, float]:
        """(loss, mean bits)."""
        slimmed = self._slimmer.apply(mix, self._kept)
        model = slimmed.model
        uses, floats = _matrices(model, 0)
        losses = {name: self._losses[name] for name in uses}
        choices = allocate(model.facts.name, uses, losses, self._budget - floats, compact=True)
        bits = {name: choice.bits for name, choice in choices.items() if isinstance(choice.bits, int)}  # all of them
        loss = self._judge.loss(slimmed, self._round(model, bits, self._slimmer.powers(mix)))
        elements = sum(use.elements for use in uses.values())
        return loss, sum(uses[name].elements * count for name, count in bits.items()) / elements

    def _stored(self, key: str, count: int) -> tuple[float, ...] | None:
        arrays = self._store.load(key) if self._store is not None else None
        if self._store is None or arrays is None:
            return None
        if arrays.keys() != {"found"} or arrays["found"].shape != (count,) or not np.isfinite(arrays["found"]).all():
            self._store.refuse(key)
            return None
        return tuple(arrays["found"].tolist())

    def _keep(self, key: str, found: Sequence[float]) -> None:
        if self._store is not None and all(map(math.isfinite, found)):
            self._store.save(key, {"found": np.asarray(found, np.float64)})


def _words(mix: Mix) -> str:
    parts = [
        f"{mix.vocabulary:,} tokens" if mix.vocabulary else "",
        f"{mix.removed_blocks} blocks less" if mix.removed_blocks else "",
        f"{100 * mix.mlp_share:g}% of the features" if mix.mlp_share < 1 else "",
        f"{mix.head_groups} groups of heads" if mix.head_groups else "",
    ]
    return ", ".join(part for part in parts if part) or "fewer bits alone"


def _matrices(model: ModelIR, tokens: int) -> tuple[dict[str, WeightUse], int]:
    """(the matrices, bytes of everything else as stored), if only `tokens` stay (0: all)."""
    uses, names = weight_uses(model.model), quantizable(model)
    per_token = vocabulary_matrices(model) if tokens else []
    few = {name: _with_tokens(uses[name], tokens) if name in per_token else uses[name] for name in names}
    return few, float_bytes(model, names)


def _with_tokens(use: WeightUse, tokens: int) -> WeightUse:
    shape = (use.shape[0], tokens) if use.layout == "kn" else (tokens, use.shape[1])
    return dataclasses.replace(use, shape=shape)


def _neighbours(at: Place, levels: Levels) -> list[Place]:
    near = []
    for axis, count in enumerate(levels.counts):
        for step in (-1, 1):
            if 0 <= at[axis] + step < count:
                near.append((*at[:axis], at[axis] + step, *at[axis + 1 :]))
    return near


__all__ = ["Found", "search"]
