"""Narrow forms of what is no code, for bits that are all zero; half as long (docs/bundle-format.md, "Weight segments").

upper4   bytes whose lower nibble is zero          zero points of 4 bits
scale8   16-bit words with nothing outside of      float16 of 4 bits of exponent and 4 of mantissa: scales
         bits 13 to 6
upper16  32-bit words whose lower half is zero     bfloat16 in float32

`scaled8` is a quarter as long: float32 in rows, each number a signed byte times its column's bfloat16 scale; the scales
come first. Products of 8 bits each are exact in float32.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
NarrowOp = Literal["upper4", "scale8", "upper16"]
NARROW: tuple[NarrowOp, ...] = ("upper16", "scale8", "upper4")

QUANTUM = 32  # target bytes; narrow forms are whole vectors of 16 bytes
LARGEST_SCALED = 127  # magnitude of a code of `scaled8`; every column has one
_ROWS = 16  # of `scaled8` before a cut: the next piece's target is then a multiple of 64 bytes
_SCALE_BITS = 0x3FC0
_SCALE_SHIFT = 6


def is_narrow(data: Bytes, op: NarrowOp) -> bool:
    """Whether `data` (one-dimensional, a multiple of 32 bytes) has nothing but what `op` keeps."""
    if op == "upper4":
        return not np.any(data & np.uint8(15))
    if op == "scale8":
        return not np.any(data.view("<u2") & np.uint16(~_SCALE_BITS & 0xFFFF))
    return not np.any(data.view("<u4") & np.uint32(0xFFFF))


def narrow(data: Bytes, op: NarrowOp) -> Bytes:
    """`n` bytes to `n / 2`."""
    if op == "upper4":
        pairs = data.reshape(-1, 2)
        return np.asarray(pairs[:, 0] >> 4 | pairs[:, 1] & 0xF0, np.uint8)
    if op == "scale8":
        return (data.view("<u2") >> _SCALE_SHIFT).astype(np.uint8)
    return (data.view("<u4") >> 16).astype("<u2").view(np.uint8)


def merge_narrow(target: Bytes, source: Bytes, op: NarrowOp) -> None:
    """OR the narrow `source` into `target`, which is twice as long."""
    if op == "upper4":
        pairs = target.reshape(-1, 2)
        pairs[:, 0] |= source << 4
        pairs[:, 1] |= source & 0xF0
        return
    if op == "scale8":
        words: npt.NDArray[np.unsignedinteger] = source.astype("<u2") << np.uint16(_SCALE_SHIFT)
    else:
        words = source.view("<u2").astype("<u4") << np.uint32(16)
    target |= words.view(np.uint8)


def scaled(data: Bytes, columns: int) -> Bytes | None:
    """`data` (float32 in rows of `columns`) as `scaled8`, None where that would lose something.

    Scales are those that make 127 of each column's largest magnitude.
    """
    values = data.view("<f4").reshape(-1, columns)
    scales = np.abs(values).max(axis=0) / np.float32(LARGEST_SCALED)
    if np.any(scales.view("<u4") & np.uint32(0xFFFF)):
        return None
    codes = np.rint(values / np.where(scales > 0, scales, np.float32(1))).astype(np.int8)
    if np.any((codes * scales).view("<u4") != values.view("<u4")):
        return None
    upper = (scales.view("<u4") >> 16).astype("<u2")
    return np.concatenate([upper.view(np.uint8), codes.view(np.uint8).reshape(-1)])


def cut_scaled(stored: Bytes, columns: int, limit: int) -> list[tuple[int, Bytes]]:
    """The form `scaled8` in pieces of at most `limit` bytes, each with the target byte where its numbers begin.

    Every piece has all the scales. Empty if `limit` is too small for that.
    """
    if stored.size <= limit:
        return [(0, stored)]
    rows = (limit // columns - 2) // _ROWS * _ROWS
    if rows <= 0:
        return []
    scales, codes = stored[: 2 * columns], stored[2 * columns :]
    step = rows * columns
    return [(4 * at, np.concatenate([scales, codes[at : at + step]])) for at in range(0, codes.size, step)]


def merge_scaled(target: Bytes, source: Bytes, columns: int) -> None:
    """Write the numbers of the `scaled8` form `source` to `target`."""
    scales = (source[: 2 * columns].view("<u2").astype("<u4") << np.uint32(16)).view("<f4")
    codes = source[2 * columns :].view(np.int8).reshape(-1, columns)
    target[:] = (codes * scales).astype("<f4").reshape(-1).view(np.uint8)


__all__ = [
    "LARGEST_SCALED",
    "NARROW",
    "QUANTUM",
    "NarrowOp",
    "cut_scaled",
    "is_narrow",
    "merge_narrow",
    "merge_scaled",
    "narrow",
    "scaled",
]
