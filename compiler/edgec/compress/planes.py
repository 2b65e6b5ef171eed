"""4-bit codes as one plane of two bits and two of one bit (`docs/bundle-format.md`, Weight segments).

This is the reference; the bundle writer and the wasm exports `merge_bits2` and `merge_bit1` follow it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgec.errors import ModelError

Bytes = npt.NDArray[np.uint8]


def split(nibbles: Bytes) -> tuple[Bytes, Bytes, Bytes]:
    """Planes of packed codes, two to a byte, length a multiple of 64.

    Returns bits 3..2 (half the length), bit 1 and bit 0 (a quarter each).
    """
    if nibbles.ndim != 1 or nibbles.size % 64:
        raise ModelError(f"a plane of 4-bit codes has shape {nibbles.shape}, expected a multiple of 64 bytes")
    low, high = nibbles & np.uint8(15), nibbles >> np.uint8(4)
    shifts = np.array([0, 4], np.uint8).reshape(1, 2, 1)
    pairs = low >> np.uint8(2) | (high >> np.uint8(2)) << np.uint8(2)
    bits2: Bytes = np.bitwise_or.reduce(pairs.reshape(-1, 2, 16) << shifts, axis=1)
    return bits2.reshape(-1), _split_bit(low, high, 1), _split_bit(low, high, 0)


def merge(bits2: Bytes, bit1_shift1: Bytes, bit1_shift0: Bytes) -> Bytes:
    """Inverse of `split`."""
    two = bits2.reshape(-1, 1, 16)
    shifts = np.array([0, 4], np.uint8).reshape(1, 2, 1)
    pairs = two >> shifts  # low nibble's bits in 1..0, high nibble's in 3..2
    codes = (pairs & np.uint8(3)) << np.uint8(2) | (pairs & np.uint8(12)) << np.uint8(4)
    return codes.reshape(-1) | _merge_bit(bit1_shift1, 1) | _merge_bit(bit1_shift0, 0)


def _split_bit(low: Bytes, high: Bytes, shift: int) -> Bytes:
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 4, 1)
    one, shifted = np.uint8(1), np.uint8(shift)
    pairs = (low >> shifted & one) | (high >> shifted & one) << one
    plane: Bytes = np.bitwise_or.reduce(pairs.reshape(-1, 4, 16) << shifts, axis=1)
    return plane.reshape(-1)


def _merge_bit(plane: Bytes, shift: int) -> Bytes:
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 4, 1)
    pairs = plane.reshape(-1, 1, 16) >> shifts
    codes: Bytes = ((pairs & np.uint8(1)) | (pairs & np.uint8(2)) << np.uint8(3)) << np.uint8(shift)
    return codes.reshape(-1)


__all__ = ["merge", "split"]
