"""Typed access to a GGUF file's metadata."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np

from edgec.errors import ModelError
from edgec.frontend.gguf_file import GGUFFile

_T = TypeVar("_T")


class Metadata:
    """Each getter returns None for an absent key and raises `ModelError` for a value of another type."""

    def __init__(self, file: GGUFFile) -> None:
        self._file = file

    def text(self, key: str) -> str | None:
        return self._typed(key, str, "text")

    def flag(self, key: str, default: bool) -> bool:
        value = self._typed(key, bool, "true or false")
        return default if value is None else bool(value)

    def integer(self, key: str) -> int | None:
        """A non-negative integer; a list of equal ones counts as one."""
        value = self._file.metadata.get(key)
        if isinstance(value, list) and value and len(set(value)) == 1:
            value = value[0]
        if value is None:
            return None
        if type(value) is not int or not 0 <= value < 1 << 31:
            raise self._wrong(key, value, "a non-negative integer")
        return value

    def real(self, key: str) -> float | None:
        """A finite number; a stored float32 becomes the shortest decimal that rounds to it."""
        value = self._file.metadata.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._wrong(key, value, "a finite number")
        return float(str(np.float32(value)))

    def texts(self, key: str) -> list[str] | None:
        return self._list(key, str, "a list of texts")

    def integers(self, key: str) -> list[int] | None:
        return self._list(key, int, "a list of integers")

    def reals(self, key: str) -> list[float] | None:
        return self._list(key, float, "a list of numbers")

    def required_text(self, key: str) -> str:
        return self._required(key, self.text(key))

    def required_integer(self, key: str) -> int:
        """A positive integer."""
        value = self._required(key, self.integer(key))
        if value == 0:
            raise self._wrong(key, value, "a positive integer")
        return value

    def required_real(self, key: str) -> float:
        return self._required(key, self.real(key))

    def required_texts(self, key: str) -> list[str]:
        return self._required(key, self.texts(key))

    def _required(self, key: str, value: _T | None) -> _T:
        if value is None:
            raise ModelError(f"`{self._file.path.name}` lacks the metadata key `{key}`")
        return value

    def _typed(self, key: str, kind: type[_T], expected: str) -> _T | None:
        value = self._file.metadata.get(key)
        if value is None:
            return None
        if type(value) is not kind:
            raise self._wrong(key, value, expected)
        return value

    def _list(self, key: str, kind: type[_T], expected: str) -> list[_T] | None:
        value = self._file.metadata.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(type(item) is kind for item in value):
            raise self._wrong(key, value, expected)
        return value

    def _wrong(self, key: str, value: Any, expected: str) -> ModelError:
        return ModelError(f"the metadata key `{key}` of `{self._file.path.name}` is {value!r:.60}, expected {expected}")
