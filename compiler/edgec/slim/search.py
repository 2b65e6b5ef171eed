"""The mix that loses least in a number of bytes.

Every mix leaves a number of bytes for the matrices that stay; bits are allocated to them as for any target,
and the loss of the result is measured. From several starting points the search goes to the best neighbour
(one part of the mix a level more or less) until none is better.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgec.compress import Sample, sensitivities
from edgec.compress.prune.vocabulary import vocabulary_matrices
from edgec.errors import DoesNotFitError
from edgec.ir.model import ModelIR
from edgec.ir.plan import WEIGHT_BITS, SlimTrial
from edgec.ir.weight_use import WeightUse, weight_uses
from edgec.plan import allocate, quantizable
from edgec.plan.memory import float_bytes, matrix_bytes
from edgec.slim.measure import Judge, Rounder
from edgec.slim.mix import Levels, Mix, Slimmed, Slimmer

_MOST_TRIALS = 24
_FEWEST_TRIALS = 6
_SMALL = 32 << 20  # weights up to which there are the most trials; each one rounds all weights that it has first
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
    budget: int,
    kept: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> Found:
    """The best of `levels` whose weights take at most `budget` bytes as stored; `kept` are tokens chosen already.

    Raises `DoesNotFitError` when even the smallest mix is too large.
    """
    return _Search(slimmer, levels, judge, budget, kept, progress).run()


class _Search:
    def __init__(
        self,
        slimmer: Slimmer,
        levels: Levels,
        judge: Judge,
        budget: int,
        kept: Sequence[int] | None,
        progress: Progress | None,
    ) -> None:
        self._slimmer, self._levels, self._judge, self._budget, self._kept = slimmer, levels, judge, budget, kept
        self._progress = progress
        self._round = Rounder()
        self._trials: dict[Place, SlimTrial] = {}
        model = slimmer.model
        self._most = max(_FEWEST_TRIALS, min(_MOST_TRIALS, _MOST_TRIALS * _SMALL // max(1, model.facts.parameters)))
        self._losses = sensitivities(model, quantizable(model), slimmer.samples)

    def run(self) -> Found:
        fitting = self._fitting()
        best: Place | None = None
        starts = _starts(fitting, self._levels)
        for start in starts:
            self._try(start)
        for start in sorted(starts, key=self._loss):
            at = start
            while len(self._trials) < self._most:
                near = [place for place in _neighbours(at, self._levels) if place in fitting]
                for place in near:
                    self._try(place)
                better = min([at, *near], key=self._loss)
                if better == at:
                    break
                at = better
            best = at if best is None else min(best, at, key=self._loss)
        assert best is not None
        if self._progress is not None:
            self._progress("", self._most, self._most)
        mix = self._levels.mix(best)
        trials = tuple(self._trials[place] for place in sorted(self._trials, key=self._loss))
        return Found(mix, self._slimmer.apply(mix, self._kept), trials)

    def _loss(self, place: Place) -> tuple[float, Place]:
        return self._trials[place].loss if place in self._trials else float("inf"), place

    def _fitting(self) -> dict[Place, float]:
        """Bits per weight that each mix leaves room for, at least the fewest that there are."""
        found: dict[Place, float] = {}
        smallest: int | None = None
        for place in itertools.product(*(range(count) for count in self._levels.counts)):
            mix = self._levels.mix(place)
            tokens = mix.vocabulary if self._kept is None else len(self._kept)
            least, elements = _least_bytes(self._slimmer.structure(mix), tokens)
            smallest = least if smallest is None else min(smallest, least)
            if least <= self._budget:
                found[place] = 8 * self._budget / elements
        if not found:
            raise DoesNotFitError(
                f"`{self._slimmer.model.facts.name}` has {(smallest or 0) / 1e6:,.1f} MB of weights at the least, "
                f"{self._budget / 1e6:,.1f} MB were asked for",
                hint="ask for less slimming",
            )
        return found

    def _try(self, place: Place) -> None:
        if place in self._trials or len(self._trials) >= self._most:
            return
        mix = self._levels.mix(place)
        if self._progress is not None:
            self._progress(f"mix {len(self._trials) + 1}", len(self._trials), self._most)
        slimmed = self._slimmer.apply(mix, self._kept)
        bits = allocated_bits(slimmed.model, self._losses, self._budget)
        samples: Sequence[Sample] = self._slimmer.samples_of(slimmed.model)
        loss = self._judge.loss(slimmed.model, self._round(slimmed.model, bits, samples))
        uses = weight_uses(slimmed.model.model)
        mean = sum(uses[name].elements * count for name, count in bits.items()) / sum(uses[n].elements for n in bits)
        self._trials[place] = SlimTrial(
            mix.vocabulary, mix.removed_blocks, mix.mlp_share, mix.head_groups, round(mean, 3), round(loss, 6)
        )


def allocated_bits(model: ModelIR, losses: Mapping[str, float], budget: int) -> dict[str, int]:
    """Bits of the matrices of a slimmed model; `losses` are the whole model's."""
    uses = weight_uses(model.model)
    names = quantizable(model)
    choices = allocate(model.facts.name, uses, {n: losses[n] for n in names}, budget - float_bytes(model, names))
    return {name: choice.bits for name, choice in choices.items()}


def _least_bytes(model: ModelIR, tokens: int) -> tuple[int, int]:
    """(bytes of all weights at the fewest bits, elements of the matrices), if only `tokens` stay (0: all)."""
    uses, names = weight_uses(model.model), quantizable(model)
    per_token = vocabulary_matrices(model) if tokens else []
    few = {name: _with_tokens(uses[name], tokens) if name in per_token else uses[name] for name in names}
    least = sum(matrix_bytes(use, WEIGHT_BITS[0], stored=True) for use in few.values())
    return least + float_bytes(model, names), sum(use.elements for use in few.values())


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


def _starts(fitting: Mapping[Place, float], levels: Levels) -> list[Place]:
    """The mixes that take least away of those that fit, and those that leave about 3 and 4 bits."""

    def taken(place: Place) -> float:
        return sum(index / max(count - 1, 1) for index, count in zip(place, levels.counts, strict=True))

    chosen: list[Place] = []
    for bits in (2.75, 3.5, 4.5, 5.5):
        enough = [place for place, left in fitting.items() if left >= bits]
        if enough:
            start = min(enough, key=lambda place: (taken(place), place))
            if start not in chosen:
                chosen.append(start)
    return chosen or [min(fitting, key=lambda place: (taken(place), place))]


__all__ = ["Found", "allocated_bits", "search"]
