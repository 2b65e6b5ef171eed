"""GPTQ: each column's rounding error is made up for by the columns that are not rounded yet.

Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers": for the output's squared error `tr(E H E^T)`, `E` the error of the weights and `H`
the second moment of the inputs, the best change of the remaining columns after rounding column
`i` is `-e_i / U[i, i] * U[i, i:]`, `U` the upper Cholesky factor of the inverse of `H`.

Within edgec's format a group of columns shares a scale and a zero point, so groups are handled
whole, the one with the most input first, and columns within a group likewise (activation order).
A group's range is searched when its turn comes, on the weights as they then are, each column
weighted by the price of its error, `1 / U[i, i]^2`.

Then cyclic coordinate descent (Behdin et al. 2023, "QuantEase") goes over the same error: each
code by itself, then the scale and zero point of each group with codes fixed. It never gets worse.
A row keeps what rounding to nearest makes of it where that is better.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from edgec.compress.quantize.base import Floats, Inputs, InputStatistics, QuantizedRows, Quantizer, best_rows
from edgec.compress.quantize.rtn import best_ranges, importance, round_rows
from edgec.compress.quantize.search import Grid
from edgec.ir.compressed import GROUP

_DAMPING = 0.5  # of each feature's mean square: correlations count so much less
_FEW = 0.25  # more of it for each feature per vector: of few vectors, most correlations are chance
_FLOOR = 0.001  # of the mean of all features: those that calibration hardly saw still count
_DESCENTS = 1


class Gptq(Quantizer):
    name: ClassVar[str] = "gptq"
    needs: ClassVar[Inputs] = "second moment"

    def __init__(
        self,
        bits: int,
        inputs: InputStatistics | None,
        *,
        compact: bool = False,
        group_size: int = GROUP,
        flush: bool = False,
        ternary: bool = False,
    ) -> None:
        super().__init__(bits, inputs, compact=compact, group_size=group_size, flush=flush, ternary=ternary)
        assert inputs is not None and inputs.second_moment is not None
        self.hessian = damped(inputs)
        self.groups = _group_order(np.diagonal(self.hessian), group_size)
        order = np.concatenate(self.groups)
        self.factor = _inverse_factor(self.hessian, order)

    def quantize(self, rows: Floats) -> QuantizedRows:
        return self.quantize_to(self.grid, rows)

    def quantize_to(self, grid: Grid, rows: Floats) -> QuantizedRows:
        """Codes of a grid that may have other bits, with groups as large."""
        assert self.inputs is not None
        nearest = State(rows, round_rows(rows, grid, importance(self.inputs.power)), self.hessian)
        state = State(rows, self._compensated(grid, rows), self.hessian)
        for _ in range(_DESCENTS):
            state.descend()
        return best_rows(state.loss() <= nearest.loss(), state.result(), nearest.quantized)

    def _compensated(self, grid: Grid, rows: Floats) -> QuantizedRows:
        """The paper's algorithm, on columns as rows so that they are contiguous."""
        count, columns = rows.shape
        order = np.concatenate(self.groups)
        left = np.ascontiguousarray(rows.T[order])  # what is still to be represented, in the order of work
        codes = np.empty((columns, count), np.uint8)
        scales = np.empty((len(self.groups), count), np.float32)
        zeros = np.empty((len(self.groups), count), np.float32)
        start = 0
        for features in self.groups:
            stop, group = start + features.size, int(features[0]) // grid.group_size
            factor = self.factor[start:stop, start:stop]
            diagonal = np.diagonal(factor)
            part = left[start:stop]
            price = (np.square(diagonal.min() / diagonal)).astype(np.float32)
            search = best_ranges(part, grid, price[:, None])
            scales[group], zeros[group] = search.scales, search.zeros
            step, center = grid.steps(search.scales), grid.centers(search.zeros)
            inverse = np.divide(np.float32(1), step, out=np.zeros_like(step), where=step > 0)
            errors = np.empty_like(part)
            for i in range(features.size):
                code = np.clip(np.rint(part[i] * inverse + center), np.float32(0), grid.levels)
                codes[features[i]] = code
                errors[i] = (part[i] - (code - center) * step) / diagonal[i]
                part[i + 1 :] -= factor[i, i + 1 :, None] * errors[i]
            left[stop:] -= self.factor[start:stop, stop:].T @ errors
            start = stop
        return QuantizedRows(
            grid,
            np.ascontiguousarray(codes.T),
            np.ascontiguousarray(scales.T.astype(np.float16)),
            np.ascontiguousarray(zeros.T.astype(np.uint8)),
        )


