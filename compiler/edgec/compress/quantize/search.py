"""Scale and zero point of each group, by a search for the range that loses the least.

A group has one scale and one zero point (`edgec/ir/compressed.py`). The plain choice maps the
group's minimum and maximum to the lowest and highest code. Three kinds of candidates beat it:

* slightly narrower and wider ranges, placed so that the group's values meet the codes better;
* whole numbers of levels below the full range, which put weights that were quantized before
  (Q4_0, Q4_1, Q4_K) back on their old grid when a group does not use all of its codes;
* the least-squares scale and zero point for the codes of the best candidate so far.

Every candidate is judged by its squared error, each feature's times its importance, after its
scale was rounded to float16 and its zero point to an integer: what is stored is what was measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.ir.compressed import GROUP, LARGEST_CODE

Floats = npt.NDArray[np.float32]

# (levels, cut): the group's range is spread over so many levels; of what that cuts off (levels
# above 15 at 4 bits) or leaves over (below), the share `cut` falls on the low end. Whole levels
# with all slack at the high end are old grids; the rest was chosen greedily, out of 9..26 levels
# by halves and cuts by quarters, for the mean error over Gaussian, Laplacian, Student-t and
# uniform groups: 1% above a search through all of them.
_CANDIDATES_4 = (
    (15.0, 0.0),
    (14.0, 0.0),
    (13.0, 0.0),
    (12.0, 0.0),
    (11.0, 0.0),
    (10.0, 0.0),
    (14.0, 0.25),
    (14.0, 0.75),
    (14.5, 0.0),
    (14.5, 0.25),
    (14.5, 0.75),
    (14.5, 1.0),
    (15.5, 0.25),
    (15.5, 0.5),
    (15.5, 0.75),
    (16.0, 0.25),
    (16.0, 0.75),
)
# The same for more bits, where little is to be won, as differences to the number of levels.
_CANDIDATES_FINE = ((0.0, 0.0), (-1.0, 0.5), (-0.5, 0.25), (0.5, 0.5), (1.0, 0.25), (1.0, 0.75))
# With few levels much is cut off: ranges of up to 5/3 as many levels, by cuts.
_CANDIDATES_COARSE = {
    2: tuple((levels, cut) for levels in (2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0) for cut in (0.0, 0.25, 0.5, 0.75, 1.0)),
    3: tuple((levels, cut) for levels in (6.0, 6.5, 7.0, 7.5, 8.0, 8.5, 9.0) for cut in (0.0, 0.25, 0.5, 0.75, 1.0)),
}
# Compact scales are so far apart that all those near the full range are candidates.
_COMPACT_STEPS = (-8, -6, -4, -2, -1, 0, 1, 2)
_COMPACT_CUTS = (0.0, 0.25, 0.5, 0.75, 1.0)
_REFITS = 2
_LARGEST_SCALE = float(np.finfo(np.float16).max)
# Codes of float16: compact scales have 4 bits of exponent and 4 of mantissa, and lie between these.
_COMPACT, _SMALLEST_COMPACT, _LARGEST_COMPACT = 0x0040, 0x0400, 0x3FC0


@dataclass(frozen=True)
class Grid:
    """What a code of `bits` bits means: `value = scale * (code * 2^(8 - bits) - zero) / 16`.

    If `compact`, scales have 4 bits of exponent and 4 of mantissa, and zero points of codes of 2 and 3 bits are
    multiples of 16, so that a bundle stores 8 and 4 bits of them (`edgec/ir/narrow.py`). Scales below 2^-14 stay as
    they are then, unless `flush` makes multiples of 2^-18 of them. If `ternary`, codes of 2 bits are 0, 1 and 2, and 1
    means zero.
    """

    bits: int  # 2 to 8
    compact: bool = False
    group_size: int = GROUP  # columns that share a scale and a zero point
    flush: bool = False
    ternary: bool = False

    @property
    def levels(self) -> np.float32:
        """The highest code."""
        if self.ternary:
            return np.float32(2)
        return np.float32(LARGEST_CODE[self.bits])

    @property
    def step_divisor(self) -> np.float32:
        """Codes count steps of `scale / step_divisor`."""
        return np.float32(2.0 ** (self.bits - 4))

    @property
    def zero_divisor(self) -> np.float32:
        """Zero points count steps of `1 / zero_divisor` of a code."""
        return np.float32(1 << (8 - self.bits))

    def storable_scales(self, steps: npt.NDArray[np.floating[Any]]) -> Floats:
        """The scales, rounded to what float16 holds, of steps from one code to the next."""
        wanted = np.minimum(steps * self.step_divisor, np.float32(_LARGEST_SCALE)).astype(np.float16)
        if self.compact:
            codes = wanted.view(np.uint16)
            rounded = np.minimum(
                codes + np.uint16(_COMPACT // 2) & np.uint16(-_COMPACT & 0xFFFF), np.uint16(_LARGEST_COMPACT)
            )
            # Those outside of the range of 8 bits stay as they are, and are stored whole.
            wanted = np.where((codes >= self._smallest) & (codes <= _LARGEST_COMPACT), rounded, codes).view(np.float16)
        scales: Floats = wanted.astype(np.float32)
        return scales

    def next_scales(self, scales: Floats, steps: int) -> Floats:
        """Compact scales so many places further on; those that are not compact stay."""
        codes = scales.astype(np.float16).view(np.uint16).astype(np.int32)
        inside = (codes >= self._smallest) & (codes <= _LARGEST_COMPACT)
        moved = np.clip(codes + _COMPACT * steps, self._smallest, _LARGEST_COMPACT)
        found: Floats = np.where(inside, moved, codes).astype(np.uint16).view(np.float16).astype(np.float32)
        return found

    @property
    def _smallest(self) -> int:
        return 0 if self.flush else _SMALLEST_COMPACT

    def storable_zeros(self, zero_codes: npt.NDArray[np.floating[Any]]) -> Floats:
        """Zero points as stored for the (fractional) codes that mean zero; on a ternary grid there is one only."""
        if self.ternary:
            return np.full(zero_codes.shape, self.zero_divisor, np.float32)
        unit = np.float32(16 if self.compact and self.bits <= 3 else 1)
        zeros: Floats = (np.rint(zero_codes * (self.zero_divisor / unit)) * unit).astype(np.float32)
        return np.clip(zeros, np.float32(0), np.float32(256) - unit, out=zeros)

    def steps(self, scales: npt.NDArray[Any]) -> Floats:
        """The difference of two neighbouring codes' values."""
        steps: Floats = scales.astype(np.float32) / self.step_divisor
        return steps

    def centers(self, zeros: npt.NDArray[Any]) -> Floats:
        """The (fractional) code that means zero."""
        centers: Floats = zeros.astype(np.float32) / self.zero_divisor
        return centers


