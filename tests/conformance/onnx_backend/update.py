"""`python -m tests.conformance.onnx_backend.update`: runs the suite, shows why cases are refused, writes the list.

Nothing is written while a case is wrong or crashes, or while a listed case does not pass any more.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence

from tests.conformance.onnx_backend import lists, pool
from tests.conformance.onnx_backend.suite import STATED, Outcome, cases


def main() -> int:
    outcomes = pool.run(list(cases()))
    _show(outcomes)
    passed = {outcome.name: outcome.reason for outcome in outcomes if outcome.status == "PASS"}
    lost = sorted(set(lists.passing()) - set(passed))
    failed = [outcome for outcome in outcomes if outcome.status in ("WRONG", "CRASH")]
    for outcome in failed:
        print(f"{outcome.status} {outcome.name}: {outcome.reason}")
    for name in lost:
        print(f"LOST {name}")
    if failed or lost:
        return 1
    lists.write_passing(passed)
    return 0


def _show(outcomes: Sequence[Outcome]) -> None:
    counts = Counter(outcome.status for outcome in outcomes)
    passed = [outcome.reason for outcome in outcomes if outcome.status == "PASS"]
    stated, fixed = passed.count(STATED), sum(1 for reason in passed if reason not in ("", STATED))
    print(f"{dict(counts)} of {len(outcomes)}; of those that pass {stated} have stated bounds and {fixed} fixed inputs")
    reasons = Counter(_kind(outcome.reason) for outcome in outcomes if outcome.status == "REFUSED")
    for reason, count in reasons.most_common():
        print(f"{count:5} {reason}")


def _kind(reason: str) -> str:
    """A reason without the names of the case's own tensors."""
    reason = (
        reason.partition(" (supported:")[0].partition(" hint:")[0].removeprefix("`model.onnx` cannot be compiled: ")
    )
    return re.sub(r"`[a-z][A-Za-z0-9_]*`|\([A-Za-z0-9_/]+\)", "_", reason)[:150]


if __name__ == "__main__":
    sys.exit(main())
