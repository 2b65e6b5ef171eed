"""HQQ: half-quadratic quantization, which needs no calibration data.

Badri and Shaji 2023, "Half-Quadratic Quantization of Large Machine Learning Models": with the
scale fixed, the zero point minimises a norm `|w - value|^p` with p < 1, which lets a few outliers
keep a large error where that spares all others. Split into two quadratic halves by an extra
variable `e` for the error, each step has a closed form: `e` is the error shrunk towards zero, the
zero point the mean of what then is left. The start is the range search's scale and zero point.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from edgec.compress.quantize.base import Floats, Inputs, QuantizedRows, Quantizer, group_ranges
from edgec.compress.quantize.rtn import round_rows

_NORM = 0.7  # p; it and the two below are the paper's
_STEPS = 20
_FIRST_BETA, _GROWTH = 10.0, 1.01


class HalfQuadratic(Quantizer):
    name: ClassVar[str] = "hqq"
    needs: ClassVar[Inputs] = "nothing"

    def quantize(self, rows: Floats) -> QuantizedRows:
        start = round_rows(rows, self.grid, None)
        codes, zeros = start.codes.copy(), start.zeros.copy()
        for some, part, features in group_ranges(rows.shape[1], self.grid.group_size):
            shape = (rows.shape[0], -1, features)
            found = self._refine(rows[:, part].reshape(shape), start.scales[:, some], start.zeros[:, some])
            codes[:, part] = found[0].reshape(rows.shape[0], -1)
            zeros[:, some] = found[1]
        return QuantizedRows(self.grid, codes, start.scales, zeros)

    def _refine(
        self, weights: Floats, scales: npt.NDArray[np.float16], zeros: npt.NDArray[np.uint8]
    ) -> tuple[Floats, Floats]:
        """Codes `[rows, groups, features]` and zero points `[rows, groups]` of the least mean of |error|^p."""
        steps = self.grid.steps(scales)[..., None]
        usable = steps > 0
        scaled = np.divide(weights, steps, out=np.zeros_like(weights), where=usable)
        best_zeros = zeros.astype(np.float32)
        best_codes, errors = self._round(scaled, best_zeros)
        best = self._norm(errors, steps)
        center = self.grid.centers(zeros)[..., None]
        beta = _FIRST_BETA
        for _ in range(_STEPS):
            codes = np.clip(np.rint(scaled + center), np.float32(0), self.grid.levels)
            error = _shrink((scaled - (codes - center)) * steps, beta)
            kept = np.divide(error, steps, out=np.zeros_like(error), where=usable)
            center = (codes - scaled + kept).mean(axis=2, keepdims=True)
            beta *= _GROWTH
            candidate = self.grid.storable_zeros(center[..., 0])
            codes, errors = self._round(scaled, candidate)
            loss = self._norm(errors, steps)
            better = loss < best
            best = np.where(better, loss, best)
            best_zeros = np.where(better, candidate, best_zeros)
            best_codes = np.where(better[..., None], codes, best_codes)
        return best_codes, best_zeros

    def _round(self, scaled: Floats, zeros: Floats) -> tuple[Floats, Floats]:
        """Codes with zero points as stored, and their errors in steps."""
        center = self.grid.centers(zeros)[..., None]
        codes = np.clip(np.rint(scaled + center), np.float32(0), self.grid.levels)
        return codes, scaled - (codes - center)

    def _norm(self, errors: Floats, steps: Floats) -> Floats:
        norm: Floats = np.power(np.abs(errors * steps), np.float32(_NORM)).mean(axis=2)
        return norm


def _shrink(error: Floats, beta: float) -> Floats:
    """The generalised soft threshold: the minimum over e of |e|^p + beta / 2 (e - error)^2, as the paper has it."""
    size = np.abs(error)
    with np.errstate(divide="ignore"):
        threshold = np.power(size, np.float32(_NORM - 1)) / np.float32(beta)
    shrunk: Floats = np.sign(error) * np.maximum(size - threshold, np.float32(0))
    return shrunk


__all__ = ["HalfQuadratic"]
