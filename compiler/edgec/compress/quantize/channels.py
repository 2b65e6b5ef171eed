"""Filters of depthwise convolutions: a signed byte for each weight, a bfloat16 scale for each channel.

Pixels that are near are alike, so errors of the same sign add up: weights are rounded so that each channel's sum stays,
the least certain ones the other way. Nothing of it is seen by kernels, which read the float32 products; the
bundle stores them as `scaled8` (`edgec/ir/narrow.py`).
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from edgec.ir.narrow import LARGEST_SCALED

_STEPS_BELOW = 8  # scales that are tried below the one of the largest weight, which they cut off: up to 6 %
_ALIKE = 9.0  # what the square of a channel's summed error counts: inputs that are correlated by 0.9


def round_channels(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The filter `[channels, ...]` (finite) with the values that `scaled8` holds and whose output is nearest."""
    rows = array.reshape(array.shape[0], -1).astype(np.float32)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    nearest = (largest / np.float32(LARGEST_SCALED)).astype(ml_dtypes.bfloat16).view(np.uint16)
    best, least = np.zeros_like(rows), np.full(rows.shape[0], np.inf)
    for step in range(_STEPS_BELOW + 1):
        lower = np.maximum(nearest, np.uint16(step)) - np.uint16(step)
        scales = lower.view(ml_dtypes.bfloat16).astype(np.float32)
        inverse = np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales > 0)
        codes = np.clip(_balanced(rows * inverse), -LARGEST_SCALED, LARGEST_SCALED)
        values = codes * scales + np.float32(0)  # zeros are positive
        errors = (values - rows).astype(np.float64)
        loss = np.square(errors).sum(axis=1) + _ALIKE * np.square(errors.sum(axis=1))
        whole = np.abs(codes).max(axis=1) == LARGEST_SCALED  # `scaled8` knows no other scales
        better = whole & (loss < least)
        best[better], least[better] = values[better], loss[better]
    return best.reshape(array.shape)


def _balanced(scaled: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Integers next to `scaled` whose sum in each row is the nearest to that of the row."""
    codes = np.rint(scaled)
    left = scaled - codes
    missing = np.rint(left.sum(axis=1, keepdims=True))  # so many are to be one more; below 0, one less
    places = np.argsort(np.argsort(-left, axis=1, kind="stable"), axis=1, kind="stable")  # 0 has the most left
    balanced: npt.NDArray[np.float32] = codes + (places < missing) - (places >= left.shape[1] + missing)
    return balanced


__all__ = ["round_channels"]
