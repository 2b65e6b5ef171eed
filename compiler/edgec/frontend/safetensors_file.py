"""Reading `*.safetensors` files strictly and lazily, with the place of every fault.

Plain reads instead of a memory map: mapped pages would count as resident memory of the compiler.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from edgec.errors import CorruptFileError, ModelError, UnsupportedError

_MAX_HEADER = 100 << 20  # the format's own limit
_DTYPES: dict[str, npt.DTypeLike] = {
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F64": np.float64,
}
FLOAT_DTYPES = frozenset(_DTYPES)
_ITEM_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "I32": 4, "U32": 4, "I64": 8, "U64": 8}
_ITEM_BYTES.update({name: np.dtype(dtype).itemsize for name, dtype in _DTYPES.items()})
_HINT = "download the file again"


@dataclass(frozen=True)
class SafetensorsEntry:
    """`offset` is from the start of the file, in bytes."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    bytes: int

    def read(self) -> npt.NDArray[np.float32]:
        """The values as float32. Raises `UnsupportedError` for a dtype that is no plain float."""
        dtype = _DTYPES.get(self.dtype)
        if dtype is None:
            raise UnsupportedError(
                f"tensor `{self.name}` has dtype `{self.dtype}`",
                hint=f"supported are {', '.join(f'`{name}`' for name in _DTYPES)}; use the model's unquantized weights",
            )
        return self.raw().view(dtype).reshape(self.shape).astype(np.float32, copy=False)

    def integers(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """The values of a tensor of integers; `dtype` has as many bytes as the stored one."""
        return self.raw().view(dtype).reshape(self.shape)

    def raw(self) -> npt.NDArray[np.uint8]:
        """The stored bytes, in one row."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            array = np.fromfile(file, dtype=np.uint8, count=self.bytes)
        if array.nbytes != self.bytes:
            raise CorruptFileError(
                f"`{self.path.name}` ends inside tensor `{self.name}`: byte {self.offset + array.nbytes} of "
                f"{self.offset + self.bytes}",
                hint=_HINT,
            )
        return array


def read_header(path: Path) -> dict[str, SafetensorsEntry]:
    """The tensors of a file. Raises `CorruptFileError` when header and file do not match exactly."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise CorruptFileError(f"`{path.name}` has {size} bytes, too few for a safetensors header", hint=_HINT)
        length = int.from_bytes(prefix, "little")
        if length > _MAX_HEADER or 8 + length > size:
            raise CorruptFileError(
                f"`{path.name}` says that its header has {length} bytes, but the file has {size}", hint=_HINT
            )
        raw = file.read(length)
    try:
        header = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(
            f"the header of `{path.name}` (bytes 8 to {8 + length}) is not JSON", hint=_HINT
        ) from error
    if not isinstance(header, dict):
        raise CorruptFileError(f"the header of `{path.name}` is not a JSON object", hint=_HINT)
    header.pop("__metadata__", None)
    entries = {name: _entry(path, name, fields, 8 + length) for name, fields in header.items()}
    _check_layout(path, entries, 8 + length, size)
    return entries


def _entry(path: Path, name: str, fields: Any, start: int) -> SafetensorsEntry:
    try:
        dtype, shape, (begin, end) = fields["dtype"], fields["shape"], fields["data_offsets"]
        numbers = [*shape, begin, end]
    except (TypeError, KeyError, ValueError) as error:
        raise CorruptFileError(f"the header of `{path.name}` describes `{name}` wrongly", hint=_HINT) from error
    if not isinstance(dtype, str) or not all(type(n) is int and n >= 0 for n in numbers) or end < begin:
        raise CorruptFileError(f"the header of `{path.name}` describes `{name}` wrongly", hint=_HINT)
    entry = SafetensorsEntry(path, name, dtype, tuple(shape), start + begin, end - begin)
    if dtype in _ITEM_BYTES and math.prod(shape) * _ITEM_BYTES[dtype] != entry.bytes:
        raise CorruptFileError(
            f"`{path.name}` stores {entry.bytes} bytes for `{name}`, but {dtype} {list(shape)} has "
            f"{math.prod(shape) * _ITEM_BYTES[dtype]}",
            hint=_HINT,
        )
    return entry


def _check_layout(path: Path, entries: dict[str, SafetensorsEntry], start: int, size: int) -> None:
    end = start
    for entry in sorted(entries.values(), key=lambda e: (e.offset, e.bytes)):
        if entry.offset != end:
            raise CorruptFileError(
                f"tensor `{entry.name}` of `{path.name}` starts at byte {entry.offset}, expected {end}", hint=_HINT
            )
        end += entry.bytes
    if end > size:
        raise CorruptFileError(f"`{path.name}` is truncated: it has {size} bytes of {end}", hint=_HINT)
    if end < size:
        raise CorruptFileError(f"`{path.name}` has {size - end} bytes after its last tensor", hint=_HINT)


class SafetensorsWeights:
    """A checkpoint of one or more files; shards must not repeat a tensor."""

    def __init__(self, paths: list[Path]) -> None:
        self.entries: dict[str, SafetensorsEntry] = {}
        for path in paths:
            for name, entry in read_header(path).items():
                if name in self.entries:
                    raise ModelError(f"tensor `{name}` is in both `{self.entries[name].path.name}` and `{path.name}`")
                self.entries[name] = entry

    def rename(self, old: str, new: str) -> None:
        self.entries[new] = self.entries.pop(old)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: entry.shape for name, entry in self.entries.items()}

    def foreign_dtypes(self) -> set[str]:
        """Dtypes of tensors that are no floats."""
        return {entry.dtype for entry in self.entries.values()} - FLOAT_DTYPES

    def read(self, name: str) -> npt.NDArray[np.float32]:
        return self.entries[name].read()

    def grid_bits(self, name: str) -> int | None:
        return None


__all__ = ["FLOAT_DTYPES", "SafetensorsEntry", "SafetensorsWeights", "read_header"]
