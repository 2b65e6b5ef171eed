"""Tile order, held against the sentence in `edgec/ir/compressed.py` byte by byte."""

from __future__ import annotations

import numpy as np

from edgec.compress.pack import pack_nibbles, unpack_nibbles


def test_every_code_is_where_the_format_says() -> None:
    blocks, groups = 2, 3
    rng = np.random.default_rng(1)
    matrix = rng.integers(0, 16, (8 * blocks, 32 * groups)).astype(np.uint8)
    slab = matrix.reshape(blocks, 8, groups, 32).transpose(3, 0, 2, 1)
    tiles = pack_nibbles(np.ascontiguousarray(slab)).reshape(blocks, groups, 4, 2, 4, 4)
    for block, group, t, half, row, j in np.ndindex(tiles.shape):
        byte = int(tiles[block, group, t, half, row, j])
        source = matrix[8 * block + 4 * half + row]
        assert byte & 15 == source[32 * group + 4 * t + j]
        assert byte >> 4 == source[32 * group + 16 + 4 * t + j]


def test_round_trip() -> None:
    codes = np.random.default_rng(2).integers(0, 16, (32, 3, 5, 8)).astype(np.uint8)
    tiles = pack_nibbles(codes)
    assert tiles.shape == (3, 5, 128)
    np.testing.assert_array_equal(unpack_nibbles(tiles), codes)
