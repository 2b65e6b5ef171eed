"""Round to nearest, group by group, after a range search.

`rtn` minimises the squared error of the weights; `irtn` weights each column by the mean square of
its input, which is the squared error of the output if inputs are uncorrelated (the diagonal of
the Hessian in "Optimal Brain Surgeon", Hassibi and Stork 1993; llama.cpp's importance matrix).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from edgec.compress.quantize.base import Floats, Inputs, QuantizedRows, Quantizer, group_ranges
from edgec.compress.quantize.search import Grid, RangeSearch, search_ranges
from edgec.compress.quantize.ternary import search_ternary

# Columns that calibration hardly saw still count a little: another text may use them.
_LEAST_IMPORTANCE = 0.01  # of the mean


class RoundToNearest(Quantizer):
    name: ClassVar[str] = "rtn"
    needs: ClassVar[Inputs] = "nothing"

    def quantize(self, rows: Floats) -> QuantizedRows:
        return round_rows(rows, self.grid, None)


class ImportanceRoundToNearest(Quantizer):
    name: ClassVar[str] = "irtn"
    needs: ClassVar[Inputs] = "power"

    def quantize(self, rows: Floats) -> QuantizedRows:
        assert self.inputs is not None
        return round_rows(rows, self.grid, importance(self.inputs.power))


def importance(power: npt.NDArray[np.float64]) -> Floats:
    """Mean squares of features as weights of mean 1, none of them zero; `[columns]`."""
    mean = float(power.mean())
    if mean <= 0:
        return np.ones(power.size, np.float32)
    weights: Floats = (power / mean + _LEAST_IMPORTANCE).astype(np.float32)
    return weights


def round_rows(rows: Floats, grid: Grid, weights: Floats | None) -> QuantizedRows:
    """Every group of `rows` `[rows, columns]` by itself; `weights` `[columns]` is the importance of each column."""
    return quantized_by_groups(rows, grid, best_ranges, weights)


def best_ranges(weights: Floats, grid: Grid, importance: Floats | None = None) -> RangeSearch:
    """Scale and zero point of groups `weights` (float32 `[k, ...]`, finite) that lose least."""
    return (search_ternary if grid.ternary else search_ranges)(weights, grid, importance)


def quantized_by_groups(
    rows: Floats,
    grid: Grid,
    ranges: Callable[[Floats, Grid, Floats | None], RangeSearch],
    weights: Floats | None = None,
) -> QuantizedRows:
    """Each group of `rows` rounded to the scale and zero point that `ranges` finds for it."""
    count, columns = rows.shape
    groups = -(-columns // grid.group_size)
    codes = np.empty((count, columns), np.uint8)
    scales = np.empty((count, groups), np.float16)
    zeros = np.empty((count, groups), np.uint8)
    for some, part, features in group_ranges(columns, grid.group_size):
        values = rows[:, part].reshape(count, -1, features).transpose(2, 0, 1)
        counted = None if weights is None else weights[part].reshape(-1, features).T[:, None, :]
        search = ranges(np.ascontiguousarray(values), grid, counted)
        found, _ = search.codes(search.scales, search.zeros)
        codes[:, part] = found.transpose(1, 2, 0).reshape(count, -1)
        scales[:, some] = search.scales
        zeros[:, some] = search.zeros
    return QuantizedRows(grid, codes, scales, zeros)


__all__ = [
    "ImportanceRoundToNearest",
    "RoundToNearest",
    "best_ranges",
    "importance",
    "quantized_by_groups",
    "round_rows",
]
