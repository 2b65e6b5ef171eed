"""Planes, held against the formulas of `docs/bundle-format.md`."""

from __future__ import annotations

import numpy as np
import pytest
from edgec.compress.planes import merge, split
from edgec.errors import ModelError


def test_planes_follow_the_written_formulas() -> None:
    nibbles = np.random.default_rng(3).integers(0, 256, 256).astype(np.uint8)
    bits2, shift1, shift0 = split(nibbles)
    low, high = [int(b) & 15 for b in nibbles], [int(b) >> 4 for b in nibbles]
    for chunk in range(256 // 32):
        for i in range(16):
            a, b = 32 * chunk + i, 32 * chunk + 16 + i
            assert bits2[16 * chunk + i] == low[a] >> 2 | high[a] >> 2 << 2 | low[b] >> 2 << 4 | high[b] >> 2 << 6
    for shift, plane in ((1, shift1), (0, shift0)):
        for chunk in range(256 // 64):
            for i in range(16):
                expected = 0
                for j in range(4):
                    at = 64 * chunk + 16 * j + i
                    expected |= (low[at] >> shift & 1) << 2 * j | (high[at] >> shift & 1) << 2 * j + 1
                assert plane[16 * chunk + i] == expected


def test_round_trip_and_sizes() -> None:
    nibbles = np.random.default_rng(4).integers(0, 256, 64 * 33).astype(np.uint8)
    planes = split(nibbles)
    assert [p.size for p in planes] == [nibbles.size // 2, nibbles.size // 4, nibbles.size // 4]
    np.testing.assert_array_equal(merge(*planes), nibbles)


def test_fewer_planes_are_the_high_bits() -> None:
    nibbles = np.random.default_rng(5).integers(0, 256, 128).astype(np.uint8)
    bits2, shift1, shift0 = split(nibbles)
    nothing = np.zeros_like(shift0)
    np.testing.assert_array_equal(merge(bits2, nothing, nothing), nibbles & 0xCC)
    np.testing.assert_array_equal(merge(bits2, shift1, nothing), nibbles & 0xEE)


def test_wrong_length_is_refused() -> None:
    with pytest.raises(ModelError, match="multiple of 64"):
        split(np.zeros(65, np.uint8))
