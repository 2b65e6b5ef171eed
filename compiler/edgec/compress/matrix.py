"""A weight matrix `[rows, columns]` to a `PackedTensor`, slab by slab."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.compress.pack import TILE_BYTES, pack_nibbles
from edgec.compress.quantize.rtn import QuantizedGroups, quantize_groups
from edgec.errors import ModelError
from edgec.ir.compressed import GROUP, ROWS, PackedTensor

# Groups quantized in one go: three float32 arrays of 2 MiB, the fastest size where it was measured.
_GROUPS_PER_SLAB = 16384
# The largest weight that 16 levels of a float16 scale reach, with room for a zero point at mid-range.
_LARGEST_WEIGHT = 65504.0 * 7


def pack_matrix(
    name: str, matrix: npt.NDArray[Any], bits: int, locate: Callable[[int, int], tuple[int, ...]] | None = None
) -> PackedTensor:
    """Quantize `matrix` (float, `[rows, columns]`) to 4, 6, 7 or 8 bits in groups of 32 columns.

    6-bit codes are packed as 7-bit ones whose lowest bit is zero.

    `locate` turns (row, column) into the index shown in errors. Raises `ModelError` for NaN,
    infinity and values beyond what float16 scales reach.
    """
    rows, columns = matrix.shape
    blocks, groups = -(-rows // ROWS), -(-columns // GROUP)
    high = np.empty((blocks, groups, TILE_BYTES), np.uint8)
    low = np.empty_like(high) if bits > 4 else None
    scales = np.empty((blocks, groups, ROWS), np.float16)
    zeros = np.empty((blocks, groups, ROWS), np.uint8)
    lost, total, worst = 0.0, 0.0, 0.0
    for first, last in _slabs(blocks, groups):
        slab = _load_slab(matrix, first, last)
        if not np.abs(slab).max() <= _LARGEST_WEIGHT:
            raise _bad_value(name, matrix, locate or (lambda row, column: (row, column)))
        total += float(np.square(slab).sum(dtype=np.float64))
        codes = np.zeros(slab.shape, np.uint8)
        for part, features in _group_ranges(columns):
            result = _quantize(slab[:features, :, part], bits)
            shape = (last - first, part.stop - part.start, ROWS)
            codes[:features, :, part] = result.codes.reshape(features, *shape)
            scales[first:last, part] = result.scales.reshape(shape)
            zeros[first:last, part] = result.zeros.reshape(shape)
            lost += result.squared_error
            worst = max(worst, result.max_abs)
        if low is not None:
            codes <<= np.uint8(8 - bits)
            low[first:last] = pack_nibbles(codes & np.uint8(15))
            codes >>= np.uint8(4)
        high[first:last] = pack_nibbles(codes)
    error = {"relative_rmse": math.sqrt(lost / total) if total else 0.0, "max_abs": worst}
    return PackedTensor(name, rows, columns, {6: 7}.get(bits, bits), high, low, scales, zeros, error)


def _slabs(blocks: int, groups: int) -> Iterator[tuple[int, int]]:
    step = max(1, _GROUPS_PER_SLAB // (groups * ROWS))
    for first in range(0, blocks, step):
        yield first, min(first + step, blocks)


def _group_ranges(columns: int) -> Iterator[tuple[slice, int]]:
    """The groups that are full, and the one that is not, with their numbers of features."""
    full, rest = divmod(columns, GROUP)
    if full:
        yield slice(0, full), GROUP
    if rest:
        yield slice(full, full + 1), rest


def _load_slab(matrix: npt.NDArray[Any], first: int, last: int) -> npt.NDArray[np.float32]:
    """Rows of blocks `first` to `last` as float32 `[32, blocks, groups, 8]`, padded with zeros."""
    columns = matrix.shape[1]
    groups = -(-columns // GROUP)
    part = matrix[first * ROWS : last * ROWS]
    padding = ((0, (last - first) * ROWS - part.shape[0]), (0, groups * GROUP - columns))
    if any(after for _, after in padding):
        part = np.pad(part, padding)
    tiled = part.reshape(last - first, ROWS, groups, GROUP).transpose(3, 0, 2, 1)
    return np.ascontiguousarray(tiled, np.float32)


def _quantize(part: npt.NDArray[np.float32], bits: int) -> QuantizedGroups:
    return quantize_groups(np.ascontiguousarray(part).reshape(part.shape[0], -1), bits)


def _bad_value(name: str, matrix: npt.NDArray[Any], locate: Callable[[int, int], tuple[int, ...]]) -> ModelError:
    for row in range(matrix.shape[0]):
        values = matrix[row].astype(np.float32)
        bad = np.flatnonzero(~(np.abs(values) <= _LARGEST_WEIGHT))
        if bad.size:
            index = ", ".join(str(i) for i in locate(row, int(bad[0])))
            return ModelError(
                f"tensor `{name}` has the value {values[bad[0]]} at [{index}], which cannot be quantized",
                hint="check the checkpoint for damage or a diverged training run",
            )
    raise AssertionError(name)


__all__ = ["pack_matrix"]
