"""The page says what is off."""

from __future__ import annotations

from predictions import Found, page

from edgec import profiles

PREDICTION = {
    "peak_bytes": 103.0,
    "prefill_tokens_per_second": 0.0,
    "decode_tokens_per_second": 0.0,
    "run_seconds": 0.0,
}


def test_the_page_counts_what_is_within_the_goals() -> None:
    speeds = {"prefill_tokens_per_second": 80.0, "decode_tokens_per_second": 30.0}
    fastest, slowest = {"prefill": 100.0, "decode": 20.0, "memory": 100.0}, {"prefill": 90.0, "decode": 19.0}
    decoder = Found({"a": 0.5, "b": None, "c": 0.25}, 2.0, PREDICTION | speeds, fastest, slowest)
    graph = Found({"a": 0.5, "b": 1.25}, 0.5, PREDICTION | {"run_seconds": 0.01}, {"runs": 90.0, "memory": 110.0})
    graph.slowest = {"runs": 45.0}
    text = page({"one": decoder, "two": graph}, profiles.load("laptop-8gb"))
    assert "| one, prompt | 0.0 MB | +3.0% | 100 | 90% | 80 | -20% |" in text
    assert "| one, answer |  |  | 20 | 95% | 30 | +50% |" in text
    assert "| two | 0.0 MB | -6.4% | 90 | 50% | 100 | +11% |" in text
    assert "(5% of memory, 25% of speed): 3 of 5." in text
    assert "| one | 2.0 | 0.2 | does not fit b |" in text and "| two | 0.5 | 1.2 |  |" in text
