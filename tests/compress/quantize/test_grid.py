"""Codes that are found again: nothing is lost of what was quantized before."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.compress.quantize import QUANTIZERS


def stored(rows: int, columns: int, bits: int, used: int, seed: int = 6) -> np.ndarray:
    """Codes out of `used` neighbouring ones per group, which may lie all on one side of zero."""
    rng = np.random.default_rng(seed)
    groups = -(-columns // 32)
    first = rng.integers(0, (1 << bits) - used + 1, (rows, groups, 1))
    codes = first + rng.integers(0, used, (rows, groups, 32))
    zeros = rng.integers(0, 1 << bits, (rows, groups, 1))
    scales = rng.uniform(1e-4, 0.2, (rows, groups, 1)).astype(np.float16).astype(np.float32)
    return (scales * (codes - zeros)).astype(np.float32).reshape(rows, -1)[:, :columns]


@pytest.mark.parametrize("used", [1, 2, 3, 5, 9, 16])
@pytest.mark.parametrize("columns", [32, 97, 160])
def test_four_bits_come_back(columns: int, used: int) -> None:
    weights = stored(24, columns, 4, used)
    found = QUANTIZERS["grid"](4, None).quantize(weights)
    np.testing.assert_array_equal(found.values(), weights)


@pytest.mark.parametrize("used", [1, 2, 3])
def test_ternary_weights_come_back_in_two_bits(used: int) -> None:
    rng = np.random.default_rng(used)
    scale = np.float32(np.float16(1.37))
    weights = scale * rng.choice([0, -1, 1][:used], (16, 96)).astype(np.float32)
    found = QUANTIZERS["grid"](2, None).quantize(weights)
    np.testing.assert_array_equal(found.values(), weights)
    assert found.codes.max() <= 3


def test_scales_are_rounded_at_most() -> None:
    """A step that is no float16 costs half of its last bit, and no code changes."""
    weights = stored(24, 64, 4, 16) * np.float32(1.0003)
    found = QUANTIZERS["grid"](4, None).quantize(weights)
    np.testing.assert_allclose(found.values(), weights, rtol=2.0**-11)
