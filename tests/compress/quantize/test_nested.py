"""Nested codes: the upper bits are good codes by themselves, and lose little for it."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.compress.dequantize import dequantize
from edgec.compress.matrix import pack_matrix
from edgec.compress.quantize import InputStatistics, Nested, QuantizedRows
from edgec.compress.quantize.gptq import Gptq, damped
from edgec.compress.quantize.rtn import round_rows
from edgec.compress.quantize.search import Grid
from tests.compress.quantize.test_gptq import as_stored, loss, matrix, statistics

SHAPES = [(1, 1), (3, 31), (5, 32), (16, 97), (9, 160)]


def depths_of(found: QuantizedRows) -> dict[int, QuantizedRows]:
    return {depth.grid.bits: depth for depth in (found, *found.coarser)}


@pytest.mark.parametrize("coarser", [(3,), (2,), (3, 2)])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_coarser_codes_are_upper_bits(rows: int, columns: int, coarser: tuple[int, ...]) -> None:
    found = depths_of(Nested(4, statistics(columns), coarser=coarser).quantize(matrix(rows, columns)))
    assert tuple(found) == (4, *coarser)
    for bits, depth in found.items():
        as_stored(depth, bits)
        np.testing.assert_array_equal(depth.codes, found[4].codes >> (4 - bits))


def losses(weights: np.ndarray, inputs: InputStatistics, quantized: dict[int, QuantizedRows]) -> dict[int, float]:
    hessian = damped(inputs)
    return {bits: float(loss(weights, depth, hessian).sum()) for bits, depth in quantized.items()}


@pytest.mark.parametrize(("coarser", "most"), [((3,), {4: 1.3, 3: 1.75}), ((3, 2), {4: 1.7, 3: 1.65, 2: 1.65})])
def test_every_depth_is_near_to_what_it_could_be_alone(coarser: tuple[int, ...], most: dict[int, float]) -> None:
    """For inputs that are far more correlated than those of real models, from which GPTQ gains most."""
    weights, inputs = matrix(64, 320), statistics(320)
    nested = losses(weights, inputs, depths_of(Nested(4, inputs, coarser=coarser).quantize(weights)))
    alone = losses(weights, inputs, {bits: Gptq(bits, inputs).quantize(weights) for bits in most})
    ratios = {bits: nested[bits] / alone[bits] for bits in most}
    assert all(ratios[bits] <= bound for bits, bound in most.items()), ratios


def on_a_grid(rows: int, columns: int) -> np.ndarray:
    """Weights as a Q4_1 file has them."""
    return round_rows(matrix(rows, columns), Grid(4), None).values()


def test_rows_that_were_quantized_before_keep_their_codes() -> None:
    weights, inputs = on_a_grid(64, 320), statistics(320)
    found = Nested(4, inputs, coarser=(3,)).quantize(weights)
    alone = Gptq(4, inputs).quantize(weights)
    for name in ("codes", "scales", "zeros"):
        np.testing.assert_array_equal(getattr(found, name), getattr(alone, name))
    nearest = round_rows(weights, Grid(3), inputs.power)
    ratio = losses(weights, inputs, depths_of(found))[3] / losses(weights, inputs, {3: nearest})[3]
    assert ratio < 1, ratio


def test_rows_that_were_quantized_before_beside_others() -> None:
    before, new, inputs = on_a_grid(6, 96), matrix(6, 96), statistics(96)
    mixed = np.stack([before, new], axis=1).reshape(12, 96)
    quantizer = Nested(4, inputs, coarser=(3, 2))
    whole = depths_of(quantizer.quantize(mixed))
    for part, rows in ((before, slice(0, None, 2)), (new, slice(1, None, 2))):
        for bits, depth in depths_of(quantizer.quantize(part)).items():
            np.testing.assert_array_equal(depth.values(), whole[bits].values()[rows])


def test_bits_that_are_just_cut_off_are_much_worse() -> None:
    """Of GPTQ's codes, with the best that is known of their scales."""
    weights, inputs = matrix(64, 320), statistics(320)
    nested = losses(weights, inputs, depths_of(Nested(4, inputs, coarser=(3,)).quantize(weights)))
    fine = Gptq(4, inputs).quantize(weights)
    grid = Nested(4, inputs, coarser=(3,)).coarser_grids[0]
    zeros = np.maximum(fine.zeros.astype(np.int16) - 8, 0).astype(np.uint8)
    cut = QuantizedRows(grid, fine.codes >> 1, fine.scales, zeros)
    assert nested[3] < 0.6 * losses(weights, inputs, {3: cut})[3]


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("size", [32, 64])
def test_packed_depths_mean_what_was_found(size: int, compact: bool) -> None:
    weights, inputs = matrix(40, 160), statistics(160)
    quantizer = Nested(4, inputs, coarser=(3, 2), group_size=size, compact=compact)
    packed = pack_matrix("w", weights, quantizer)
    packed.verify()
    found = depths_of(quantizer.quantize(weights))
    for bits in (4, 3, 2):
        tensor = packed.at_depth(bits)
        tensor.verify()
        np.testing.assert_array_equal(dequantize(tensor), found[bits].values())
        relative = np.sqrt(np.square(weights - found[bits].values()).mean() / np.square(weights).mean())
        assert tensor.error["relative_rmse"] == pytest.approx(relative, rel=1e-4)
    assert packed.at_depth(3).error["relative_output_error"] > packed.error["relative_output_error"]
    if compact:  # a bundle stores 8 bits of such scales, and 4 of the coarser zero points
        for depth in packed.coarser:
            assert not np.any(depth.scales.view(np.uint16) & 0xC03F)
            assert not np.any(depth.zeros & 15)


def test_rows_do_not_depend_on_their_neighbours() -> None:
    weights, inputs = matrix(24, 96), statistics(96)
    quantizer = Nested(4, inputs, coarser=(3,))
    whole, part = quantizer.quantize(weights), quantizer.quantize(weights[8:16])
    np.testing.assert_array_equal(part.codes, whole.codes[8:16])
    np.testing.assert_array_equal(part.coarser[0].scales, whole.coarser[0].scales[8:16])


def test_rows_of_zeros_stay_zero() -> None:
    weights = matrix(4, 64)
    weights[1] = 0
    found = Nested(4, statistics(64), coarser=(3, 2)).quantize(weights)
    for depth in depths_of(found).values():
        assert not depth.values()[1].any()
