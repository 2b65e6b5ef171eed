"""`edgec.ir.planes` against the formulas of docs/bundle-format.md, written out byte by byte."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.ir import planes


def codes(size: int, seed: int = 0) -> planes.Bytes:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def bits2_by_the_book(data: planes.Bytes) -> list[int]:
    out = []
    for base in range(0, data.size, 32):
        for i in range(16):
            a, b = int(data[base + i]), int(data[base + 16 + i])
            out.append((a & 15) >> 2 | (a >> 4 >> 2) << 2 | (b & 15) >> 2 << 4 | (b >> 4 >> 2) << 6)
    return out


def bit1_by_the_book(data: planes.Bytes, shift: int) -> list[int]:
    out = []
    for base in range(0, data.size, 64):
        for i in range(16):
            byte = 0
            for j in range(4):
                value = int(data[base + 16 * j + i])
                byte |= ((value & 15) >> shift & 1) << (2 * j) | ((value >> 4) >> shift & 1) << (2 * j + 1)
            out.append(byte)
    return out


def byte1_by_the_book(data: planes.Bytes, shift: int) -> list[int]:
    return [
        sum((int(data[base + 16 * j + i]) >> shift & 1) << j for j in range(8))
        for base in range(0, data.size, 128)
        for i in range(16)
    ]


def test_trits() -> None:
    digits = np.random.default_rng(2).integers(0, 3, 640)
    data = (digits[0::2] << 2 | digits[1::2] << 6).astype(np.uint8)
    packed = planes.split_trits(data)
    assert packed.tolist() == [sum(int(d) * 3**j for j, d in enumerate(some)) for some in digits.reshape(-1, 5)]
    merged = np.full_like(data, 0x33)
    planes.merge_trits(merged, packed)
    assert np.array_equal(merged, data | 0x33)
    assert planes.is_ternary(merged)
    for both in (0x0C, 0xC0):
        data[17] = both
        assert not planes.is_ternary(data)


def test_planes_of_bytes() -> None:
    data = codes(384)
    merged = np.zeros_like(data)
    for shift in range(8):
        plane = planes.split_byte1(data, shift)
        assert plane.tolist() == byte1_by_the_book(data, shift)
        planes.merge_byte1(merged, plane, shift)
    assert np.array_equal(merged, data)


def test_split_follows_the_format() -> None:
    data = codes(256)
    bits2, shift1, shift0 = planes.split(data)
    assert bits2.tolist() == bits2_by_the_book(data)
    assert shift1.tolist() == bit1_by_the_book(data, 1)
    assert shift0.tolist() == bit1_by_the_book(data, 0)


@pytest.mark.parametrize("size", [0, 64, 128, 192, planes._CHUNK + 64])
def test_merge_inverts_split(size: int) -> None:
    data = codes(size, size)
    assert np.array_equal(planes.merge(*planes.split(data)), data)


def test_fewer_planes_give_the_top_bits() -> None:
    data = codes(640)
    bits2, shift1, _ = planes.split(data)
    assert np.array_equal(planes.merge(bits2), data & 0xCC)
    assert np.array_equal(planes.merge(bits2, shift1), data & 0xEE)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 64"):
        planes.split(codes(96))
    with pytest.raises(ValueError, match="different sizes"):
        planes.merge(codes(32), codes(32))
    with pytest.raises(ValueError, match="different sizes"):
        planes.merge(None)
