"""Bits under a budget: against all choices where they can be tried, and at the ends."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest

from edgec.errors import DoesNotFitError
from edgec.ir.plan import PROBE_BITS, TERNARY, WEIGHT_BITS, Bits, TensorPlan
from edgec.ir.weight_use import WeightUse
from edgec.plan.allocate import NARROW, SPANS, _loss, allocate, at_probe, expected_loss
from edgec.plan.memory import matrix_bytes


def use(name: str, rows: int, columns: int) -> WeightUse:
    return WeightUse(name, (rows, columns), "nk", frozenset({"linear"}), 1)


USES = {"a": use("a", 64, 64), "b": use("b", 128, 32), "c": use("c", 8, 96), "d": use("d", 40, 320)}
LOSSES = {"a": 0.5, "b": 0.01, "c": 0.2, "d": 0.05}


def stored(name: str, bits: Bits, group_size: int = 32) -> int:
    """Ternary codes and those of 2 and 3 bits have compact scales."""
    compact = bits == TERNARY or bits <= NARROW
    return matrix_bytes(USES[name], bits, stored=True, compact=compact, group_size=group_size)


def size(bits: Mapping[str, Bits]) -> int:
    return sum(stored(name, number) for name, number in bits.items())


def loss(bits: dict[str, int]) -> float:
    return sum(_loss(LOSSES[name], number, 32, False) for name, number in bits.items())


def bits_of(found: dict[str, Any]) -> dict[str, int]:
    return {name: choice.bits for name, choice in found.items()}


@pytest.mark.parametrize("bits_per_weight", [2.9, 3.3, 3.75, 4.2, 4.75, 5.5, 6.75, 7.9])
def test_close_to_the_best_of_all_choices(bits_per_weight: float) -> None:
    budget = int(bits_per_weight / 8 * sum(u.elements for u in USES.values()))
    found = bits_of(allocate("m", USES, LOSSES, budget))
    assert size(found) <= budget
    every = (dict(zip(USES, bits, strict=True)) for bits in itertools.product(WEIGHT_BITS, repeat=len(USES)))
    best = min(loss(bits) for bits in every if size(bits) <= budget)
    assert loss(found) <= 2 * best


def test_a_loss_at_other_bits_is_that_at_the_bits_of_probes() -> None:
    for bits, size, compact in ((2, 32, True), (PROBE_BITS, 32, True), (5, 64, False), (8, 128, True)):
        tensor = TensorPlan("a", bits, size, "compact" if compact else "asymmetric", "")
        assert at_probe(_loss(0.3, bits, size, compact), tensor) == pytest.approx(0.3)
    assert at_probe(_loss(0.3, TERNARY, 32, True), TensorPlan("a", 2, 32, "ternary", "")) == pytest.approx(0.3)
    errors = {(PROBE_BITS, 32): 0.04, (4, 32): 0.02}
    assert at_probe(0.1, TensorPlan("a", 4, 32, "compact", ""), errors) == pytest.approx(0.2)


def test_ternary_weights_where_bytes_are_few() -> None:
    most, least = size(dict.fromkeys(USES, 2)), size(dict.fromkeys(USES, "ternary"))
    assert least < 0.85 * most
    assert set(bits_of(allocate("m", USES, LOSSES, least, ternary=True)).values()) == {TERNARY}
    between = allocate("m", USES, LOSSES, (least + 3 * most) // 4, ternary=True)
    assert {TERNARY} < set(bits_of(between).values())
    assert any("three levels" in choice.reason for choice in between.values())
    assert allocate("m", USES, LOSSES, 2 * most, ternary=True) == allocate("m", USES, LOSSES, 2 * most)
    with pytest.raises(DoesNotFitError, match="at 2 bits"):
        allocate("m", USES, LOSSES, least)


def test_more_bytes_never_lose_more() -> None:
    budgets = range(size(dict.fromkeys(USES, 2)), size(dict.fromkeys(USES, 8)) + 1, 97)
    losses = [loss(bits_of(allocate("m", USES, LOSSES, budget))) for budget in budgets]
    assert losses == sorted(losses, reverse=True)


def test_the_ends() -> None:
    least = dict.fromkeys(USES, 2)
    assert bits_of(allocate("m", USES, LOSSES, size(least))) == least
    assert bits_of(allocate("m", USES, LOSSES, 10**9)) == dict.fromkeys(USES, 8)
    with pytest.raises(DoesNotFitError, match=r"the matrices of `m` take [\d.]+ k?B at 2 bits"):
        allocate("m", USES, LOSSES, size(least) - 1)


def test_matrices_that_lose_nothing_get_what_is_left() -> None:
    found = bits_of(allocate("m", USES, dict.fromkeys(USES, 0.0) | {"a": 1.0}, size(dict.fromkeys(USES, 4))))
    assert found["a"] == 8


def test_reasons_say_what_is_lost() -> None:
    found = allocate("m", USES, LOSSES, size(dict.fromkeys(USES, 4)))
    assert found["a"].reason.endswith(f"alone 0.5 at {PROBE_BITS} bits")


@pytest.mark.parametrize("bits_per_weight", [2.6, 3.3, 4.2, 5.5, 6.75])
def test_a_choice_of_group_sizes_never_loses_more(bits_per_weight: float) -> None:
    budget = int(bits_per_weight / 8 * sum(u.elements for u in USES.values()))
    found = allocate("m", USES, LOSSES, budget, group_sizes=SPANS)
    assert sum(stored(name, choice.bits, choice.group_size) for name, choice in found.items()) <= budget
    for one in SPANS:
        try:
            alone = allocate("m", USES, LOSSES, budget, group_sizes=(one,))
        except DoesNotFitError:
            continue
        assert expected_loss(LOSSES, found) <= 1.1 * expected_loss(LOSSES, alone)


def test_groups_divide_rows() -> None:
    found = allocate("m", USES, LOSSES, size(dict.fromkeys(USES, 3)), group_sizes=SPANS)
    assert all(USES[name].columns % choice.group_size == 0 for name, choice in found.items())
    asked = allocate("m", USES, LOSSES, size(dict.fromkeys(USES, 3)), group_sizes=(128,))
    assert [asked[name].group_size for name in "abcd"] == [64, 32, 96, 128]


def test_measured_errors_count_more_than_the_table() -> None:
    """Weights of `d` lie on a grid of 4 bits."""
    grid = {(bits, size): 1e-5 if bits >= 4 and size == 32 else 0.02 for bits in WEIGHT_BITS for size in SPANS}
    found = allocate("m", USES, LOSSES, size(dict.fromkeys(USES, 6)), group_sizes=SPANS, errors={"d": grid})
    assert (found["d"].bits, found["d"].group_size) == (4, 32)
    assert allocate("m", USES, LOSSES, size(dict.fromkeys(USES, 6)), group_sizes=SPANS)["d"].bits > 4
