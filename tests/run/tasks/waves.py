"""WAV files in every format that is read."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

WAVES = [
    ("u1", 1, 8000),
    ("i2", 1, 8000),
    ("i2", 2, 16000),
    ("i3", 1, 11025),
    ("i4", 3, 6000),
    ("f4", 1, 44100),
    ("f8", 2, 8000),
    ("extensible", 2, 48000),
]


def encoded(samples: npt.NDArray[np.float64], kind: str) -> bytes:
    """Samples from -1 to 1 in the format of a WAV file."""
    if kind == "u1":
        return np.clip(np.rint(samples * 128 + 128), 0, 255).astype(np.uint8).tobytes()
    if kind == "i3":
        numbers = np.clip(np.rint(samples * 2**23), -(2**23), 2**23 - 1).astype("<i4")
        return numbers.reshape(-1, 1).view(np.uint8)[:, :3].tobytes()
    if kind.startswith("f"):
        return samples.astype(f"<{kind}").tobytes()
    width = 16 if kind in ("i2", "extensible") else 32
    numbers = np.clip(np.rint(samples * 2 ** (width - 1)), -(2 ** (width - 1)), 2 ** (width - 1) - 1)
    return numbers.astype(f"<i{width // 8}").tobytes()


def wav_bytes(samples: npt.NDArray[np.float64], kind: str, rate: int, *, extra: bytes = b"") -> bytes:
    """`samples` [frames, channels]; `extra` is put between the format and the samples."""
    channels = samples.shape[1]
    bits = {"u1": 8, "i2": 16, "extensible": 16, "i3": 24, "i4": 32, "f4": 32, "f8": 64}[kind]
    code = 3 if kind.startswith("f") else 0xFFFE if kind == "extensible" else 1
    width = bits // 8 * channels
    form = struct.pack("<HHIIHH", code, channels, rate, rate * width, width, bits)
    if kind == "extensible":
        form += struct.pack("<HHIH14s", 22, bits, 3, 1, bytes.fromhex("000000001000800000aa00389b71"))
    return riff((b"fmt ", form), (b"LIST", extra), (b"data", encoded(samples, kind)))


def riff(*chunks: tuple[bytes, Any]) -> bytes:
    body = b"".join(name + len(data).to_bytes(4, "little") + data + b"\0" * (len(data) % 2) for name, data in chunks)
    return b"RIFF" + (4 + len(body)).to_bytes(4, "little") + b"WAVE" + body
