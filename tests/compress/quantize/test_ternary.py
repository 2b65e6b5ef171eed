"""Ternary weights against all thresholds tried one by one, and against what they are to be better than."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgec.compress.quantize import QUANTIZERS, Grid, InputStatistics, QuantizedRows
from edgec.compress.quantize.gptq import damped
from edgec.compress.quantize.ternary import search_ternary
from edgec.plan.allocate import _TERNARY_ERRORS

GRID = Grid(2, ternary=True)


def quantized(name: str, rows: np.ndarray, inputs: InputStatistics | None = None, **choices: Any) -> QuantizedRows:
    found = QUANTIZERS[name](2, inputs, ternary=True, **choices).quantize(rows)
    assert found.codes.max() <= 2 and (found.zeros == 64).all()
    return found


def matrix(rows: int, columns: int, seed: int = 4) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, columns)) * 0.05).astype(np.float32)


def statistics(columns: int, count: int = 600) -> InputStatistics:
    rng = np.random.default_rng(3)
    mixed = rng.standard_normal((count, 12)) @ rng.standard_normal((12, columns))
    inputs = (mixed + rng.standard_normal((count, columns))) * rng.lognormal(0, 1, columns)
    moment = inputs.T @ inputs / count
    return InputStatistics(np.diagonal(moment), moment, count)


def best_by_trying(weights: np.ndarray, importance: np.ndarray) -> float:
    """The least error of all sets of weights that are not zero, each with its own best scale; float64."""
    errors = [float((importance * weights**2).sum())]
    for number in range(1, 1 << weights.size):
        chosen = np.array([number >> i & 1 for i in range(weights.size)], bool)
        scale = (importance * np.abs(weights))[chosen].sum() / importance[chosen].sum()
        values = np.where(chosen, np.sign(weights) * scale, 0)
        errors.append(float((importance * (weights - values) ** 2).sum()))
    return min(errors)


@pytest.mark.parametrize("seed", range(6))
def test_no_other_choice_is_better(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.laplace(size=(8, 3)).astype(np.float32)
    importance = rng.lognormal(0, 1, (8, 1)).astype(np.float32)
    for counted in (importance, np.ones_like(importance)):
        search = search_ternary(weights, GRID, counted)
        wanted = [best_by_trying(weights[:, i].astype(np.float64), counted[:, 0].astype(np.float64)) for i in range(3)]
        np.testing.assert_allclose(search.error, wanted, rtol=2e-3)


def test_a_search_over_scales_finds_nothing_better() -> None:
    weights = matrix(5, 96)
    found = quantized("rtn", weights)
    error = np.square(weights - found.values()).reshape(5, 3, 32).sum(axis=2)
    for scale in np.linspace(0.02, 0.2, 91):
        values = np.clip(np.rint(weights / scale), -1, 1) * scale
        assert (error <= np.square(weights - values).reshape(5, 3, 32).sum(axis=2) * 1.002).all()


@pytest.mark.parametrize("name", ["rtn", "grid"])
def test_ternary_weights_stay(name: str) -> None:
    weights = np.random.default_rng(1).integers(-1, 2, (16, 96)).astype(np.float32) * np.float32(0.0625)
    weights[0, :32] = 0
    weights[1, :32] = np.abs(weights[1, :32])  # one sign alone
    np.testing.assert_array_equal(quantized(name, weights).values(), weights)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_gaussian_weights_lose_what_the_planner_thinks(size: int) -> None:
    weights = matrix(256, 512)
    found = quantized("rtn", weights, compact=True, group_size=size)
    error = np.square(weights - found.values()).sum() / np.square(weights).sum()
    assert error == pytest.approx(_TERNARY_ERRORS[size], rel=0.02)
    assert not np.any(found.scales.view(np.uint16) & np.uint16(0x3F))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (5, 32), (16, 97), (64, 160)])
def test_gptq_makes_use_of_the_inputs(rows: int, columns: int) -> None:
    weights, inputs = matrix(rows, columns), statistics(columns)
    hessian = damped(inputs).astype(np.float64)

    def loss(name: str) -> np.ndarray:
        error = weights - quantized(name, weights, inputs).values().astype(np.float64)
        return np.einsum("rk,kl,rl->r", error, hessian, error)

    rounded, weighted, compensated = loss("rtn"), loss("irtn"), loss("gptq")
    assert (compensated <= weighted * (1 + 1e-3) + 1e-12).all()
    if columns == 160:
        assert weighted.sum() < rounded.sum()
        assert compensated.sum() < 0.5 * rounded.sum()


@pytest.mark.parametrize("name", ["hqq", "awq"])
def test_other_quantizers_keep_the_grid(name: str) -> None:
    weights = matrix(8, 64)
    found = quantized(name, weights, statistics(64))
    assert np.square(weights - found.values()).sum() < 0.35 * np.square(weights).sum()
