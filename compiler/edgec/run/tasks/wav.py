"""WAV files (docs/tasks.md, "Audio")."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgec.errors import UsageError

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_KINDS = {
    (_PCM, 8): "u1",
    (_PCM, 16): "<i2",
    (_PCM, 24): "24",
    (_PCM, 32): "<i4",
    (_FLOAT, 32): "<f4",
    (_FLOAT, 64): "<f8",
}


@dataclass(frozen=True)
class Wave:
    """`samples` are float64 `[frames, channels]`, integers scaled to [-1, 1)."""

    samples: npt.NDArray[np.float64]
    sample_rate: int


def read_wav(data: bytes, name: str = "the audio") -> Wave:
    """Raises `UsageError` for anything but uncompressed WAV."""
    if len(data) < 12 or data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise UsageError(f"{name} is not a WAV file", hint="convert it, for example with `ffmpeg -i FILE out.wav`")
    chunks = _chunks(data)
    form = chunks.get(b"fmt ", b"")
    if len(form) < 16:
        raise UsageError(f"{name} is a damaged WAV file: it has no format")
    code, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", form)
    if code == _EXTENSIBLE and len(form) >= 26:
        (code,) = struct.unpack_from("<H", form, 24)
    kind = _KINDS.get((code, bits))
    if kind is None or channels == 0 or rate == 0:
        raise UsageError(
            f"{name} is a WAV file of format {code}, {bits} bits, {channels} channels and {rate} Hz",
            hint="supported are PCM of 8, 16, 24 and 32 bits, and floats",
        )
    if b"data" not in chunks:
        raise UsageError(f"{name} is a damaged WAV file: it has no samples")
    content = chunks[b"data"]
    width = bits // 8 * channels
    values = _values(content[: len(content) // width * width], kind)
    if not np.isfinite(values).all():
        raise UsageError(f"{name} has samples that are no numbers")
    return Wave(values.reshape(-1, channels), rate)


def _chunks(data: bytes) -> dict[bytes, bytes]:
    """The first chunk of each name; the last one ends with the file."""
    found: dict[bytes, bytes] = {}
    at = 12
    while at + 8 <= len(data):
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        found.setdefault(name, data[at + 8 : at + 8 + length])
        at += 8 + length + length % 2
    return found


def _values(content: bytes, kind: str) -> npt.NDArray[np.float64]:
    if kind == "u1":
        return (np.frombuffer(content, np.uint8).astype(np.float64) - 128) / 128
    if kind == "24":
        parts = np.frombuffer(content, np.uint8).reshape(-1, 3).astype(np.int32)
        numbers = parts[:, 0] | parts[:, 1] << 8 | parts[:, 2] << 16
        return (numbers - ((numbers & 0x800000) << 1)).astype(np.float64) / (1 << 23)
    values = np.frombuffer(content, np.dtype(kind)).astype(np.float64)
    return values if kind.startswith("<f") else values / (1 << (8 * np.dtype(kind).itemsize - 1))
