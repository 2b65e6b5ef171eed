"""The range search against plain min-max, on the distributions that weights have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgec.compress.quantize import QuantizedRows
from edgec.compress.quantize.rtn import RoundToNearest
from edgec.ir.compressed import LARGEST_CODE


def quantize_groups(weights: np.ndarray, bits: int) -> QuantizedRows:
    """Columns are groups here, and rows of one group there."""
    return RoundToNearest(bits, None).quantize(np.ascontiguousarray(weights.T))


def values(groups: QuantizedRows, bits: int) -> np.ndarray:
    """The format's formula, written out."""
    q16 = groups.codes.T.astype(np.float64) * (1 << (8 - bits))
    restored = groups.scales[:, 0].astype(np.float64) * (q16 - groups.zeros[:, 0]) / 16
    np.testing.assert_allclose(groups.values().T, restored, rtol=1e-5, atol=1e-30)
    return restored


def squared_error(weights: np.ndarray, bits: int) -> float:
    return float(np.square(values(quantize_groups(weights, bits), bits) - weights).sum())


def min_max_error(weights: np.ndarray, bits: int) -> np.ndarray:
    """Squared error per group of the plain choice, in the same format."""
    low, high = np.minimum(weights.min(axis=0), 0), np.maximum(weights.max(axis=0), 0)
    levels, factor = LARGEST_CODE[bits], 2.0 ** (bits - 4)
    scales = ((high - low) * factor / levels).astype(np.float16).astype(np.float64)
    usable = np.where(scales > 0, scales, 1)
    zeros = np.clip(np.rint(-16 * low / usable), 0, 255)
    codes = np.clip(np.rint(weights * factor / usable + zeros * factor / 16), 0, levels)
    restored = scales * (codes * (16 / factor) - zeros) / 16
    return np.square(restored - weights).sum(axis=0)


def relative_rmse(squared_error: float, weights: np.ndarray) -> float:
    return float(np.sqrt(squared_error / np.square(weights.astype(np.float64)).sum()))


def distributions() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    shape = (32, 2000)
    outliers = rng.standard_normal(shape)
    outliers[3, ::2] *= 8
    return {
        "gaussian": rng.standard_normal(shape).astype(np.float32) * np.float32(0.02),
        "laplacian": rng.laplace(size=shape).astype(np.float32),
        "outliers": outliers.astype(np.float32),
        "positive": rng.uniform(0.5, 1, shape).astype(np.float32),
        "tiny": rng.standard_normal(shape).astype(np.float32) * np.float32(1e-5),
    }


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("name", sorted(distributions()))
def test_no_group_is_worse_than_min_max(name: str, bits: int) -> None:
    weights = distributions()[name]
    groups = quantize_groups(weights, bits)
    error = np.square(values(groups, bits) - weights).sum(axis=0)
    plain = min_max_error(weights.astype(np.float64), bits)
    # A tie in rounding may fall differently in float32 and float64, in a group out of thousands.
    assert np.quantile(error / np.maximum(plain, 1e-30), 0.999) <= 1.0001
    assert (error <= plain * 1.05).all()


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("name", ["gaussian", "laplacian", "outliers", "positive"])
def test_compact_scales_and_zero_points(name: str, bits: int) -> None:
    """They have the bits that a bundle stores, and cost little."""
    weights = distributions()[name]
    weights /= np.abs(weights).max()
    rows = np.ascontiguousarray(weights.T)
    compact = RoundToNearest(bits, None, compact=True).quantize(rows)
    scales = compact.scales.view(np.uint16)
    assert not (scales & ~np.uint16(0x3FC0)).any()
    assert bits > 3 or not (compact.zeros & 15).any()
    error = float(np.square(values(compact, bits) - weights).sum())
    assert error <= 1.25 * squared_error(weights, bits)