class RangeSearch:
    """Candidate by candidate, keeps the best scale and zero point of each group.

    `weights` float32 `[k, ...]` holds the features of a group along the first axis; `importance`,
    of a shape that broadcasts to it, is what a squared error of each feature costs.
    """

    def __init__(self, weights: Floats, grid: Grid, importance: Floats | None = None) -> None:
        self.weights = weights
        self.grid = grid
        self.importance = importance
        self._scaled = np.empty_like(weights)
        self._codes = np.empty_like(weights)
        # The start is the all-zero group: scale 0, and all of the weights are lost.
        np.square(weights, out=self._scaled)
        self.error = self._sum(self._scaled)
        self.scales = np.zeros(weights.shape[1:], np.float32)
        self.zeros = np.zeros(weights.shape[1:], np.float32)

    def codes(self, scales: Floats, zeros: Floats) -> tuple[Floats, Floats]:
        """Codes as floats and the values in units of steps, both `[k, ...]`, valid until the next call."""
        with np.errstate(divide="ignore"):
            inverse = np.where(scales > 0, self.grid.step_divisor / scales, np.float32(0))
        np.multiply(self.weights, inverse, out=self._scaled)
        np.add(self._scaled, self.grid.centers(zeros), out=self._scaled)
        np.rint(self._scaled, out=self._codes)
        np.clip(self._codes, np.float32(0), self.grid.levels, out=self._codes)
        return self._codes, self._scaled

    def offer_range(self, low: Floats, high: Floats, scales: Floats, cut: float) -> None:
        """Offer storable `scales` for `high - low`, `cut` of the difference to all codes at the low end."""
        steps = np.where(scales > 0, self.grid.steps(scales), np.float32(1))
        # The zero point follows from the scale as stored, which matters where float16 is coarse.
        slack = (high - low) / steps - self.grid.levels
        self.offer(scales, self.grid.storable_zeros(-low / steps - np.float32(cut) * slack))

    def offer(self, scales: Floats, zeros: Floats) -> None:
        """Judge one candidate per group, its scale and zero point as they are stored."""
        codes, scaled = self.codes(scales, zeros)
        np.subtract(scaled, codes, out=scaled)
        np.square(scaled, out=scaled)
        error = self._sum(scaled) * np.square(self.grid.steps(scales))
        better = (error < self.error) & (scales > 0)
        np.copyto(self.error, error, where=better)
        np.copyto(self.scales, scales, where=better)
        np.copyto(self.zeros, zeros, where=better)

    def offer_refit(self) -> None:
        """Offer the least-squares scale and zero point for the codes of the best candidate."""
        codes, scaled = self.codes(self.scales, self.zeros)
        importance = self.importance
        if importance is None:
            count: Any = np.float32(codes.shape[0])
            sum_q, sum_w = codes.sum(axis=0), self.weights.sum(axis=0)
        else:
            count = np.broadcast_to(importance, codes.shape).sum(axis=0)
            np.multiply(codes, importance, out=scaled)
            sum_q = scaled.sum(axis=0)
            np.multiply(self.weights, importance, out=scaled)
            sum_w = scaled.sum(axis=0)
        np.square(codes, out=scaled)
        sum_qq = self._sum(scaled)
        np.multiply(codes, self.weights, out=scaled)
        sum_qw = self._sum(scaled)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = (count * sum_qw - sum_q * sum_w) / (count * sum_qq - sum_q * sum_q)
            zero_code = (sum_q * step - sum_w) / (count * step)
            usable = np.isfinite(step) & (step > 0) & np.isfinite(zero_code)
            # The zero point is rounded and clipped, so fit the scale again to what is left of it.
            zeros = self.grid.storable_zeros(np.where(usable, zero_code, np.float32(0)))
            center = self.grid.centers(zeros)
            step = (sum_qw - center * sum_w) / (sum_qq - 2 * center * sum_q + count * center * center)
        usable &= np.isfinite(step) & (step > 0)
        self.offer(self.grid.storable_scales(np.where(usable, step, np.float32(0))), zeros)

    def _sum(self, values: Floats) -> Floats:
        """Over the features, each times its importance; changes `values`."""
        if self.importance is not None:
            np.multiply(values, self.importance, out=values)
        total: Floats = values.sum(axis=0)
        return total


