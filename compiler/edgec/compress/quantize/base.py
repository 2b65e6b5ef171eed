"""What every quantizer is: a row of weights in, codes with scales and zero points out.

Rows are independent of each other, so a matrix may be given in slabs of rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from edgec.compress.quantize.search import Grid
from edgec.ir.compressed import GROUP

Floats = npt.NDArray[np.float32]


Inputs = Literal["nothing", "power", "second moment"]


@dataclass(frozen=True)
class InputStatistics:
    """What calibration saw of the vectors `x` that a matrix is multiplied with."""

    power: npt.NDArray[np.float64]  # [columns], the mean square of each feature
    second_moment: (
        npt.NDArray[np.float64] | None
    )  # [columns, columns], mean of x x^T: the Hessian of the output's error
    count: int  # vectors seen


@dataclass(frozen=True)
class QuantizedRows:
    """Codes of some rows; a group is `grid.group_size` consecutive columns, the last one may be shorter."""

    grid: Grid
    codes: npt.NDArray[np.uint8]  # [rows, columns], below 2^bits
    scales: npt.NDArray[np.float16]  # [rows, groups]
    zeros: npt.NDArray[np.uint8]  # [rows, groups]
    coarser: tuple[QuantizedRows, ...] = ()  # of which the codes are the upper bits of these, the finest first

    def values(self) -> Floats:
        """What the codes mean, float32 `[rows, columns]`."""
        columns = self.codes.shape[1]
        size = self.grid.group_size
        centers = spread(self.grid.centers(self.zeros), columns, size)
        values: Floats = (self.codes - centers) * spread(self.grid.steps(self.scales), columns, size)
        return values


def best_rows(first: npt.NDArray[np.bool_], one: QuantizedRows, other: QuantizedRows) -> QuantizedRows:
    """Each row of `one` where `first` says so, of `other` elsewhere; both have all rows."""
    mask = first[:, None]
    return QuantizedRows(
        one.grid,
        np.where(mask, one.codes, other.codes),
        np.where(mask, one.scales, other.scales),
        np.where(mask, one.zeros, other.zeros),
        tuple(best_rows(first, *depths) for depths in zip(one.coarser, other.coarser, strict=True)),
    )


class Quantizer(ABC):
    """One matrix's quantizer.

    `bits` is 2 to 8; `inputs` may be None where it needs nothing of them; the rest is as in `Grid`.
    """

    name: ClassVar[str]
    needs: ClassVar[Inputs]  # what calibration has to find out about the matrix's inputs

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
        self.grid = Grid(bits, compact, group_size, flush, ternary)
        self.inputs = inputs
        self.coarser_grids: tuple[Grid, ...] = ()  # of nested codes, the finest first

    @abstractmethod
    def quantize(self, rows: Floats) -> QuantizedRows:
        """Quantize some rows (float32 `[rows, columns]`, finite). The same rows give the same codes."""

    def quantize_at(self, first: int, rows: Floats) -> QuantizedRows:
        """`quantize` for the rows from `first` on; most quantizers do not care which rows they are."""
        return self.quantize(rows)


def group_ranges(columns: int, size: int) -> Iterator[tuple[slice, slice, int]]:
    """(groups, columns, features per group) of the groups that are full, and of the one that is not."""
    full, rest = divmod(columns, size)
    if full:
        yield slice(0, full), slice(0, full * size), size
    if rest:
        yield slice(full, full + 1), slice(full * size, columns), rest


def spread(parameters: Floats, columns: int, size: int) -> Floats:
    """`[rows, groups]` parameters repeated for each column of their group."""
    return np.repeat(parameters, size, axis=1)[:, :columns]


__all__ = ["InputStatistics", "Inputs", "QuantizedRows", "Quantizer", "best_rows", "group_ranges", "spread"]
