"""What a way of storing quantized matrices is: fields of a configuration, and tensors that make a matrix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.errors import ModelError
from edgec.frontend.problems import Problem
from edgec.frontend.safetensors_file import SafetensorsEntry
from edgec.ir.plan import Bits

Floats = npt.NDArray[np.float32]
Entries = Mapping[str, SafetensorsEntry]
_HINT = "the configuration and the weights are of different models"


class PackedMatrix(ABC):
    """A matrix of a linear layer, `[out, in]`, that a checkpoint holds in the tensors `parts`."""

    shape: tuple[int, int]
    parts: tuple[SafetensorsEntry, ...]

    @abstractmethod
    def read(self) -> Floats:
        """The values, float32 `[out, in]`, not rounded any further."""

    def grid_bits(self) -> Bits | None:
        """See `WeightSource.grid_bits`; may read what is small."""
        return None


@dataclass(frozen=True)
class Method:
    """A `quant_method`. `matrices` finds its matrices, under the name that each would have as plain floats.

    Fields of a `quantization_config` that are neither in `allowed`, with one of the values there, nor in `lists` (of
    texts) or `harmless` are refused when they are set. Texts are compared in lower case. `required` ones may not be
    missing.
    """

    name: str
    matrices: Callable[[Mapping[str, Any], Entries], dict[str, PackedMatrix]]
    allowed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    lists: frozenset[str] = frozenset()
    harmless: frozenset[str] = frozenset()
    required: frozenset[str] = frozenset()

    def problems(self, config: Mapping[str, Any]) -> list[Problem]:
        found = []
        for name, values in self.allowed.items():
            value = config.get(name)
            if value is None and name not in self.required:
                continue
            if (value.lower() if isinstance(value, str) else value) not in values:
                supported = ", ".join(repr(value) for value in values)
                found.append(Problem(f"quantization_config.{name}", repr(value), supported))
        size = config.get("group_size")
        if size is not None and (type(size) is not int or size < 1) and size != -1:
            found.append(Problem("quantization_config.group_size", repr(size), "a positive number, or -1"))
        for name in self.lists:
            value = config.get(name)
            if value is not None and not (isinstance(value, list) and all(isinstance(text, str) for text in value)):
                found.append(Problem(f"quantization_config.{name}", repr(value)[:60], "a list of texts"))
        known = {"quant_method", "group_size", *self.allowed, *self.lists, *self.harmless}
        for name, value in config.items():
            if name not in known and not name.startswith("_") and value not in (None, False, 0, "", [], {}):
                found.append(
                    Problem(f"quantization_config.{name}", repr(value)[:60], "leaving it out or switching it off")
                )
        return found


def expect_shape(entry: SafetensorsEntry, *shape: int) -> None:
    """Raises `ModelError` unless the tensor has this shape."""
    if entry.shape != shape:
        raise ModelError(f"`{entry.name}` has shape {list(entry.shape)} instead of {list(shape)}", hint=_HINT)


def expect_dtype(entry: SafetensorsEntry, *dtypes: str) -> None:
    """Raises `ModelError` unless the tensor has one of these dtypes."""
    if entry.dtype not in dtypes:
        expected = " or ".join(f"`{dtype}`" for dtype in dtypes)
        raise ModelError(f"`{entry.name}` has dtype `{entry.dtype}` instead of {expected}", hint=_HINT)


def part(entries: Entries, name: str) -> SafetensorsEntry:
    """A tensor that belongs to a matrix. Raises `ModelError` when it is missing."""
    if name not in entries:
        raise ModelError(
            f"the checkpoint lacks `{name}`", hint="download the model again, or check that all its shards are there"
        )
    return entries[name]


def unpack(words: npt.NDArray[np.uint32], bits: int, axis: int) -> npt.NDArray[np.uint8]:
    """Codes of `bits` bits out of words of 32, the lowest bits first, side by side along `axis` of two."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    mask = np.uint32((1 << bits) - 1)
    if axis == 0:
        codes = words[:, None, :] >> shifts[:, None] & mask
        return codes.astype(np.uint8).reshape(-1, words.shape[1])
    codes = words[:, :, None] >> shifts & mask
    return codes.astype(np.uint8).reshape(words.shape[0], -1)


def group_of(config: Mapping[str, Any], columns: int) -> int:
    """Inputs that share a scale: -1 means all of them, and nothing 128, as in GPTQ and AWQ."""
    size = config.get("group_size") or 128
    return columns if size == -1 else int(size)


def by_stem(
    make: Callable[[str, Mapping[str, Any], Entries], PackedMatrix],
) -> Callable[[Mapping[str, Any], Entries], dict[str, PackedMatrix]]:
    """`Method.matrices` of formats whose matrix `x.weight` lies in `x.qweight` and entries beside it."""

    def matrices(config: Mapping[str, Any], entries: Entries) -> dict[str, PackedMatrix]:
        stems = [name.removesuffix(".qweight") for name in entries if name.endswith(".qweight")]
        return {f"{stem}.weight": make(stem, config, entries) for stem in stems}

    return matrices


__all__ = [
    "Entries",
    "Floats",
    "Method",
    "PackedMatrix",
    "by_stem",
    "expect_dtype",
    "expect_shape",
    "group_of",
    "part",
    "unpack",
]
