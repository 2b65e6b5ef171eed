"""Reading GGUF files (versions 2 and 3, little endian) strictly and lazily.

Every length is checked against the file before it is believed; a fault is reported with its byte
offset. Tensors are read and dequantized one at a time.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
import numpy.typing as npt

from edgec.errors import CorruptFileError, UnsupportedError

SUPPORTED_TYPES = (
    "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
)  # fmt: skip

_TYPE_NAMES: Mapping[int, str] = {int(kind): kind.name for kind in gguf.GGMLQuantizationType}
_BLOCKS: Mapping[int, tuple[int, int]] = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4
_HINT = "download the file again"


@dataclass(frozen=True)
class GGUFTensor:
    """`shape` is in numpy order (rows first); `offset` is from the start of the file, in bytes."""

    name: str
    type_id: int
    shape: tuple[int, ...]
    offset: int
    bytes: int

    @property
    def type_name(self) -> str:
        return _TYPE_NAMES.get(self.type_id, str(self.type_id))


class GGUFFile:
    """Metadata and tensor list of a file. Raises `CorruptFileError` when they do not fit the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            reader = _Reader(path, file)
            tensor_count, key_count = reader.header()
            self.metadata: dict[str, Any] = {}
            for _ in range(key_count):
                offset = reader.position
                key = reader.string("a metadata key")
                if key in self.metadata:
                    raise reader.corrupt(offset, f"metadata key `{key}` is there twice")
                self.metadata[key] = reader.value(f"metadata `{key}`")
            alignment = self.metadata.get("general.alignment", 32)
            if type(alignment) is not int or not 8 <= alignment <= 1 << 20 or alignment & (alignment - 1):
                raise reader.corrupt(reader.position, f"`general.alignment` is {alignment!r}, expected a power of two")
            relative = [reader.tensor() for _ in range(tensor_count)]
            start = -(-reader.position // alignment) * alignment
            self.tensors = reader.place(relative, start, alignment)

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """A tensor as float32 in numpy order. Raises `UnsupportedError` for a type it cannot dequantize."""
        tensor = self.tensors[name]
        if tensor.type_name not in SUPPORTED_TYPES:
            raise UnsupportedError(
                f"tensor `{name}` has type `{tensor.type_name}`", hint=f"supported are {', '.join(SUPPORTED_TYPES)}"
            )
        with self.path.open("rb") as file:
            file.seek(tensor.offset)
            raw = np.fromfile(file, dtype=np.uint8, count=tensor.bytes)
        if raw.nbytes != tensor.bytes:
            raise CorruptFileError(
                f"`{self.path.name}` ends at byte {tensor.offset + raw.nbytes} inside tensor `{name}`", hint=_HINT
            )
        row_bytes = tensor.bytes // max(1, math.prod(tensor.shape[:-1]))
        kind = gguf.GGMLQuantizationType(tensor.type_id)
        values = gguf.quants.dequantize(raw.reshape(-1, row_bytes), kind)
        return np.asarray(values, dtype=np.float32).reshape(tensor.shape)

    def grid_bits(self, name: str) -> int | None:
        """Q4_0's blocks of 32 have a float16 step and the zero point 8. Others have steps or minima of their own."""
        return 4 if self.tensors[name].type_name == "Q4_0" else None


class _Reader:
    """A cursor that never reads past the end."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._size = path.stat().st_size
        self.position = 0

    def corrupt(self, offset: int, reason: str) -> CorruptFileError:
        return CorruptFileError(f"`{self._path.name}` is damaged at byte {offset}: {reason}", hint=_HINT)

    def header(self) -> tuple[int, int]:
        """`(tensors, metadata keys)`, both plausible for the file's size."""
        if self._size < 24:
            raise self.corrupt(self._size, "it ends inside the header of 24 bytes")
        magic, version, tensors, keys = struct.unpack("<4sIQQ", self._bytes(24, "the header"))
        if magic != b"GGUF":
            raise self.corrupt(0, f"it starts with {magic!r} instead of b'GGUF'")
        if version not in (2, 3):
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            what = f"big-endian version {swapped}" if swapped in (2, 3) else f"version {version}"
            raise UnsupportedError(f"`{self._path.name}` is GGUF {what}", hint="supported are little-endian 2 and 3")
        # The shortest key takes 13 bytes, the shortest tensor entry 24.
        if keys * 13 + tensors * 24 > self._size:
            raise self.corrupt(8, f"{tensors} tensors and {keys} metadata keys do not fit its {self._size} bytes")
        return tensors, keys

    def string(self, what: str) -> str:
        offset = self.position
        (length,) = struct.unpack("<Q", self._bytes(8, what))
        try:
            return self._bytes(length, what).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.corrupt(offset, f"{what} is not UTF-8") from error

    def value(self, what: str) -> Any:
        offset = self.position
        (kind,) = struct.unpack("<I", self._bytes(4, what))
        if kind == _STRING:
            return self.string(what)
        if kind == _ARRAY:
            return self._array(what)
        if kind not in _SCALARS:
            raise self.corrupt(offset, f"{what} has unknown type {kind}")
        layout = f"<{_SCALARS[kind]}"
        return struct.unpack(layout, self._bytes(struct.calcsize(layout), what))[0]

    def tensor(self) -> GGUFTensor:
        """An entry of the tensor list, `offset` still relative to the data section."""
        start = self.position
        name = self.string("a tensor's name")
        what = f"tensor `{name}`"
        (dimensions,) = struct.unpack("<I", self._bytes(4, what))
        if not 0 < dimensions <= _MAX_DIMENSIONS:
            raise self.corrupt(start, f"{what} has {dimensions} dimensions")
        *extents, type_id, offset = struct.unpack(f"<{dimensions}QIQ", self._bytes(8 * dimensions + 12, what))
        if type_id not in _BLOCKS:
            raise self.corrupt(start, f"{what} has unknown type {type_id}")
        block, block_bytes = _BLOCKS[type_id]
        count = math.prod(extents)
        if count == 0 or count > 8 * 64 * self._size or extents[0] % block:
            raise self.corrupt(start, f"{what} has impossible shape {extents} for {_TYPE_NAMES[type_id]}")
        return GGUFTensor(name, type_id, tuple(reversed(extents)), offset, count // block * block_bytes)

    def place(self, entries: list[GGUFTensor], start: int, alignment: int) -> dict[str, GGUFTensor]:
        """Absolute offsets; checks that tensors are named once, aligned, apart and inside the file."""
        placed: dict[str, GGUFTensor] = {}
        end, last = start, "the header"
        for entry in sorted(entries, key=lambda e: e.offset):
            offset = start + entry.offset
            if entry.name in placed:
                raise self.corrupt(offset, f"tensor `{entry.name}` is there twice")
            if entry.offset % alignment:
                raise self.corrupt(offset, f"tensor `{entry.name}` is not aligned to {alignment} bytes")
            if offset < end:
                raise self.corrupt(offset, f"tensor `{entry.name}` overlaps {last}")
            end, last = offset + entry.bytes, f"`{entry.name}`"
            if end > self._size:
                raise self.corrupt(
                    self._size, f"the file is truncated, tensor `{entry.name}` is at bytes {offset} to {end}"
                )
            placed[entry.name] = GGUFTensor(entry.name, entry.type_id, entry.shape, offset, entry.bytes)
        return placed

    def _array(self, what: str) -> list[Any]:
        offset = self.position
        kind, count = struct.unpack("<IQ", self._bytes(12, what))
        if kind == _STRING:
            if count * 8 > self._size - self.position:
                raise self.corrupt(offset, f"{what} has {count} strings, more than the file has room for")
            return [self.string(what) for _ in range(count)]
        if kind not in _SCALARS:
            raise self.corrupt(offset, f"{what} is an array of unknown type {kind}")
        dtype = np.dtype(_SCALARS[kind]).newbyteorder("<")
        if count * dtype.itemsize > self._size - self.position:
            raise self.corrupt(offset, f"{what} has {count} values, more than the file has room for")
        values: list[Any] = np.frombuffer(self._bytes(count * dtype.itemsize, what), dtype=dtype).tolist()
        return values

    def _bytes(self, count: int, what: str) -> bytes:
        if count > self._size - self.position:
            raise self.corrupt(self._size, f"the file ends inside {what}, which needs {count} bytes at {self.position}")
        data = self._file.read(count)
        if len(data) != count:
            raise self.corrupt(self.position + len(data), f"the file ends inside {what}")
        self.position += count
        return data