def damped(inputs: InputStatistics) -> Floats:
    """The Hessian with a mean diagonal of 1, made safely positive; float32 `[columns, columns]`."""
    assert inputs.second_moment is not None
    columns = inputs.second_moment.shape[0]
    mean = float(np.trace(inputs.second_moment)) / columns
    hessian = inputs.second_moment / mean if mean > 0 else np.zeros_like(inputs.second_moment)
    damping = _DAMPING + _FEW * columns / max(inputs.count, 1)
    hessian[np.diag_indices_from(hessian)] += damping * np.diagonal(hessian) + _FLOOR if mean > 0 else 1.0
    result: Floats = hessian.astype(np.float32)
    return result


def _group_order(power: npt.NDArray[np.floating], size: int) -> list[npt.NDArray[np.int64]]:
    """The columns of each group, most input first; the groups likewise. Ties keep the order of columns."""
    columns = power.size
    groups = [np.arange(start, min(start + size, columns)) for start in range(0, columns, size)]
    groups = [group[np.argsort(-power[group], kind="stable")] for group in groups]
    return [groups[i] for i in np.argsort([-float(power[group].mean()) for group in groups], kind="stable")]


def _inverse_factor(hessian: Floats, order: npt.NDArray[np.int64]) -> Floats:
    """The upper Cholesky factor of the inverse, columns in `order`."""
    permuted = hessian[np.ix_(order, order)].astype(np.float64)
    # inv(H) = U^T U with U upper triangular: U = inv(L)^T for the factor L of the reversed matrix, reversed back.
    reversed_lower = np.linalg.cholesky(permuted[::-1, ::-1]).astype(np.float64, copy=False)
    result: Floats = np.ascontiguousarray(_invert_lower(reversed_lower)[::-1, ::-1], np.float32)
    return result


