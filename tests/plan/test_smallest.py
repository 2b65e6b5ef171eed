"""The search for the fewest bits, with accuracies that are formulas."""

from __future__ import annotations

import dataclasses
import math

import pytest

from edgec.errors import AccuracyError, DoesNotFitError
from edgec.ir.plan import Plan, Prediction
from edgec.plan import smallest
from edgec.plan.smallest import FEWEST, MOST

PLAN = Plan("m", "tablet", (), None, 0, 0, {}, 1, ("simd128",), 8, Prediction(0, 0, 0, 0, 0, 0.0, 0.0))


def make(bits: float) -> tuple[Plan, int]:
    return dataclasses.replace(PLAN, reasons=(str(bits),)), round(1000 * bits)


def bits_of(plan: Plan) -> float:
    return float(plan.reasons[0])


@pytest.mark.parametrize("needed", [2.4, 3.0, 4.7, 4.8, 6.1, 8.7])
@pytest.mark.parametrize("base", [3.0, 4.0, 6.0])
def test_close_to_the_fewest_bits_that_are_enough(needed: float, base: float) -> None:
    wanted = 0.99
    found = smallest("m", wanted, make, lambda plan: 1 - 0.01 * base ** (needed - bits_of(plan)))
    assert needed <= bits_of(found.plan) <= 1.04 * needed + 0.01
    assert found.reached >= wanted and len(found.trials) <= 8
    assert any(trial.reached == found.reached and trial.bytes == make(bits_of(found.plan))[1] for trial in found.trials)


def test_accuracies_that_jump_and_go_up_and_down() -> None:
    found = smallest("m", 0.9, make, lambda plan: math.floor(bits_of(plan)) / 5)
    assert 5 <= bits_of(found.plan) < 5.2
    assert bits_of(smallest("m", 0.9, make, lambda plan: 1.0).plan) == FEWEST


def test_what_is_out_of_reach() -> None:
    with pytest.raises(
        AccuracyError, match=r"`m` reaches an accuracy of 0\.875 in 8\.8 kB .*8\.75 bits.*, 0\.9 was asked"
    ):
        smallest("m", 0.9, make, lambda plan: bits_of(plan) / 10)
    assert MOST == 8.75


def test_a_device_that_is_too_small() -> None:
    def small(bits: float) -> tuple[Plan, int]:
        if bits > 5.5:
            raise DoesNotFitError("no room", hint="buy more")
        return make(bits)

    assert 5.2 <= bits_of(smallest("m", 0.52, small, lambda plan: bits_of(plan) / 10).plan) <= 5.4
    with pytest.raises(AccuracyError, match=r"0\.5\d.*and more does not fit: no room"):
        smallest("m", 0.9, small, lambda plan: bits_of(plan) / 10)

    def tiny(bits: float) -> tuple[Plan, int]:
        raise DoesNotFitError("no room at all")

    with pytest.raises(DoesNotFitError, match="no room at all"):
        smallest("m", 0.9, tiny, lambda plan: 1.0)
