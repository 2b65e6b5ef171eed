"""Every case of ONNX's own backend suite passes, or is refused with a reason; what passes is a list that only grows."""

from __future__ import annotations

import pytest

from tests.conformance.onnx_backend import lists, pool, suite

UPDATE = "run `python -m tests.conformance.onnx_backend.update`"
SHARE = 0.85  # of the suite that passes at least, with no input fixed while compiling


def test_the_list_names_most_of_the_suite() -> None:
    listed, known = lists.passing(), suite.cases()
    assert list(listed) == sorted(listed)
    assert not set(listed) - set(known)
    free = [name for name, reason in listed.items() if reason in ("", suite.STATED)]
    assert len(free) >= SHARE * len(known)


@pytest.mark.slow
def test_suite() -> None:
    listed = lists.passing()
    outcomes = pool.run(list(suite.cases()))
    wrong = [outcome for outcome in outcomes if outcome.status in ("WRONG", "CRASH")]
    assert not wrong
    lost = [outcome for outcome in outcomes if outcome.name in listed and outcome.status != "PASS"]
    assert not lost
    passed = {outcome.name: outcome.reason for outcome in outcomes if outcome.status == "PASS"}
    assert passed == listed, UPDATE
