"""Planes of codes: the layout in which a bundle stores them, most important bits first.

Codes are packed two to a byte (low nibble, high nibble). `split` cuts `n` such bytes into

    bits2    uint8 [n / 2]   bits 3..2 of every code
    shift 1  uint8 [n / 4]   bit 1
    shift 0  uint8 [n / 4]   bit 0

so that any prefix of (bits2, shift 1, shift 0) is a usable coarser code. Where bits2 never has both bits set, as for
ternary weights, five of its codes are the digits of a byte to the base 3 (`trits`, 2n / 5 bytes). Longer codes, a
byte each, have planes of one bit. The byte order inside a plane is that of docs/bundle-format.md, "Weight segments":
it lets 16-byte vectors expand with masks and shifts alone. The wasm exports `merge_*` are the same functions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

QUANTUM = 64  # target bytes; a whole number of 16-byte vectors in every plane of nibbles
VECTOR = 16  # bytes; planes are whole vectors
TRITS_QUANTUM = 320  # target bytes; the least that is whole vectors of trits and a multiple of `QUANTUM`
_BASE = 3 ** np.arange(5)
_DIGITS = (np.arange(256)[:, None] // _BASE % 3).astype(np.uint8)  # of each byte, the first code's first
_CHUNK = 1 << 20  # target bytes handled at a time, so that temporaries stay small


def split(nibbles: Bytes) -> tuple[Bytes, Bytes, Bytes]:
    """Cut one-dimensional packed codes (length a multiple of 64) into (bits2, shift 1, shift 0)."""
    _check(nibbles, QUANTUM)
    size = nibbles.size
    bits2 = np.empty(size // 2, np.uint8)
    shift1 = np.empty(size // 4, np.uint8)
    shift0 = np.empty(size // 4, np.uint8)
    for start in range(0, size, _CHUNK):
        part = nibbles[start : start + _CHUNK]
        bits2[start // 2 : (start + part.size) // 2] = split_bits2(part)
        shift1[start // 4 : (start + part.size) // 4] = split_bit1(part, 1)
        shift0[start // 4 : (start + part.size) // 4] = split_bit1(part, 0)
    return bits2, shift1, shift0


def split_bits2(nibbles: Bytes) -> Bytes:
    """Bits 3..2 of every code: `n` bytes (a multiple of 32) give `n / 2`."""
    _check(nibbles, 32)
    vectors = nibbles.reshape(-1, 2, 16)
    top = (vectors >> 2) & 0x03 | (vectors >> 4) & 0x0C
    return np.asarray(top[:, 0] | top[:, 1] << 4, np.uint8).reshape(-1)


def is_ternary(nibbles: Bytes) -> bool:
    """Whether bits 3..2 of every code are 0, 1 or 2."""
    return not np.any(nibbles & nibbles << 1 & np.uint8(0x88))


def split_trits(nibbles: Bytes) -> Bytes:
    """Bits 3..2 of every code, none of them 3: `n` bytes (a multiple of 40) give `2n / 5`."""
    _check(nibbles, 40)
    codes = np.stack([nibbles >> 2 & 3, nibbles >> 6], axis=1).reshape(-1, 5)
    return (codes @ _BASE).astype(np.uint8)


def split_bit1(nibbles: Bytes, shift: int) -> Bytes:
    """Bit `shift` of every code: `n` bytes (a multiple of 64) give `n / 4`."""
    _check(nibbles, QUANTUM)
    vectors = nibbles.reshape(-1, 4, 16)
    pair = (vectors >> shift) & 0x01 | (vectors >> (shift + 3)) & 0x02
    packed = pair[:, 0] | pair[:, 1] << 2 | pair[:, 2] << 4 | pair[:, 3] << 6
    return np.asarray(packed, np.uint8).reshape(-1)


def split_byte1(codes: Bytes, shift: int) -> Bytes:
    """Bit `shift` of every byte: `n` bytes (a multiple of 128) give `n / 8`."""
    _check(codes, 8 * VECTOR)
    vectors = codes.reshape(-1, 8, VECTOR) >> shift & 0x01
    packed = np.zeros((vectors.shape[0], VECTOR), np.uint8)
    for part in range(8):
        packed |= vectors[:, part] << part
    return packed.reshape(-1)


def merge(bits2: Bytes | None, shift1: Bytes | None = None, shift0: Bytes | None = None) -> Bytes:
    """The inverse of `split`. A plane that is None counts as zeros; at least one must be there."""
    sizes = {plane.size * factor for plane, factor in ((bits2, 2), (shift1, 4), (shift0, 4)) if plane is not None}
    if len(sizes) != 1:
        raise ValueError(f"the planes belong to {len(sizes)} different sizes")
    out = np.zeros(sizes.pop(), np.uint8)
    if bits2 is not None:
        merge_bits2(out, bits2)
    if shift1 is not None:
        merge_bit1(out, shift1, 1)
    if shift0 is not None:
        merge_bit1(out, shift0, 0)
    return out


def merge_bits2(target: Bytes, source: Bytes) -> None:
    """OR a 2-bit plane into `target`, which is twice as long as `source` (a multiple of 16)."""
    _check(source, 16)
    vectors = target.reshape(-1, 2, 16)
    plane = source.reshape(-1, 16)
    for half in range(2):
        bits = plane >> (4 * half)
        vectors[:, half] |= (bits & 0x03) << 2 | (bits & 0x0C) << 4


def merge_trits(target: Bytes, source: Bytes) -> None:
    """OR trits into `target`, which is 5 / 2 as long as `source` (a multiple of 16)."""
    _check(source, VECTOR)
    codes = _DIGITS[source].reshape(-1, 2)
    target |= codes[:, 0] << 2 | codes[:, 1] << 6


def merge_bit1(target: Bytes, source: Bytes, shift: int) -> None:
    """OR a 1-bit plane into `target`, which is four times as long as `source` (a multiple of 16)."""
    _check(source, 16)
    vectors = target.reshape(-1, 4, 16)
    plane = source.reshape(-1, 16)
    for quarter in range(4):
        bits = plane >> (2 * quarter)
        vectors[:, quarter] |= (bits & 0x01) << shift | (bits & 0x02) << (3 + shift)


def merge_byte1(target: Bytes, source: Bytes, shift: int) -> None:
    """OR a 1-bit plane of bytes into `target`, which is eight times as long as `source` (a multiple of 16)."""
    _check(source, VECTOR)
    vectors = target.reshape(-1, 8, VECTOR)
    plane = source.reshape(-1, VECTOR)
    for part in range(8):
        vectors[:, part] |= (plane >> part & 0x01) << shift


def _check(array: Bytes, multiple: int) -> None:
    if array.ndim != 1 or array.dtype != np.uint8 or array.size % multiple:
        raise ValueError(f"expected 1-D uint8 with a multiple of {multiple} bytes, got {array.dtype} {array.shape}")
