"""Round to nearest, group by group, with a search for the range that loses the least.

A group has one scale and one zero point (`edgec/ir/compressed.py`). The plain choice maps the
group's minimum and maximum to the lowest and highest code. Three kinds of candidates beat it:

* slightly narrower and wider ranges, placed so that the group's values meet the codes better;
* whole numbers of levels below the full range, which put weights that were quantized before
  (Q4_0, Q4_1, Q4_K) back on their old grid when a group does not use all of its codes;
* the least-squares scale and zero point for the codes of the best candidate so far.

Every candidate is judged by its squared error after its scale was rounded to float16 and its
zero point to an integer, so what is stored is what was measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.ir.compressed import LARGEST_CODE

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
# The same for 6 to 8 bits, where little is to be won, as differences to the number of levels.
_CANDIDATES_FINE = ((0.0, 0.0), (-1.0, 0.5), (-0.5, 0.25), (0.5, 0.5), (1.0, 0.25), (1.0, 0.75))
_REFITS = 2
_LARGEST_SCALE = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class QuantizedGroups:
    """Codes of `n` groups of `k` features each, and what they lose."""

    codes: npt.NDArray[np.uint8]  # [k, n]
    scales: npt.NDArray[np.float16]  # [n]
    zeros: npt.NDArray[np.uint8]  # [n]
    squared_error: float  # sum over all values
    max_abs: float  # largest error of one value


class _Search:
    """Candidate by candidate, keeps the best scale and zero point of each group."""

    def __init__(self, weights: Floats, bits: int) -> None:
        self.weights = weights
        self.levels = float(LARGEST_CODE[bits])
        # Codes count steps of scale / step_divisor; zero points are in 1/16 of a 4-bit step.
        self.step_divisor = np.float32(1 << (bits - 4))
        self.zero_divisor = np.float32(1 << (8 - bits))
        self._scaled = np.empty_like(weights)
        self._codes = np.empty_like(weights)
        # The start is the all-zero group: scale 0, and all of the weights are lost.
        np.square(weights, out=self._scaled)
        self.error = self._scaled.sum(axis=0)
        self.scales = np.zeros(weights.shape[1], np.float32)
        self.zeros = np.zeros(weights.shape[1], np.float32)

    def codes(self, scales: Floats, zeros: Floats) -> tuple[Floats, Floats]:
        """Codes as floats and the values in units of steps, both `[k, n]`, valid until the next call."""
        with np.errstate(divide="ignore"):
            inverse = np.where(scales > 0, self.step_divisor / scales, np.float32(0))
        np.multiply(self.weights, inverse, out=self._scaled)
        np.add(self._scaled, zeros / self.zero_divisor, out=self._scaled)
        np.rint(self._scaled, out=self._codes)
        np.clip(self._codes, np.float32(0), np.float32(self.levels), out=self._codes)
        return self._codes, self._scaled

    def offer_range(self, low: Floats, high: Floats, levels: float, cut: float) -> None:
        """Offer `high - low` spread over `levels` codes, `cut` of the difference to all codes at the low end."""
        scales = _storable((high - low) * (self.step_divisor / np.float32(levels)))
        steps = np.where(scales > 0, scales / self.step_divisor, np.float32(1))
        # The zero point follows from the scale as stored, which matters where float16 is coarse.
        slack = (high - low) / steps - np.float32(self.levels)
        self.offer(scales, self._zeros(-low / steps - np.float32(cut) * slack))

    def _zeros(self, zero_codes: npt.NDArray[np.floating[Any]]) -> Floats:
        """Zero points as stored for the (fractional) codes that mean zero."""
        zeros: Floats = np.rint(zero_codes * self.zero_divisor).astype(np.float32)
        return np.clip(zeros, np.float32(0), np.float32(255), out=zeros)

    def offer(self, scales: Floats, zeros: Floats) -> None:
        """Judge one candidate per group, its scale and zero point as they are stored."""
        codes, scaled = self.codes(scales, zeros)
        np.subtract(scaled, codes, out=scaled)
        np.square(scaled, out=scaled)
        error = scaled.sum(axis=0) * np.square(scales / self.step_divisor)
        better = (error < self.error) & (scales > 0)
        np.copyto(self.error, error, where=better)
        np.copyto(self.scales, scales, where=better)
        np.copyto(self.zeros, zeros, where=better)

    def offer_refit(self) -> None:
        """Offer the least-squares scale and zero point for the codes of the best candidate."""
        codes, scaled = self.codes(self.scales, self.zeros)
        count = np.float32(codes.shape[0])
        sum_q = codes.sum(axis=0)
        np.square(codes, out=scaled)
        sum_qq = scaled.sum(axis=0)
        np.multiply(codes, self.weights, out=scaled)
        sum_qw = scaled.sum(axis=0)
        sum_w = self.weights.sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = (count * sum_qw - sum_q * sum_w) / (count * sum_qq - sum_q * sum_q)
            zero_code = (sum_q * step - sum_w) / (count * step)
            usable = np.isfinite(step) & (step > 0) & np.isfinite(zero_code)
            # The zero point is rounded and clipped, so fit the scale again to what is left of it.
            zeros = self._zeros(np.where(usable, zero_code, np.float32(0)))
            center = zeros / self.zero_divisor
            step = (sum_qw - center * sum_w) / (sum_qq - 2 * center * sum_q + count * center * center)
        usable &= np.isfinite(step) & (step > 0)
        self.offer(_storable(np.where(usable, step, np.float32(0)) * self.step_divisor), zeros)


def _candidates(bits: int) -> tuple[tuple[float, float], ...]:
    if bits == 4:
        return _CANDIDATES_4
    return tuple((LARGEST_CODE[bits] + difference, cut) for difference, cut in _CANDIDATES_FINE)


def _storable(scales: Floats) -> Floats:
    """Scales rounded to what float16 holds."""
    return np.minimum(scales, np.float32(_LARGEST_SCALE)).astype(np.float16).astype(np.float32)


def quantize_groups(weights: Floats, bits: int) -> QuantizedGroups:
    """Quantize the columns of `weights` (float32 `[k, n]`, finite, k <= 32) to 4, 6, 7 or 8 bits."""
    # Zero must have a code between the ends, or the zero point would not fit its byte.
    low = np.minimum(weights.min(axis=0), np.float32(0))
    high = np.maximum(weights.max(axis=0), np.float32(0))
    search = _Search(weights, bits)
    for levels, cut in _candidates(bits):
        search.offer_range(low, high, levels, cut)
    for _ in range(_REFITS):
        search.offer_refit()
    codes, scaled = search.codes(search.scales, search.zeros)
    np.subtract(scaled, codes, out=scaled)
    np.multiply(scaled, search.scales / search.step_divisor, out=scaled)
    lost = np.where(search.scales > 0, np.abs(scaled).max(axis=0), np.maximum(high, -low))
    return QuantizedGroups(
        codes.astype(np.uint8),
        search.scales.astype(np.float16),
        search.zeros.astype(np.uint8),
        float(search.error.sum(dtype=np.float64)),
        float(lost.max(initial=0)),
    )


__all__ = ["QuantizedGroups", "quantize_groups"]
