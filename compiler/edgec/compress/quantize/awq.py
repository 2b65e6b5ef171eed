"""AWQ: columns that meet large inputs are made larger before they are rounded, so that they lose less.

Lin et al. 2023, "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration":
`W x = (W diag(s)) (diag(1 / s) x)`; what divides the inputs is put into the layer before, see
`edgec/compress/scaling.py`. The scales are `s = (mean |x|) ^ a`, here of the root mean square, and the one exponent
that a search over output errors finds for all matrices that have the same inputs. The scaled matrix is rounded to
nearest, ranges searched with columns weighted by the mean square of their scaled inputs, in place of the paper's
search for clipping.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from edgec.compress.quantize.base import Floats, InputStatistics
from edgec.compress.quantize.gptq import damped
from edgec.compress.quantize.rtn import ImportanceRoundToNearest, importance, round_rows
from edgec.compress.quantize.search import Grid

_EXPONENTS = tuple(step / 10 for step in range(11))  # 0 leaves the matrix as it is
_ROWS = 128  # of each matrix, evenly spaced, are enough to choose by
_LEAST_POWER = 1e-4  # of the mean: features that calibration hardly saw are not made smaller without end


class Awq(ImportanceRoundToNearest):
    """Of a matrix that has its scales already."""

    name: ClassVar[str] = "awq"


def channel_scales(matrices: Sequence[tuple[Floats, Grid]], inputs: InputStatistics) -> Floats:
    """What to multiply the columns of all `matrices` `[rows, columns]` with before they are quantized to their grids.

    float32 `[columns]`, positive, of geometric mean 1; all ones where nothing is better. `inputs` has second moments.
    """
    hessian = damped(inputs)
    candidates = [scales_of_power(inputs.power, exponent) for exponent in _EXPONENTS]
    losses = np.zeros(len(candidates))
    for matrix, grid in matrices:
        rows = np.ascontiguousarray(matrix[:: max(1, matrix.shape[0] // _ROWS)], np.float32)
        for number, scales in enumerate(candidates):
            rounded = round_rows(rows * scales, grid, importance(inputs.power / np.square(scales)))
            error = rows - rounded.values() / scales
            losses[number] += float(np.einsum("ij,ij->", error @ hessian, error, dtype=np.float64))
    return candidates[int(np.argmin(losses))]


def scales_of_power(power: npt.NDArray[np.float64], exponent: float) -> Floats:
    """Root mean squares to the power of `exponent`, of geometric mean 1; `[columns]`."""
    mean = float(power.mean())
    if mean <= 0:
        return np.ones(power.size, np.float32)
    logarithm = np.log(power / mean + _LEAST_POWER) * (exponent / 2)
    scales: Floats = np.exp(logarithm - logarithm.mean()).astype(np.float32)
    return scales


__all__ = ["Awq", "channel_scales", "scales_of_power"]
