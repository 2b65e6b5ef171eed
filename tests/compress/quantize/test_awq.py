"""Scales of AWQ: what they do to columns, and that they never lose by the measure that chooses them."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.compress.quantize import Grid, InputStatistics
from edgec.compress.quantize.awq import channel_scales, scales_of_power
from edgec.compress.quantize.gptq import damped
from edgec.compress.quantize.rtn import importance, round_rows


def inputs_with_outliers(columns: int) -> InputStatistics:
    """A few features are thirty times as large as the others."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((400, columns)) * np.where(np.arange(columns) % 16 == 3, 30.0, 1.0)
    return InputStatistics(np.square(x).mean(0), x.T @ x / 400, 400)


def output_error(matrix: np.ndarray, grid: Grid, inputs: InputStatistics, scales: np.ndarray) -> float:
    rounded = round_rows(matrix * scales, grid, importance(inputs.power / np.square(scales)))
    error = matrix - rounded.values() / scales
    return float(np.einsum("ij,jk,ik->", error, damped(inputs), error, dtype=np.float64))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_columns_of_large_inputs_grow(bits: int) -> None:
    inputs, grid = inputs_with_outliers(96), Grid(bits)
    matrix = np.random.default_rng(6).standard_normal((64, 96)).astype(np.float32)
    scales = channel_scales([(matrix, grid)], inputs)
    large = np.arange(96) % 16 == 3
    assert scales[large].min() > scales[~large].max()
    assert np.exp(np.log(scales).mean()) == pytest.approx(1, rel=1e-4)
    plain = output_error(matrix, grid, inputs, np.ones(96, np.float32))
    assert output_error(matrix, grid, inputs, scales) < 0.9 * plain


def test_even_inputs_need_no_scales() -> None:
    np.testing.assert_allclose(scales_of_power(np.full(40, 3.0), 0.7), 1, rtol=1e-5)
    assert (scales_of_power(np.zeros(40), 0.5) == 1).all()


def test_one_choice_for_all_matrices_of_an_input() -> None:
    inputs = inputs_with_outliers(64)
    rng = np.random.default_rng(7)
    matrices = [(rng.standard_normal((rows, 64)).astype(np.float32), Grid(bits)) for rows, bits in ((40, 3), (8, 4))]
    together = channel_scales(matrices, inputs)
    plain = np.ones(64, np.float32)
    lost, before = (sum(output_error(m, g, inputs, s) for m, g in matrices) for s in (together, plain))
    assert lost <= before