def _invert_lower(lower: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The inverse of a lower triangular matrix, by halves: three times as fast as an inverse that does not know."""
    size = lower.shape[0]
    if size <= 64:
        return np.tril(np.linalg.inv(lower))
    half = size // 2
    inverse = np.zeros_like(lower)
    first = inverse[:half, :half] = _invert_lower(lower[:half, :half])
    second = inverse[half:, half:] = _invert_lower(lower[half:, half:])
    inverse[half:, :half] = -(second @ (lower[half:, :half] @ first))
    return inverse


class State:
    """Codes and parameters of some rows, with the product of their error and the Hessian kept up to date."""

    def __init__(self, rows: Floats, quantized: QuantizedRows, hessian: Floats) -> None:
        self.quantized = quantized
        self.grid = quantized.grid
        self.hessian = hessian
        self.codes = np.ascontiguousarray(quantized.codes.T).astype(np.float32)  # [columns, rows]
        self.scales = np.ascontiguousarray(quantized.scales.T).astype(np.float32)  # [groups, rows]
        self.zeros = np.ascontiguousarray(quantized.zeros.T).astype(np.float32)
        self.error = rows.T - quantized.values().T
        self.gradient = hessian @ self.error

    def loss(self) -> npt.NDArray[np.float64]:
        """The squared error of each row's output."""
        loss: npt.NDArray[np.float64] = np.einsum("kr,kr->r", self.error, self.gradient, dtype=np.float64)
        return loss

    def descend(self, *, keep_codes: bool = False) -> None:
        """Once over all groups: codes, then scale and zero point; these alone with `keep_codes`."""
        columns, size = self.codes.shape[0], self.grid.group_size
        for group, start in enumerate(range(0, columns, size)):
            part = slice(start, min(start + size, columns))
            before = self.error[part].copy()
            if not keep_codes:
                self._descend_codes(group, part)
            self.refit(group, part)
            self.spread(part, self.error[part] - before)

    def spread(self, part: slice, change: Floats) -> None:
        """Bring the gradient up to date with a change of the errors of `part`, within which it is already."""
        self.gradient[: part.start] += self.hessian[: part.start, part] @ change
        self.gradient[part.stop :] += self.hessian[part.stop :, part] @ change

    def _descend_codes(self, group: int, part: slice) -> None:
        step = self.grid.steps(self.scales[group])
        inverse = np.divide(np.float32(1), step, out=np.zeros_like(step), where=step > 0)
        block = self.hessian[part, part]
        codes, error, gradient = self.codes[part], self.error[part], self.gradient[part]
        for i in range(codes.shape[0]):
            # The error that is best for this column alone is what it has less gradient / curvature.
            moved = np.rint(codes[i] + gradient[i] * (inverse / block[i, i]))
            np.clip(moved, np.float32(0), self.grid.levels, out=moved)
            change = (codes[i] - moved) * step
            codes[i] = moved
            error[i] += change
            gradient += block[:, i, None] * change

    def refit(self, group: int, part: slice) -> None:
        """The least-squares scale and zero point for the group's codes, where they are better as stored."""
        codes, gradient, block = self.codes[part], self.gradient[part], self.hessian[part, part]
        curved = block @ codes
        ones = block.sum(axis=1)
        cc = np.einsum("kr,kr->r", codes, curved)
        c1 = curved.sum(axis=0)
        one = float(ones.sum())
        gc, g1 = np.einsum("kr,kr->r", codes, gradient), gradient.sum(axis=0)
        old_step, old_center = self.grid.steps(self.scales[group]), self.grid.centers(self.zeros[group])
        fixed = self.grid.ternary  # the zero point is no choice then, and codes count from it
        if fixed:
            cc, gc = cc - 2 * old_center * c1 + old_center * old_center * one, gc - old_center * g1
            c1, g1 = np.zeros_like(c1), np.zeros_like(g1)
        # value = step * code - offset; the change (ds, do) solves [cc -c1; -c1 one] (ds, do) = (gc, -g1).
        with np.errstate(divide="ignore", invalid="ignore"):
            determinant = cc * one - c1 * c1
            step = old_step + (gc * one - c1 * g1) / determinant
            offset = old_step * old_center + (c1 * gc - cc * g1) / determinant
            usable = np.isfinite(step) & (step > 0) & np.isfinite(offset) & (self.scales[group] > 0)
            usable &= determinant > 1e-6 * cc * one
            scales = self.grid.storable_scales(np.where(usable, step, old_step))
            steps = self.grid.steps(scales)
            zeros = self.grid.storable_zeros(np.where(usable, offset / steps, np.float32(0)))
        usable &= scales > 0
        change = (codes - old_center) * old_step - (codes - self.grid.centers(zeros)) * steps  # of the error
        difference = 2 * np.einsum("kr,kr->r", change, gradient) + np.einsum("kr,kr->r", change, block @ change)
        better = usable & (difference < 0)
        change *= better
        self.scales[group] = np.where(better, scales, self.scales[group])
        self.zeros[group] = np.where(better, zeros, self.zeros[group])
        self.error[part] += change
        gradient += block @ change

    def result(self) -> QuantizedRows:
        return QuantizedRows(
            self.grid,
            np.ascontiguousarray(self.codes.T).astype(np.uint8),
            np.ascontiguousarray(self.scales.T).astype(np.float16),
            np.ascontiguousarray(self.zeros.T).astype(np.uint8),
        )


__all__ = ["Gptq", "State", "damped"]
