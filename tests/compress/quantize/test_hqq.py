"""Half-quadratic quantization, judged by the norm that it minimises."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.compress.quantize import QUANTIZERS


def norm(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean |error|^0.7 of each group of 32."""
    error = np.abs(weights.astype(np.float64) - values) ** 0.7
    return error.reshape(weights.shape[0], -1, 32).mean(axis=2)


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_no_group_has_a_larger_norm_than_its_start(bits: int) -> None:
    rng = np.random.default_rng(9)
    weights = rng.standard_t(3, (40, 96)).astype(np.float32)
    start = QUANTIZERS["rtn"](bits, None).quantize(weights)
    found = QUANTIZERS["hqq"](bits, None).quantize(weights)
    before, after = norm(weights, start.values()), norm(weights, found.values())
    assert (after <= before * (1 + 1e-4)).all()
    assert after.mean() < before.mean()
    assert np.array_equal(found.scales, start.scales)


def test_odd_widths() -> None:
    weights = np.random.default_rng(1).standard_normal((5, 45)).astype(np.float32)
    found = QUANTIZERS["hqq"](4, None).quantize(weights)
    assert found.codes.shape == (5, 45) and found.zeros.shape == (5, 2)
    assert np.abs(found.values() - weights).mean() < 0.15