def test_compact_scales_out_of_range_stay_as_they_are() -> None:
    for factor in (np.float32(1e-6), np.float32(100)):
        weights = distributions()["gaussian"] * factor / np.float32(0.02)
        rows = np.ascontiguousarray(weights.T)
        compact = RoundToNearest(4, None, compact=True).quantize(rows)
        error = float(np.square(values(compact, 4) - weights).sum())
        assert error <= 1.6 * squared_error(weights, 4)


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_groups_with_next_to_nothing_have_compact_scales_too(bits: int) -> None:
    weights = distributions()["gaussian"]
    weights[:, ::9] *= np.float32(1e-4)
    rows = np.ascontiguousarray(weights.T)
    whole, flushed = (RoundToNearest(bits, None, compact=True, flush=flush).quantize(rows) for flush in (False, True))
    assert (whole.scales.view(np.uint16) & ~np.uint16(0x3FC0)).any()
    assert not (flushed.scales.view(np.uint16) & ~np.uint16(0x3FC0)).any()
    difference = values(flushed, bits) - values(whole, bits)
    assert np.abs(difference).max() <= 2.0**-14


@pytest.mark.parametrize("name", ["gaussian", "laplacian", "outliers"])
def test_search_beats_min_max_clearly_at_4_bits(name: str) -> None:
    weights = distributions()[name]
    found = relative_rmse(squared_error(weights, 4), weights)
    plain = relative_rmse(min_max_error(weights.astype(np.float64), 4).sum(), weights)
    assert found < 0.95 * plain


@pytest.mark.parametrize("unused", [0, 1, 3])
def test_finds_the_old_grid_of_quantized_weights(unused: int) -> None:
    """Q4_1: w = d * q + m. All that is lost is the zero point's rounding to 1/16 of a step."""
    rng = np.random.default_rng(11)
    step = rng.uniform(0.001, 0.1, 1000).astype(np.float16).astype(np.float32)
    offset = (-step * rng.uniform(5, 10, 1000).astype(np.float32)).astype(np.float16).astype(np.float32)
    codes = rng.integers(0, 16 - unused, (32, 1000))
    codes[0], codes[1] = 0, 15 - unused
    weights = (codes * step + offset).astype(np.float32)
    groups = quantize_groups(weights, 4)
    rms = np.sqrt(np.square(values(groups, 4) - weights).mean(axis=0))
    assert (rms <= step * (1 / 32 + 1e-3)).mean() > 0.99
    assert relative_rmse(squared_error(weights, 4), weights) < 6e-3


def test_grids_with_a_zero_point_in_sixteenths_come_back_exactly() -> None:
    rng = np.random.default_rng(13)
    scales = rng.uniform(0.001, 0.1, 500).astype(np.float16).astype(np.float32)
    zeros = rng.integers(0, 241, 500)
    codes = rng.integers(0, 16, (32, 500))
    codes[0], codes[1] = 0, 15
    weights = (scales * (16 * codes - zeros) / 16).astype(np.float32)
    groups = quantize_groups(weights, 4)
    assert relative_rmse(squared_error(weights, 4), weights) < 1e-6
    np.testing.assert_array_equal(values(groups, 4).astype(np.float32), weights)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("value", [0.0, 0.25, -0.25, 1e-9, 3e4])
def test_constant_groups(bits: int, value: float) -> None:
    weights = np.full((32, 3), value, np.float32)
    restored = values(quantize_groups(weights, bits), bits)
    assert np.abs(restored - weights).max() <= max(abs(value) * 1e-3, 1e-8)


def test_eight_bits_lose_a_sixteenth_of_four() -> None:
    weights = distributions()["gaussian"]
    four, eight = (relative_rmse(squared_error(weights, b), weights) for b in (4, 8))
    assert eight < four / 12


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 32), st.integers(1, 5)),
        elements=st.floats(-1000, 1000, width=32),
    ),
    st.sampled_from([2, 3, 4, 5, 6, 7, 8]),
)
def test_any_values_stay_within_min_max_error(weights: np.ndarray, bits: int) -> None:
    groups = quantize_groups(weights, bits)
    error = np.square(values(groups, bits) - weights).sum(axis=0)
    plain = min_max_error(weights.astype(np.float64), bits)
    assert (error <= plain * 1.05 + 1e-5 * np.square(weights).sum(axis=0) + 1e-12).all()
