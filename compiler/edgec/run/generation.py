"""One answer in the making: an iterator over its pieces of text."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal

from edgec.run.decoder import DecoderState
from edgec.run.pieces import TextPieces
from edgec.run.sampler import Sampler, Sampling
from edgec.run.tokenizer import StopStrings, TextStream, Tokenizer

FinishReason = Literal["stop", "length", "closed"]


@dataclass(frozen=True)
class GenerationStats:
    """Counts are tokens, times seconds. The first token's logits belong to the prompt."""

    prompt_tokens: int
    reused_tokens: int
    new_tokens: int
    prefill_seconds: float
    decode_seconds: float

    @property
    def prefill_tokens_per_second(self) -> float:
        computed = self.prompt_tokens - self.reused_tokens
        return computed / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        steps = self.new_tokens - 1
        return steps / self.decode_seconds if steps > 0 and self.decode_seconds else 0.0


class Generation(TextPieces):
    """Iterate for the pieces, or call `text()` for all of it.

    `ids` are the answer's ids without the end-of-sequence id, `finish_reason` is None while it
    runs. `logits_sha256` covers the logits of every step (docs/runtime-abi.md, "Hash of logits").
    """

    _before_the_next = "finish or close an answer before the next"

    def __init__(
        self,
        state: DecoderState,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        eos_token_ids: Sequence[int],
        tokenizer: Tokenizer | None,
        stop: Sequence[str] = (),
        hash_logits: bool = False,
    ) -> None:
        self.prompt_ids = list(prompt)
        self.ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self._state = state
        self._sampling = sampling
        self._sampler = Sampler(sampling)
        self._eos = frozenset(eos_token_ids)
        self._tokenizer = tokenizer
        self._stop = StopStrings(stop)
        self._hash = hashlib.sha256() if hash_logits else None
        self._reused = 0
        self._prefill_seconds = self._decode_seconds = 0.0
        super().__init__()

    def close(self) -> None:
        """End early; what was computed stays in the cache."""
        self._pieces.close()
        self.finish_reason = self.finish_reason or "closed"

    @property
    def logits_sha256(self) -> str | None:
        return self._hash.hexdigest() if self._hash else None

    def stats(self) -> GenerationStats:
        return GenerationStats(
            len(self.prompt_ids), self._reused, len(self.ids), self._prefill_seconds, self._decode_seconds
        )

    def _run(self) -> Generator[str, None, None]:
        stream = TextStream(self._tokenizer) if self._tokenizer else None
        self._claim()
        started = time.perf_counter()
        self._reused = self._state.prompt(self.prompt_ids)
        self._prefill_seconds = time.perf_counter() - started
        seen = set(self.prompt_ids)
        while True:
            token = self._next_token(seen)
            if token in self._eos:
                self.finish_reason = "stop"
                break
            self.ids.append(token)
            seen.add(token)
            piece = self._stop.push(stream.push(token)) if stream else ""
            if piece or not stream:
                yield piece
            if self._stop.hit:
                self.finish_reason = "stop"
                return
            if len(self.ids) >= self._sampling.max_tokens or self._state.position >= self._state.context_length:
                self.finish_reason = "length"
                break
            started = time.perf_counter()
            self._claim()
            self._state.decode(token)
            self._decode_seconds += time.perf_counter() - started
        if stream:
            rest = self._stop.push(stream.finish()) + self._stop.finish()
            if self._stop.hit:
                self.finish_reason = "stop"
            if rest:
                yield rest

    def _next_token(self, seen: set[int]) -> int:
        logits = self._state.logits()
        if self._hash:
            self._hash.update(hashlib.sha256(logits.astype("<f4", copy=False).tobytes()).digest())
        return self._sampler.sample(logits, seen)
