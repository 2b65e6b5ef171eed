"""What stages keep for the next compilation: arrays under keys that name everything they were made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]


class Store(Protocol):
    """Finished work. What `load` gives was saved under the same key, byte for byte."""

    def load(self, key: str) -> Arrays | None:
        """The arrays, read-only; None where there are none."""

    def save(self, key: str, arrays: Arrays) -> None:
        """Keep the arrays (booleans, integers and floats that numpy itself has)."""

    def refuse(self, key: str) -> None:
        """What `load` gave makes no sense: forget it."""


def key_of(*parts: Any) -> str:
    """SHA-256 over plain data and arrays: equal keys, equal parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(part: Any) -> Any:
    if isinstance(part, np.ndarray):
        content = hashlib.sha256(np.ascontiguousarray(part).tobytes()).hexdigest()
        return {"array": content, "dtype": part.dtype.str, "shape": part.shape}
    if isinstance(part, bytes):
        return {"bytes": hashlib.sha256(part).hexdigest()}
    raise TypeError(f"{type(part).__name__} cannot be part of a key")


__all__ = ["Arrays", "Store", "key_of"]
