"""Weights that were quantized before: their codes are found again, so that nothing is lost a second time.

In a group all values are whole steps away from zero, and zero is a code. The largest number of steps
from the lowest to the highest value, zero among them, that leaves no error is a grid of the group, the stored one or
(if all of its codes share a divisor) a coarser one.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from edgec.compress.quantize.base import Floats, Inputs, QuantizedRows, Quantizer
from edgec.compress.quantize.rtn import quantized_by_groups
from edgec.compress.quantize.search import Grid, RangeSearch
from edgec.compress.quantize.ternary import search_ternary


class StoredGrid(Quantizer):
    name: ClassVar[str] = "grid"
    needs: ClassVar[Inputs] = "nothing"

    def quantize(self, rows: Floats) -> QuantizedRows:
        return quantized_by_groups(rows, self.grid, _search)


def _search(weights: Floats, grid: Grid, importance: Floats | None) -> RangeSearch:
    low = np.minimum(weights.min(axis=0), np.float32(0))
    high = np.maximum(weights.max(axis=0), np.float32(0))
    if grid.ternary:
        return search_ternary(weights, grid)
    search = RangeSearch(weights, grid, importance)
    for levels in range(int(grid.levels), 0, -1):
        search.offer_range(low, high, grid.storable_scales((high - low) / np.float32(levels)), 0.0)
    return search


__all__ = ["StoredGrid"]
