"""Nested planes: codes of 4 bits whose upper 3 or 2 bits are codes of the same matrix, too.

Each depth has scales and zero points of its own, so that its values are as good as its codes allow; only the codes are
shared. (Park et al. 2024, "Any-Precision LLM", and Nair et al. 2025, "Matryoshka Quantization", share codes likewise.)

The errors of all depths are made small together, each as a multiple of what GPTQ (`gptq.py`) leaves of it with that
depth's codes alone. GPTQ for all depths gives each column the code whose errors sum to the least, and every depth's
remaining columns make up for its own error. Coordinate descent on the same sum follows, from there and from the codes
of each depth alone, and a fit of each depth's scales and zero points.

Rows that lie on a grid already, because they were quantized before, keep their codes: at all bits they lose next to
nothing, which no better coarser codes are worth. The coarser depths are fitted to them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from edgec.compress.quantize.base import Floats, Inputs, InputStatistics, QuantizedRows, best_rows, spread
from edgec.compress.quantize.gptq import Gptq, State
from edgec.compress.quantize.rtn import best_ranges
from edgec.compress.quantize.search import Grid
from edgec.ir.compressed import GROUP

_DESCENTS = 8
_FITS = 12  # of scales and zero points to codes that no longer change
_ON_GRID = 0.05  # of the error that rounding makes by chance: a row with less was rounded before

Weights = list[Floats]  # of each depth, `[rows]`: what its squared error counts


class Nested(Gptq):
    """`coarser` has the bits of the coarser codes, below `bits`, in descending order."""

    name: ClassVar[str] = "nested"
    needs: ClassVar[Inputs] = "second moment"

    def __init__(
        self,
        bits: int,
        inputs: InputStatistics | None,
        *,
        coarser: Sequence[int] = (),
        compact: bool = False,
        group_size: int = GROUP,
        flush: bool = False,
    ) -> None:
        super().__init__(bits, inputs, compact=compact, group_size=group_size, flush=flush)
        self.coarser_grids = tuple(dataclasses.replace(self.grid, bits=depth) for depth in coarser)
        self.grids = (self.grid, *self.coarser_grids)

    def quantize(self, rows: Floats) -> QuantizedRows:
        finest = State(rows, self.quantize_to(self.grid, rows), self.hessian)
        kept = _on_grid(finest)
        if kept.all():
            return self._kept(rows, finest.quantized)
        together = self._together(rows, finest)
        return best_rows(kept, self._kept(rows, finest.quantized), together) if kept.any() else together

    def _kept(self, rows: Floats, finest: QuantizedRows) -> QuantizedRows:
        """The codes stay as they are, coarser depths are fitted to them."""
        coarser = (_fitted(State(rows, depth, self.hessian)) for depth in self._around(rows, finest)[1:])
        return dataclasses.replace(finest, coarser=tuple(coarser))

    def _together(self, rows: Floats, finest: State) -> QuantizedRows:
        """Codes for all depths, begun with all together and with each depth alone: the best for each row."""
        coarser = (State(rows, self.quantize_to(grid, rows), self.hessian) for grid in self.coarser_grids)
        alone = [finest, *coarser]
        losses = [state.loss() for state in alone]
        weights = [
            np.divide(losses[0], loss, out=np.zeros_like(loss), where=loss > 0).astype(np.float32) for loss in losses
        ]
        best, least = self._descended(rows, self._compensated_together(rows, weights), weights)
        for state in alone:
            other, loss = self._descended(rows, self._around(rows, state.quantized), weights)
            best, least = best_rows(loss < least, other, best), np.minimum(loss, least)
        return best

    def _descended(
        self, rows: Floats, start: list[QuantizedRows], weights: Weights
    ) -> tuple[QuantizedRows, npt.NDArray[np.float64]]:
        """What coordinate descent makes of a code for all depths, and the weighted loss of each row."""
        states = [State(rows, depth, self.hessian) for depth in start]
        for _ in range(_DESCENTS):
            _descend(states, weights)
        finest, *coarser = map(_fitted, states)
        loss = np.sum([weight * state.loss() for weight, state in zip(weights, states, strict=True)], axis=0)
        return dataclasses.replace(finest, coarser=tuple(coarser)), loss

    def _around(self, rows: Floats, alone: QuantizedRows) -> list[QuantizedRows]:
        """Codes of all depths from those of one: their upper bits, or of all that have them the nearest to the rows."""
        step, center = alone.grid.steps(alone.scales), alone.grid.centers(alone.zeros)
        parameters = [_aligned(step, center, alone.grid, grid) for grid in self.grids]
        more = self.grid.bits - alone.grid.bits
        lowest = alone.codes << np.uint8(more)
        (scales, zeros), columns = parameters[0], rows.shape[1]
        steps = spread(self.grid.steps(scales), columns, self.grid.group_size)
        wanted = np.divide(rows, steps, out=np.zeros_like(rows), where=steps > 0)
        wanted += spread(self.grid.centers(zeros), columns, self.grid.group_size)
        codes = np.clip(np.rint(wanted), lowest, lowest + np.uint8((1 << more) - 1)).astype(np.uint8)
        return [
            QuantizedRows(
                grid, codes >> np.uint8(self.grid.bits - grid.bits), scales.astype(np.float16), zeros.astype(np.uint8)
            )
            for grid, (scales, zeros) in zip(self.grids, parameters, strict=True)
        ]

    def _compensated_together(self, rows: Floats, weights: Weights) -> list[QuantizedRows]:
        """One for each depth."""
        count, columns = rows.shape
        order = np.concatenate(self.groups)
        lefts = [np.ascontiguousarray(rows.T[order]) for _ in self.grids]  # what each depth still has to represent
        codes = np.empty((columns, count), np.uint8)
        parameters = [np.empty((2, len(self.groups), count), np.float32) for _ in self.grids]
        start = 0
        for features in self.groups:
            stop, group = start + features.size, int(features[0]) // self.grid.group_size
            factor = self.factor[start:stop, start:stop]
            diagonal = np.diagonal(factor)
            parts = [left[start:stop] for left in lefts]
            price = np.square(diagonal.min() / diagonal).astype(np.float32)[:, None]
            found = _common_grid(parts, self.grids, price, weights)
            for depth, kept in zip(found, parameters, strict=True):
                kept[:, group] = depth
            tables = [_table(grid, *depth) for grid, depth in zip(self.grids, found, strict=True)]
            errors = [np.empty_like(part) for part in parts]
            for i in range(features.size):
                codes[features[i]] = code = _best_codes([part[i] for part in parts], tables, weights)
                for grid, part, table, error in zip(self.grids, parts, tables, errors, strict=True):
                    error[i] = (part[i] - _meaning(table, code, self.grid.bits - grid.bits)) / diagonal[i]
                    part[i + 1 :] -= factor[i, i + 1 :, None] * error[i]
            for left, error in zip(lefts, errors, strict=True):
                left[stop:] -= self.factor[start:stop, stop:].T @ error
            start = stop
        return [
            QuantizedRows(
                grid,
                np.ascontiguousarray(codes.T >> np.uint8(self.grid.bits - grid.bits)),
                np.ascontiguousarray(scales.T.astype(np.float16)),
                np.ascontiguousarray(zeros.T.astype(np.uint8)),
            )
            for grid, (scales, zeros) in zip(self.grids, parameters, strict=True)
        ]


def _on_grid(state: State) -> npt.NDArray[np.bool_]:
    """Whether each of the rows was quantized with as many bits before."""
    columns = np.arange(state.codes.shape[0]) // state.grid.group_size
    variance = np.square(state.grid.steps(state.scales)) / 12  # of an error that is spread over a step
    by_chance = np.einsum("k,kr->r", np.diagonal(state.hessian), variance[columns])
    on_grid: npt.NDArray[np.bool_] = state.loss() <= _ON_GRID * by_chance
    return on_grid


def _common_grid(
    parts: list[Floats], grids: Sequence[Grid], price: Floats, weights: Weights
) -> list[tuple[Floats, Floats]]:
    """(scales, zero points) of each depth for one group, `parts` float32 `[features, rows]` for each.

    Steps of the depths are powers of two of each other, and a coarser value is the middle of the finer ones. The best
    range of each depth is tried for all of them.
    """
    best: list[tuple[Floats, Floats]] = []
    least: Floats | None = None
    for part, grid in zip(parts, grids, strict=True):
        search = best_ranges(part, grid, price)
        step, center = grid.steps(search.scales), grid.centers(search.zeros)
        tried = [_aligned(step, center, grid, other) for other in grids]
        tables = [_table(other, *depth) for other, depth in zip(grids, tried, strict=True)]
        error = np.zeros(part.shape[1], np.float32)
        for i in range(part.shape[0]):
            targets = [other[i] for other in parts]
            error += price[i] * _costs(targets, tables, weights).min(axis=0)
        if least is None:
            best, least = tried, error
            continue
        better = error < least
        least = np.where(better, error, least)
        best = [
            (np.where(better, new[0], old[0]), np.where(better, new[1], old[1]))
            for new, old in zip(tried, best, strict=True)
        ]
    return best


def _aligned(step: Floats, center: Floats, grid: Grid, other: Grid) -> tuple[Floats, Floats]:
    """The scales and zero points of `other` that go with steps and centers of `grid`."""
    ratio = np.float32(2.0 ** (grid.bits - other.bits))  # of the steps
    scales = other.storable_scales(step * ratio)
    # The codes 2q and 2q + 1 are the coarser q, in their middle.
    middle = (ratio - 1) / 2
    return scales, other.storable_zeros((center - middle) / ratio)


def _table(grid: Grid, scales: Floats, zeros: Floats) -> Floats:
    """What each code of `[rows]` groups means, float32 `[codes, rows]`."""
    codes = np.arange(int(grid.levels) + 1, dtype=np.float32)[:, None]
    values: Floats = (codes - grid.centers(zeros)) * grid.steps(scales)
    return values


def _costs(targets: Sequence[Floats], tables: Sequence[Floats], weights: Weights) -> Floats:
    """The weighted sum of all depths' squared errors for each of the finest codes, `[codes, rows]`."""
    count = tables[0].shape[0]
    total: Floats = weights[0] * np.square(tables[0] - targets[0])
    for target, table, weight in zip(targets[1:], tables[1:], weights[1:], strict=True):
        total += np.repeat(weight * np.square(table - target), count // table.shape[0], axis=0)
    return total


def _best_codes(targets: Sequence[Floats], tables: Sequence[Floats], weights: Weights) -> npt.NDArray[np.uint8]:
    """Of one column, `[rows]`."""
    best: npt.NDArray[np.uint8] = _costs(targets, tables, weights).argmin(axis=0).astype(np.uint8)
    return best


def _meaning(table: Floats, codes: npt.NDArray[np.uint8], shift: int) -> Floats:
    """The values in `table` of the finest `codes`, which have `shift` bits more."""
    values: Floats = np.take_along_axis(table, (codes >> np.uint8(shift))[None].astype(np.intp), axis=0)[0]
    return values


def _fitted(state: State) -> QuantizedRows:
    for _ in range(_FITS):
        state.descend(keep_codes=True)
    return state.result()


def _descend(states: list[State], weights: Weights) -> None:
    """Once over all groups, on the codes that all share."""
    columns, size = states[0].codes.shape[0], states[0].grid.group_size
    for group, start in enumerate(range(0, columns, size)):
        part = slice(start, min(start + size, columns))
        before = [state.error[part].copy() for state in states]
        _descend_codes(states, group, part, weights)
        for state, old in zip(states, before, strict=True):
            state.refit(group, part)
            state.spread(part, state.error[part] - old)


def _descend_codes(states: list[State], group: int, part: slice, weights: Weights) -> None:
    tables = [_table(state.grid, state.scales[group], state.zeros[group]) for state in states]
    shifts = [states[0].grid.bits - state.grid.bits for state in states]
    block = states[0].hessian[part, part]
    finest = states[0].codes[part]
    for i in range(block.shape[0]):
        old = finest[i].astype(np.uint8)
        values = [_meaning(table, old, shift) for table, shift in zip(tables, shifts, strict=True)]
        # The value that is best for this column alone is what it has and gradient / curvature.
        targets = [value + state.gradient[part][i] / block[i, i] for state, value in zip(states, values, strict=True)]
        new = _best_codes(targets, tables, weights)
        for state, table, value, shift in zip(states, tables, values, shifts, strict=True):
            change = value - _meaning(table, new, shift)
            state.codes[part][i] = new >> np.uint8(shift)
            state.error[part][i] += change
            state.gradient[part] += block[:, i, None] * change


__all__ = ["Nested"]
