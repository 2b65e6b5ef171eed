"""The lists beside this file, one case per line.

passing.txt     CASE, or CASE with the inputs that are fixed while compiling, or with `<=32` where a bound of
                dimensions that follow from values is stated; it only grows
tolerances.txt  CASE ATOL REASON, where the expected values themselves are less exact than the case's tolerance
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
PASSING = FOLDER / "passing.txt"


def passing() -> dict[str, str]:
    """The fixed inputs of every case that passes, separated by spaces."""
    lines = [line.partition(" ") for line in PASSING.read_text().splitlines()]
    return {name: fixed.strip() for name, _, fixed in lines}


def write_passing(found: Mapping[str, str]) -> None:
    PASSING.write_text("".join(f"{name} {fixed}".rstrip() + "\n" for name, fixed in sorted(found.items())))


@cache
def loosened() -> dict[str, float]:
    """The absolute tolerance of cases that have one of their own."""
    lines = [line.split(maxsplit=2) for line in (FOLDER / "tolerances.txt").read_text().splitlines()]
    return {name: float(tolerance) for name, tolerance, _ in lines}
