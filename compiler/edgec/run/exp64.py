"""The exponential function of the runtime ABI: libraries round `exp` differently, this one is everywhere the same."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

_COEFFICIENTS = [1 / math.factorial(i) for i in range(14)]


def exp64(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """exp of doubles <= 0 in a fixed order of operations: the same bits in every language."""
    clipped = np.maximum(x, -701.0)
    k = np.floor(clipped * 1.4426950408889634 + 0.5)
    r = (clipped - k * 0.693147180369123816490) - k * 1.90821492927058770002e-10
    p = np.full_like(r, _COEFFICIENTS[13])
    for coefficient in reversed(_COEFFICIENTS[:13]):
        p *= r
        p += coefficient
    result: npt.NDArray[np.float64] = np.where(x < -700, 0.0, np.ldexp(p, k.astype(np.int32)))
    return result


def exp(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The same for all doubles: 1 / exp64(-x) where x > 0."""
    power = exp64(-np.abs(x))
    with np.errstate(divide="ignore"):
        result: npt.NDArray[np.float64] = np.where(x > 0, 1 / power, power)
    return result
