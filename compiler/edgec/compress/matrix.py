"""A weight matrix `[rows, columns]` to a `PackedTensor`, in slabs of rows, which threads share.

A slab's size does not depend on the number of threads, so codes do not either.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgec.compress.pack import TILE_BYTES, pack_nibbles
from edgec.compress.quantize import InputStatistics, QuantizedRows, Quantizer
from edgec.errors import ModelError
from edgec.ir.compressed import GROUP, ROWS, Coarser, PackedTensor

# Weights quantized in one go: three float32 arrays of 2 MiB, the fastest size where it was measured.
_WEIGHTS_PER_SLAB = 16384 * GROUP
# Rows, evenly spaced, of which the error of the output is measured: it takes columns^2 operations for each.
_SAMPLED_ROWS = 256
# The largest weight that 16 levels of a float16 scale reach, with room for a zero point at mid-range.
_LARGEST_WEIGHT = 65504.0 * 7


def pack_matrix(
    name: str,
    matrix: npt.NDArray[Any],
    quantizer: Quantizer,
    locate: Callable[[int, int], tuple[int, ...]] | None = None,
) -> PackedTensor:
    """Quantize `matrix` (float, `[rows, columns]`) in groups of `quantizer.grid.group_size` columns, a multiple of 32.

    Codes of 2 and 3 bits are packed as the upper bits of 4-bit ones, of 5 and 6 bits as those of
    7-bit ones. `locate` turns (row, column) into the index shown in errors. Raises `ModelError` for
    NaN, infinity and values beyond what float16 scales reach. `error` has `relative_rmse` and `max_abs`
    of the weights and, where the quantizer knows the inputs, `relative_output_error`; each coarser depth has its own.
    """
    rows, columns = matrix.shape
    bits = quantizer.grid.bits
    blocks, groups = -(-rows // ROWS), -(-columns // GROUP)
    high = np.empty((blocks, groups, TILE_BYTES), np.uint8)
    low = np.empty_like(high) if bits > 4 else None
    size = quantizer.grid.group_size
    spans = -(-columns // size)
    scales = np.empty((blocks, spans, ROWS), np.float16)
    zeros = np.empty((blocks, spans, ROWS), np.uint8)
    coarser = [Coarser(grid.bits, np.empty_like(scales), np.empty_like(zeros)) for grid in quantizer.coarser_grids]

    def pack_slab(first: int) -> list[_Sums]:
        """Fills in the slab's blocks; the sums of each depth."""
        last = min(first + step, blocks)
        slab = np.ascontiguousarray(matrix[first * ROWS : last * ROWS], np.float32)
        if not np.abs(slab).max() <= _LARGEST_WEIGHT:
            raise _bad_value(name, matrix, locate or (lambda row, column: (row, column)))
        result = quantizer.quantize_at(first * ROWS, slab)
        codes = _tiled_codes(result, last - first)
        if low is not None:
            low[first:last] = pack_nibbles(codes & np.uint8(15))
        high[first:last] = pack_nibbles(codes >> np.uint8(4))
        scales[first:last] = _tiled(result.scales, last - first)
        zeros[first:last] = _tiled(result.zeros, last - first)
        for depth, nested in zip(coarser, result.coarser, strict=True):
            depth.scales[first:last] = _tiled(nested.scales, last - first)
            depth.zeros[first:last] = _tiled(nested.zeros, last - first)
        rows_of_sample = slice(-(first * ROWS) % stride, None, stride)
        return [_sums(slab, depth.values(), rows_of_sample, quantizer.inputs) for depth in (result, *result.coarser)]

    step = max(1, _WEIGHTS_PER_SLAB // (columns * ROWS))
    stride = max(1, rows // _SAMPLED_ROWS)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = list(pool.map(pack_slab, range(0, blocks, step)))
    error, *errors = (_error(sums, quantizer.inputs is not None) for sums in zip(*parts, strict=True))
    coarser = [dataclasses.replace(depth, error=other) for depth, other in zip(coarser, errors, strict=True)]
    width = 8 if bits == 8 else 7 if bits > 4 else 4
    return PackedTensor(name, rows, columns, width, high, low, scales, zeros, error, size, tuple(coarser))


class _Sums(NamedTuple):
    """Of some rows: squared error, squared weights, largest error, and the first two of outputs."""

    lost: float
    total: float
    largest: float
    lost_output: float
    output: float


def _sums(
    slab: npt.NDArray[np.float32], values: npt.NDArray[np.float32], sample: slice, inputs: InputStatistics | None
) -> _Sums:
    difference = slab - values
    lost, total = (float(np.square(array).sum(dtype=np.float64)) for array in (difference, slab))
    lost_output, output = (_output_power(array[sample], inputs) for array in (difference, slab))
    return _Sums(lost, total, float(np.abs(difference).max()), lost_output, output)


def _error(sums: Sequence[_Sums], outputs: bool) -> dict[str, float]:
    lost, total = sum(part.lost for part in sums), sum(part.total for part in sums)
    error = {
        "relative_rmse": math.sqrt(lost / total) if total else 0.0,
        "max_abs": max(part.largest for part in sums),
    }
    if outputs:
        lost, total = sum(part.lost_output for part in sums), sum(part.output for part in sums)
        error["relative_output_error"] = math.sqrt(lost / total) if total else 0.0
    return error


def _output_power(rows: npt.NDArray[np.float32], inputs: InputStatistics | None) -> float:
    """Sum over `rows` of the mean square of their product with the inputs."""
    if inputs is None:
        return 0.0
    if inputs.second_moment is None:
        return float((np.square(rows, dtype=np.float64) @ inputs.power).sum())
    wide = rows.astype(np.float64)
    return max(0.0, float(np.einsum("ij,ij->", wide @ inputs.second_moment, wide)))


def _tiled_codes(result: QuantizedRows, blocks: int) -> npt.NDArray[np.uint8]:
    """Codes as bytes, `[32, blocks, groups, 8]`, padded with zeros."""
    rows, columns = result.codes.shape
    groups = -(-columns // GROUP)
    codes = np.zeros((blocks * ROWS, groups * GROUP), np.uint8)
    np.left_shift(result.codes, np.uint8(8 - result.grid.bits), out=codes[:rows, :columns])
    return np.ascontiguousarray(codes.reshape(blocks, ROWS, groups, GROUP).transpose(3, 0, 2, 1))


def _tiled(parameters: npt.NDArray[Any], blocks: int) -> npt.NDArray[Any]:
    """`[rows, spans]` as `[blocks, spans, 8]`, padded with zeros."""
    rows, spans = parameters.shape
    padded = np.zeros((blocks * ROWS, spans), parameters.dtype)
    padded[:rows] = parameters
    return padded.reshape(blocks, ROWS, spans).transpose(0, 2, 1)


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