def search_ranges(weights: Floats, grid: Grid, importance: Floats | None = None) -> RangeSearch:
    """The best of all candidates for groups `weights` (float32 `[k, ...]`, finite)."""
    # Zero must have a code between the ends, or the zero point would not fit its byte.
    low = np.minimum(weights.min(axis=0), np.float32(0))
    high = np.maximum(weights.max(axis=0), np.float32(0))
    search = RangeSearch(weights, grid, importance)
    if grid.compact:
        nearest = grid.storable_scales((high - low) / grid.levels)
        for steps in _COMPACT_STEPS:
            for cut in _COMPACT_CUTS:
                search.offer_range(low, high, grid.next_scales(nearest, steps), cut)
    else:
        for levels, cut in _candidates(grid.bits):
            search.offer_range(low, high, grid.storable_scales((high - low) / np.float32(levels)), cut)
    for _ in range(_REFITS):
        search.offer_refit()
    return search


def _candidates(bits: int) -> tuple[tuple[float, float], ...]:
    if bits == 4:
        return _CANDIDATES_4
    if bits in _CANDIDATES_COARSE:
        return _CANDIDATES_COARSE[bits]
    return tuple((LARGEST_CODE[bits] + difference, cut) for difference, cut in _CANDIDATES_FINE)


__all__ = ["Grid", "RangeSearch", "search_ranges"]
