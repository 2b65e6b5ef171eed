"""Rank correlation (Spearman 1904)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Values = Sequence[float] | npt.NDArray[np.floating]


def spearman(a: Values, b: Values) -> float:
    """Rank correlation; ties get the mean of their ranks. 0 when either side is constant."""
    x, y = ranks(a), ranks(b)
    x -= x.mean()
    y -= y.mean()
    norm = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / norm if norm else 0.0


def ranks(values: Values) -> npt.NDArray[np.float64]:
    """1 for the smallest; ties share the mean."""
    _, inverse, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    result: npt.NDArray[np.float64] = (last - (counts - 1) / 2)[inverse]
    return result


__all__ = ["ranks", "spearman"]
