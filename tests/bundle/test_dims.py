from __future__ import annotations

import pytest

from edgec.bundle.dims import evaluate


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (7, 7),
        ("7", 7),
        ("batch", 3),
        ("2*sequence", 20),
        ("2 * sequence + 1", 21),
        ("sequence - batch - 1", 6),
        ("sequence // batch * 2", 6),
        ("2 * (sequence - 1) // batch", 6),
        ("(0 - 7) // 2", -4),
        (" x.y_1 ", 5),
        ("((((1))))", 1),
    ],
)
def test_values(text: int | str, value: int) -> None:
    assert evaluate(text, {"batch": 3, "sequence": 10, "x.y_1": 5}) == value


SYNTAX = [
    "",
    " ",
    "+1",
    "1+",
    "1 2",
    "a b",
    "(1",
    "1)",
    "()",
    "1/2",
    "1**2",
    "-1",
    "unknown",
    "1//0",
    "a.1!",
    "é",
    "1_0",
    "0x1",
]
TOO_LARGE = ["9007199254740992", "9007199254740991+1", "94906266*94906266", "1+" * 64 + "1"]


@pytest.mark.parametrize("text", [*SYNTAX, *TOO_LARGE])
def test_what_is_no_expression(text: str) -> None:
    with pytest.raises(ValueError):
        evaluate(text, {"a": 1, "b": 2})
