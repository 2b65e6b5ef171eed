"""GPTQ and importance weighting, against plain float64 and against rounding to nearest."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.compress.quantize import QUANTIZERS, InputStatistics, QuantizedRows
from edgec.compress.quantize.gptq import Gptq, damped
from edgec.compress.quantize.rtn import importance

BITS = [2, 3, 4, 5, 6, 8]


def statistics(columns: int, seed: int = 3, count: int = 600) -> InputStatistics:
    """Correlated inputs whose features differ in size."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((count, 12)) @ rng.standard_normal((12, columns))
    inputs = (mixed + rng.standard_normal((count, columns))) * rng.lognormal(0, 1, columns)
    return of_moment(inputs.T @ inputs / count)


def of_moment(second_moment: np.ndarray) -> InputStatistics:
    return InputStatistics(np.diagonal(second_moment), second_moment, 600)


def matrix(rows: int, columns: int, seed: int = 4) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, columns)) * 0.05).astype(np.float32)


def loss(weights: np.ndarray, quantized: QuantizedRows, hessian: np.ndarray) -> np.ndarray:
    """Of each row, in double: the squared error of the output for inputs of that second moment."""
    error = weights.astype(np.float64) - quantized.values()
    return np.einsum("rk,kl,rl->r", error, hessian.astype(np.float64), error)


def as_stored(quantized: QuantizedRows, bits: int) -> None:
    rows, columns = quantized.codes.shape
    groups = -(-columns // 32)
    assert quantized.codes.dtype == np.uint8 and quantized.codes.max() < 1 << bits
    assert quantized.scales.dtype == np.float16 and quantized.scales.shape == (rows, groups)
    assert quantized.zeros.dtype == np.uint8 and quantized.zeros.shape == (rows, groups)
    assert np.isfinite(quantized.values()).all()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 31), (5, 32), (16, 97), (9, 160)])
def test_no_row_is_worse_than_rounding(rows: int, columns: int, bits: int) -> None:
    weights, inputs = matrix(rows, columns), statistics(columns)
    hessian = damped(inputs)
    found = Gptq(bits, inputs).quantize(weights)
    as_stored(found, bits)
    nearest = loss(weights, QUANTIZERS["irtn"](bits, inputs).quantize(weights), hessian)
    assert (loss(weights, found, hessian) <= nearest * (1 + 1e-3) + 1e-12).all()


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_correlated_inputs_are_made_use_of(bits: int) -> None:
    weights, inputs = matrix(64, 160), statistics(160)
    hessian = damped(inputs)
    plain = loss(weights, QUANTIZERS["rtn"](bits, None).quantize(weights), hessian).sum()
    assert loss(weights, Gptq(bits, inputs).quantize(weights), hessian).sum() < 0.4 * plain


def test_what_few_vectors_say_of_correlations_is_not_believed() -> None:
    """Their features are independent, so that rounding is best."""
    rng = np.random.default_rng(8)
    weights, few = matrix(64, 320), rng.standard_normal((32, 320))
    inputs = InputStatistics(np.square(few).mean(0), few.T @ few / 32, 32)
    rounded, found = (QUANTIZERS[name](3, inputs).quantize(weights) for name in ("rtn", "gptq"))
    assert loss(weights, found, np.eye(320)).sum() < 1.15 * loss(weights, rounded, np.eye(320)).sum()


def reference_gptq(weights: np.ndarray, hessian: np.ndarray, scale: np.ndarray, center: np.ndarray, top: int) -> float:
    """The paper's algorithm column by column in double, with the textbook update of the inverse; its loss."""
    left, inverse = weights.astype(np.float64).copy(), np.linalg.inv(hessian.astype(np.float64))
    result = np.zeros_like(left)
    for i in range(left.shape[1]):
        codes = np.clip(np.rint(left[:, i] / scale + center), 0, top)
        result[:, i] = (codes - center) * scale
        error = (left[:, i] - result[:, i]) / inverse[i, i]
        left -= np.outer(error, inverse[i])
        inverse -= np.outer(inverse[:, i], inverse[i]) / inverse[i, i]
    difference = weights - result
    return float(np.einsum("rk,kl,rl->", difference, hessian.astype(np.float64), difference))


def test_loss_is_that_of_the_textbook_or_less() -> None:
    """One group, so that the scales are comparable."""
    weights, inputs = matrix(40, 32), statistics(32)
    hessian = damped(inputs)
    low, high = np.minimum(weights.min(1), 0), np.maximum(weights.max(1), 0)
    scale = (high - low) / 15
    textbook = reference_gptq(weights, hessian, scale, -low / scale, 15)
    assert loss(weights, Gptq(4, inputs).quantize(weights), hessian).sum() < textbook


@pytest.mark.parametrize("name", ["irtn", "gptq"])
def test_the_same_twice_and_by_rows(name: str) -> None:
    weights, inputs = matrix(24, 97), statistics(97)
    whole = QUANTIZERS[name](4, inputs).quantize(weights)
    again = QUANTIZERS[name](4, inputs).quantize(weights.copy())
    for array in ("codes", "scales", "zeros"):
        assert np.array_equal(getattr(whole, array), getattr(again, array))


@pytest.mark.parametrize("name", ["irtn", "gptq"])
def test_features_without_input(name: str) -> None:
    """Dead channels may have any weight, but not spoil the others; a layer without any input is rounded."""
    weights, inputs = matrix(8, 64), statistics(64)
    dead = inputs.second_moment.copy()
    dead[5] = dead[:, 5] = dead[40] = dead[:, 40] = 0
    weights[:, 5] = 3.0
    found = QUANTIZERS[name](4, of_moment(dead)).quantize(weights)
    as_stored(found, 4)
    alive = np.delete(np.arange(64), [5, 40])
    plain = QUANTIZERS["rtn"](4, None).quantize(weights)
    assert (
        loss(weights[:, alive], _part(found, alive), inputs.second_moment[np.ix_(alive, alive)]).sum()
        <= loss(weights[:, alive], _part(plain, alive), inputs.second_moment[np.ix_(alive, alive)]).sum()
    )
    nothing = QUANTIZERS[name](4, of_moment(np.zeros((64, 64)))).quantize(weights)
    assert np.abs(nothing.values() - weights).max() < 0.25


class _Values:
    def __init__(self, values: np.ndarray) -> None:
        self._values = values

    def values(self) -> np.ndarray:
        return self._values


def _part(quantized: QuantizedRows, columns: np.ndarray) -> _Values:
    return _Values(quantized.values()[:, columns])


@pytest.mark.parametrize("name", sorted(QUANTIZERS))
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_zero_rows_constants_and_huge_outliers(name: str, bits: int) -> None:
    weights, inputs = matrix(6, 70), statistics(70)
    weights[0] = 0
    weights[1] = 0.25
    weights[2, 33] = 1e4
    weights[3] = 1e-9
    found = QUANTIZERS[name](bits, inputs).quantize(weights)
    as_stored(found, bits)
    assert not found.values()[0].any()
    step = 1e4 / ((1 << bits) - 1)
    assert np.abs(found.values()[2, 33] - 1e4) <= step
    assert np.abs(found.values()[3]).max() <= 1e-7


def test_importance_is_never_zero() -> None:
    weights = importance(np.array([0.0, 1.0, 3.0]))
    assert (weights > 0).all() and weights[2] > weights[1] > weights[0]
    assert (importance(np.zeros(4)) == 1).all()
