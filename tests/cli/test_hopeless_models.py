"""What cannot work says so within seconds: the op or field, where it is, and what to do. No weight is read for it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import edgec
from edgec.errors import EdgecError
from edgec.pipeline import supported_operators
from tests.cli.hopeless_models import CASES, Hopeless

SECONDS = 5.0


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """Importing the compiler is not what is timed."""
    supported_operators()


def test_there_are_more_than_twenty() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 20


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_message(case: Hopeless, tmp_path: Path) -> None:
    source = case.make(tmp_path)
    started = time.monotonic()
    with pytest.raises(EdgecError) as refused:
        edgec.compile(source, profile="laptop-8gb", output=tmp_path / "out.edgec")
    assert time.monotonic() - started < SECONDS
    text = str(refused.value)
    assert [part for part in case.says if part not in text] == [], text
    assert refused.value.hint or "supported: " in text, "it does not say what to do"
    assert len(text) < 1200, "nobody reads that"
    assert not refused.value.message.endswith(".")
    assert not list(tmp_path.glob("*out.edgec*"))
