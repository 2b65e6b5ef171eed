"""Ternary groups: the scale for which weights -1, 0, 1 lose least, found without a search.

Li and Liu 2016, "Ternary Weight Networks" (arXiv 1605.04711): with a threshold, weights above it become the scale, the
mean of their magnitudes, and the others zero. The best threshold follows from the magnitudes in descending order: of
the first `k`, with importances `a`, the scale is `sum(a |w|) / sum(a)`, and the squared error falls by
`sum(a |w|)^2 / sum(a)`, so that all `k` are judged by two running sums. (The paper takes 0.7 of the mean magnitude for
the threshold, which is near it for Gaussian weights.) Importances move the scale; the threshold is half of it anyway.

GPTQ takes this for its groups in turn, prices as importances; its descent then alternates codes and scale.
"""

from __future__ import annotations

import numpy as np

from edgec.compress.quantize.search import Floats, Grid, RangeSearch

_NEIGHBOURS = (-1, 0, 1)  # of the best scale, among those that can be stored


def search_ternary(weights: Floats, grid: Grid, importance: Floats | None = None) -> RangeSearch:
    """The best scale of groups `weights` (float32 `[k, ...]`, finite) on a ternary grid."""
    size = np.abs(weights)
    order = np.argsort(-size, axis=0, kind="stable")
    counted = np.broadcast_to(np.float32(1) if importance is None else importance, size.shape)
    counted = np.take_along_axis(counted, order, axis=0)
    sums = np.cumsum(np.take_along_axis(size, order, axis=0) * counted, axis=0, dtype=np.float64)
    counts = np.cumsum(counted, axis=0, dtype=np.float64)
    best = np.argmax(np.square(sums) / counts, axis=0)[None]
    steps = np.take_along_axis(sums / counts, best, axis=0)[0]
    search = RangeSearch(weights, grid, importance)
    scales = grid.storable_scales(steps)
    zeros = search.zeros = grid.storable_zeros(np.ones_like(scales))  # also where all weights are zero
    for number in _NEIGHBOURS if grid.compact else (0,):
        search.offer(grid.next_scales(scales, number) if number else scales, zeros)
    return search


__all__ = ["search_ternary"]
