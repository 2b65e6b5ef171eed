"""The state of a decoder language model: which ids its KV cache holds, and the logits of the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from edgec.errors import ContextFullError, RunError
from edgec.run.engine import Engine

Logits = npt.NDArray[np.float32]


class DecoderState:
    """Feeds ids to the model and remembers them, so that a common beginning is computed once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        manifest = engine.manifest
        self._tokens, self._logits = manifest.input("tokens"), manifest.output("logits")
        self._chunk = manifest.prefill_chunk
        self.vocabulary = self._logits.bytes // 4
        if isinstance(self._logits.shape[0], int):
            self.vocabulary = self._logits.shape[0]
        self.context_length = manifest.context_length
        self._cached: list[int] = []

    @property
    def cached_ids(self) -> Sequence[int]:
        """The ids whose keys and values are in the cache."""
        return tuple(self._cached)

    @property
    def position(self) -> int:
        return len(self._cached)

    def reset(self) -> None:
        """Forget everything."""
        self._cached.clear()

    def prompt(self, ids: Sequence[int]) -> int:
        """Make the cache hold `ids` and the logits those after the last; the number of ids reused."""
        self._check(ids)
        reused = self._keep_common(ids)
        for _, count in self._prefill(ids[reused:]):
            last = count - 1
        self._engine.call("head", last)
        return reused

    def decode(self, token: int) -> None:
        """Append one id; the logits are then those after it."""
        if self.position >= self.context_length:
            raise self._full(self.position + 1)
        self._check([token])
        self._engine.ensure_kv(self.position + 1)
        self._engine.view(self._tokens, 1)[0] = token
        self._engine.call("decode", self.position)
        self._cached.append(token)

    def logits(self) -> Logits:
        """A copy of the current logits, float32 [vocabulary]."""
        return self._engine.view(self._logits, self.vocabulary).copy()

    def all_logits(self, ids: Sequence[int]) -> Iterator[Logits]:
        """The logits after each of `ids`, from an empty cache, one float32 [vocabulary] at a time."""
        self._check(ids)
        self.reset()
        for _, count in self._prefill(ids):
            for row in range(count):
                self._engine.call("head", row)
                yield self.logits()

    def _prefill(self, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Append `ids` chunk by chunk; yields (position, number of ids) after each chunk."""
        self._engine.ensure_kv(self.position + len(ids))
        for start in range(0, len(ids), self._chunk):
            part = ids[start : start + self._chunk]
            position = self.position
            self._engine.view(self._tokens, len(part))[:] = part
            self._engine.call("prefill", len(part), position)
            self._cached.extend(part)
            yield position, len(part)

    def _keep_common(self, ids: Sequence[int]) -> int:
        """Drop what differs from `ids` and at least the last id; the number of ids kept."""
        common = 0
        for cached, wanted in zip(self._cached, ids[:-1], strict=False):
            if cached != wanted:
                break
            common += 1
        del self._cached[common:]
        return common

    def _check(self, ids: Sequence[int]) -> None:
        if not ids:
            raise RunError("the prompt is empty", hint="give at least one token")
        if len(ids) > self.context_length:
            raise self._full(len(ids))
        for token in ids:
            if not 0 <= token < self.vocabulary:
                raise RunError(f"the token {token} is outside the vocabulary of {self.vocabulary}")

    def _full(self, tokens: int) -> ContextFullError:
        hint = "shorten it, or compile the model with a longer context"
        return ContextFullError(f"{tokens} tokens do not fit the context of {self.context_length}", hint=hint)
