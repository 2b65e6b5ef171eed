"""Choosing the next token, to the bit as docs/runtime-abi.md says and as the JavaScript runtime does."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.errors import RunError, UsageError
from edgec.run.exp64 import exp64

_UINT32 = 0xFFFFFFFF


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens. `temperature == 0` is greedy; 0 or 1 switch the other steps off."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    max_tokens: int = 256

    def __post_init__(self) -> None:
        checks = {
            "temperature": (0 <= self.temperature < math.inf, "0 or more"),
            "top_k": (self.top_k >= 0, "0 or more"),
            "top_p": (0 < self.top_p <= 1, "more than 0, at most 1"),
            "min_p": (0 <= self.min_p <= 1, "0 to 1"),
            "repetition_penalty": (0 < self.repetition_penalty < math.inf, "more than 0"),
            "seed": (0 <= self.seed <= _UINT32, "0 to 4294967295"),
            "max_tokens": (self.max_tokens >= 1, "1 or more"),
        }
        for name, (fine, allowed) in checks.items():
            if not fine:
                raise UsageError(f"`{name}` is {getattr(self, name)}", hint=f"allowed is {allowed}")

    @classmethod
    def from_options(cls, defaults: Mapping[str, Any], options: Mapping[str, Any]) -> Sampling:
        """`options` over the bundle's `generation` over the defaults; None means not given."""
        names = {field.name for field in dataclasses.fields(cls)}
        for name in options:
            if name not in names:
                raise UsageError(f"there is no option `{name}`", hint=f"known are {', '.join(sorted(names))}")
        given = {name: value for name, value in options.items() if value is not None}
        known = {name: value for name, value in defaults.items() if name in names and value is not None}
        return cls(**{**known, **given})


class Random:
    """xoshiro128** seeded by splitmix32; `uniform()` is a double in [0, 1)."""

    def __init__(self, seed: int) -> None:
        self._words = []
        for _ in range(4):
            seed = z = (seed + 0x9E3779B9) & _UINT32
            z = ((z ^ (z >> 16)) * 0x21F0AAAD) & _UINT32
            z = ((z ^ (z >> 15)) * 0x735A2D97) & _UINT32
            self._words.append(z ^ (z >> 15))

    def next(self) -> int:
        s0, s1, s2, s3 = self._words
        result = (_rotate(s1 * 5 & _UINT32, 7) * 9) & _UINT32
        s2 ^= s0
        s3 ^= s1
        self._words = [s0 ^ s3, s1 ^ s2, s2 ^ (s1 << 9 & _UINT32), _rotate(s3, 11)]
        return result

    def uniform(self) -> float:
        a, b = self.next() >> 5, self.next() >> 6
        return (a * 67108864 + b) / 9007199254740992


def _rotate(value: int, by: int) -> int:
    return (value << by | value >> (32 - by)) & _UINT32


class Sampler:
    """Samples one answer: holds the random state."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = Random(sampling.seed)

    def sample(self, logits: npt.NDArray[np.float32], seen: Collection[int]) -> int:
        """The next id. `seen`: distinct ids of prompt and answer so far. Raises `RunError` on NaN."""
        options = self._sampling
        scores = logits.astype(np.float64)
        if options.repetition_penalty != 1 and seen:
            ids = np.fromiter(seen, np.int64, len(seen))
            old = scores[ids]
            scores[ids] = np.where(old > 0, old / options.repetition_penalty, old * options.repetition_penalty)
        best = int(np.argmax(scores))
        if math.isnan(scores[best]):
            raise RunError("the model computed a logit that is not a number")
        if options.temperature == 0:
            return best
        order = _candidates(scores, options.top_k)
        p = exp64((scores[order] - scores[order[0]]) / options.temperature)
        if options.top_p < 1:
            running = np.cumsum(p)  # numpy adds in sequence here
            p = p[: int(np.searchsorted(running, options.top_p * running[-1])) + 1]
        if options.min_p > 0:
            kept = np.flatnonzero(p >= options.min_p)
            order, p = order[kept], p[kept]
        running = np.cumsum(p)
        u = self._random.uniform() * running[-1]
        index = int(np.searchsorted(running, u, side="right"))
        return int(order[min(index, len(p) - 1)])


def _candidates(scores: npt.NDArray[np.float64], top_k: int) -> npt.NDArray[np.int64]:
    """Ids by (score descending, id ascending), the first `top_k` of them if that is positive."""
    if 0 < top_k < scores.size:
        threshold = np.partition(scores, scores.size - top_k)[scores.size - top_k]
        ids = np.flatnonzero(scores >= threshold)
        return ids[np.argsort(-scores[ids], kind="stable")][:top_k]
    order = np.argsort(-scores)  # three times as fast as a stable sort; the ties are put right below
    values = scores[order]
    equal = np.zeros(values.size + 1, bool)
    equal[1:-1] = values[1:] == values[:-1]
    tied = np.flatnonzero(equal[1:] | equal[:-1])
    order[tied] = order[tied][np.lexsort((order[tied], -values[tied]))]
    return order
