"""Where somebody speaks (docs/tasks.md, "Speech detection")."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgec.run.tasks.audio import Samples
from edgec.run.tasks.runner import GraphRunner


@dataclass(frozen=True)
class SpeechSegment:
    """Seconds from the beginning."""

    start: float
    end: float

    def __str__(self) -> str:
        return f"{self.start:.2f} s to {self.end:.2f} s"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def detect_speech(runner: GraphRunner, task: Mapping[str, Any], samples: Samples) -> list[SpeechSegment]:
    """The stretches of speech, in order."""
    rate = task["sample_rate"]
    found = speech_segments(list(probabilities(runner, task, samples)), task, samples.size)
    return [SpeechSegment(start / rate, end / rate) for start, end in found]


def probabilities(runner: GraphRunner, task: Mapping[str, Any], samples: Samples) -> Iterator[float]:
    """That of each window, which hears the `context` before it and what the state remembers of the rest."""
    sound, memory = runner.inputs
    window, context = int(task["window"]), int(task["context"])
    state = np.zeros([int(dim) for dim in memory.shape], np.float32)
    padded = np.concatenate([np.zeros(context, np.float32), samples, np.zeros(-samples.size % window, np.float32)])
    for start in range(0, samples.size, window):
        part = padded[start : start + context + window]
        probability, state = runner.run({sound.name: part[None], memory.name: state}).values()
        yield float(probability.reshape(-1)[0])


def speech_segments(chances: Sequence[float], task: Mapping[str, Any], count: int) -> list[tuple[int, int]]:
    """(start, end) in samples, of `count` in all."""
    per_ms = task["sample_rate"] / 1000
    least_speech, least_silence = task["min_speech_ms"] * per_ms, task["min_silence_ms"] * per_ms
    found: list[tuple[int, int]] = []
    start = end = -1
    for index, chance in enumerate(chances):
        at = index * int(task["window"])
        if chance >= task["threshold"]:
            end = -1
            start = at if start < 0 else start
        elif chance < task["neg_threshold"] and start >= 0:
            end = at if end < 0 else end
            if at - end >= least_silence:
                if end - start > least_speech:
                    found.append((start, end))
                start = end = -1
    if start >= 0 and count - start > least_speech:
        found.append((start, count))
    return _padded(found, task["speech_pad_ms"] * per_ms, count)


def _padded(found: Sequence[tuple[int, int]], pad: float, count: int) -> list[tuple[int, int]]:
    """Each a little longer; a silence that is too short for that is shared."""
    padded = [[start, end] for start, end in found]
    if padded:
        padded[0][0] = int(max(0, padded[0][0] - pad))
        padded[-1][1] = int(min(count, padded[-1][1] + pad))
    for before, after in itertools.pairwise(padded):
        silence = after[0] - before[1]
        if silence < 2 * pad:
            before[1] += silence // 2
            after[0] -= silence // 2
        else:
            before[1] = int(before[1] + pad)
            after[0] = int(after[0] - pad)
    return [(start, end) for start, end in padded]
