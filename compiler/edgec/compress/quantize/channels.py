"""Filters of depthwise convolutions: a signed byte for each weight, a bfloat16 scale for each channel.

Rounding to nearest with a search for the scale. Nothing of it is seen by kernels, which read the float32 products; the
bundle stores them as `scaled8` (`edgec/ir/narrow.py`).
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from edgec.ir.narrow import LARGEST_SCALED

_STEPS_BELOW = 8  # scales that are tried below the one of the largest weight, which they cut off: up to 6 %


def round_channels(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The filter `[channels, ...]` (finite) with the values of least squared error that `scaled8` holds."""
    rows = array.reshape(array.shape[0], -1).astype(np.float32)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    nearest = (largest / np.float32(LARGEST_SCALED)).astype(ml_dtypes.bfloat16).view(np.uint16)
    best, least = np.zeros_like(rows), np.full(rows.shape[0], np.inf)
    for step in range(_STEPS_BELOW + 1):
        lower = np.maximum(nearest, np.uint16(step)) - np.uint16(step)
        scales = lower.view(ml_dtypes.bfloat16).astype(np.float32)
        inverse = np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales > 0)
        codes = np.clip(np.rint(rows * inverse), -LARGEST_SCALED, LARGEST_SCALED)
        values = codes * scales + np.float32(0)  # zeros are positive
        error = np.square(values - rows, dtype=np.float64).sum(axis=1)
        better = error < least
        best[better], least[better] = values[better], error[better]
    return best.reshape(array.shape)


__all__ = ["round_channels"]
