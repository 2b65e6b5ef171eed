"""Speech to text (docs/tasks.md, "Transcription")."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgec.run.engine import Engine
from edgec.run.pieces import TextPieces
from edgec.run.tasks.audio import Samples, windows
from edgec.run.tokenizer import TextStream, Tokenizer

SPARE_TOKENS = 8  # a short word may have more tokens than its seconds allow


@dataclass(frozen=True)
class Segment:
    """What was said from `start` to `end`, seconds from the beginning."""

    start: float
    end: float
    text: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Speech:
    """The graphs `encode` and `decode` of a bundle: audio in once, then logits id by id."""

    def __init__(self, engine: Engine) -> None:
        self._engine, manifest = engine, engine.manifest
        self._audio, self._tokens = manifest.input("audio"), manifest.input("tokens")
        self._logits = manifest.output("logits")
        self._vocabulary = int(self._logits.shape[-1])
        length = self._audio.shape[1]
        self._fixed = length if isinstance(length, int) else 0  # samples of every window
        self.longest = self._fixed or manifest.dims["samples"]
        self.room = manifest.dims["past"] + 1  # ids
        self._dims: dict[str, int] = {}

    def encode(self, samples: Samples, shortest: int) -> None:
        """Fewer samples than are needed are followed by silence."""
        count = max(samples.size, shortest, self._fixed)
        self._dims = {"samples": count, "past": 0}
        place = self._engine.view(self._audio, count)
        place[: samples.size] = samples
        place[samples.size :] = 0
        self._call("encode")

    def decode(self, token: int) -> None:
        """Append one id; the logits are then those after it."""
        self._engine.view(self._tokens, 1)[0] = token
        self._call("decode")
        self._dims["past"] += 1

    def best(self, suppressed: Sequence[int]) -> int:
        """The id with the largest logit, the lowest on ties; none of the suppressed ones."""
        logits = self._engine.view(self._logits, self._vocabulary)
        if suppressed:
            logits = logits.copy()
            logits[list(suppressed)] = -np.inf
        return int(np.argmax(logits))

    def _call(self, entry: str) -> None:
        self._engine.call(entry, *(self._dims[name] for name in self._engine.manifest.entry_points[entry]))


class Transcription(TextPieces):
    """The pieces of a transcript. `segments` are the windows that are done, `ids` all ids so far."""

    _before_the_next = "finish a transcript before the next"

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, task: Mapping[str, Any], ends: Sequence[int], samples: Samples
    ) -> None:
        self.ids: list[int] = []
        self.segments: list[Segment] = []
        self.audio_seconds = samples.size / task["sample_rate"]
        self.encode_seconds = self.decode_seconds = 0.0
        self._speech, self._tokenizer, self._task = Speech(engine), tokenizer, task
        self._ends = frozenset(ends)
        self._samples = samples
        super().__init__()

    def _run(self) -> Generator[str, None, None]:
        rate = int(self._task["sample_rate"])
        longest = min(math.floor(self._task["window_seconds"] * rate), self._speech.longest)
        for start, end in windows(self._samples, longest, rate):
            text = ""
            for piece in self._window(self._samples[start:end], rate):
                yield f" {piece}" if not text and any(segment.text for segment in self.segments) else piece
                text += piece
            self.segments.append(Segment(start / rate, end / rate, text))

    def _window(self, samples: Samples, rate: int) -> Generator[str, None, None]:
        start_ids = self._task["start_ids"]
        limit = math.floor(samples.size / rate * self._task["max_tokens_per_second"]) + SPARE_TOKENS
        limit = min(limit, min(int(self._task["max_tokens"]), self._speech.room) - len(start_ids))
        shortest = math.floor(self._task["min_seconds"] * rate)
        started = time.perf_counter()
        self._claim()
        self._speech.encode(samples, shortest)
        self.encode_seconds += time.perf_counter() - started
        stream = TextStream(self._tokenizer)
        pending = list(start_ids)
        suppressed = [*self._task["suppress_ids"], *self._task["begin_suppress_ids"]]
        for _ in range(limit):
            started = time.perf_counter()
            for token in pending:
                self._claim()
                self._speech.decode(token)
            best = self._speech.best(suppressed)
            suppressed = self._task["suppress_ids"]
            self.decode_seconds += time.perf_counter() - started
            if best in self._ends:
                break
            self.ids.append(best)
            pending = [best]
            piece = stream.push(best)
            if piece:
                yield piece
        rest = stream.finish()
        if rest:
            yield rest
