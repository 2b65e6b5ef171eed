"""Tile order: how codes lie in memory, as `edgec/ir/compressed.py` defines it.

Unpacked, the codes of a slab are uint8 `[32, blocks, groups, 8]`: feature within its group, then
the block of eight rows, the group along the row, and the row within its block.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgec.ir.compressed import GROUP, ROWS

Bytes = npt.NDArray[np.uint8]
TILE_BYTES = GROUP * ROWS // 2  # of one block and group


def pack_nibbles(nibbles: Bytes) -> Bytes:
    """Codes below 16, `[32, blocks, groups, 8]`, to tile order `[blocks, groups, 128]`."""
    _, blocks, groups, _ = nibbles.shape
    split = nibbles.reshape(2, GROUP // 2, blocks, groups, ROWS)
    paired = split[0] | split[1] << 4  # features f and 16 + f share a byte
    tiles = paired.reshape(4, 4, blocks, groups, 2, 4)  # t, j, block, group, half, row
    return np.ascontiguousarray(tiles.transpose(2, 3, 0, 4, 5, 1)).reshape(blocks, groups, TILE_BYTES)


def unpack_nibbles(tiles: Bytes) -> Bytes:
    """Inverse of `pack_nibbles`."""
    blocks, groups, _ = tiles.shape
    paired = tiles.reshape(blocks, groups, 4, 2, 4, 4).transpose(2, 5, 0, 1, 3, 4)
    paired = paired.reshape(GROUP // 2, blocks, groups, ROWS)
    return np.concatenate([paired & 15, paired >> 4])


__all__ = ["TILE_BYTES", "pack_nibbles", "unpack_nibbles"]
