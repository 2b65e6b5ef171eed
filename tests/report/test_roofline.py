from __future__ import annotations

from typing import Any

import pytest

from edgec.errors import BundleError, RunError
from edgec.ir.work import evaluate
from edgec.report.roofline import START, Roofline, analyse, machine, summary
from edgec.report.roofline_page import render
from edgec.run.timing import Step
from tests.report.test_report import Page

LIMITS = {
    "memory": 1e10,
    "weights": 2e10,
    "cache": 1e11,
    "float32": 1e10,
    "simd128": 5e10,
    "relaxed": 1e11,
    "relaxed16": 1e11,
}


def call(mark: int, kernel: str, unit: str | None = None, passes: int = 1, **amounts: Any) -> dict[str, Any]:
    nothing = {"macs": 0, "weights": 0, "cache": 0, "activations": 0}
    return {"mark": mark, "kernel": kernel, "shape": "<4x4>", "unit": unit, "passes": passes, **nothing, **amounts}


DESCRIPTION = {
    "entries": {
        "prefill": {
            "parameters": ["n", "position"],
            "calls": [
                call(0, "product", "relaxed", 2, macs=["*", "n", 10**6], weights=10**6),
                call(1, "norm", activations=["*", "n", 1000]),
            ],
        },
        "head": {"parameters": ["row"], "calls": [call(2, "norm", activations=1000)]},
        "decode": {
            "parameters": ["position"],
            "calls": [{"enter": "prefill", "arguments": [1, "position"]}, {"enter": "head", "arguments": [0]}],
        },
    }
}
STEPS = [
    Step("prefill", (4, 0), 2e-3, (START, 0, 1), (0.0, 1e-3, 1.5e-3)),
    Step("head", (3,), 1e-4, (START, 2), (5.0, 5.00005)),
    Step("decode", (4,), 1e-3, (START, START, 0, 1, START, 2), (7.0, 7.0001, 7.0005, 7.0006, 7.0007, 7.0008)),
]


def test_times_and_amounts_add_up_per_kernel() -> None:
    prefill, decode = analyse(DESCRIPTION, [STEPS], LIMITS)
    assert (prefill.name, prefill.steps, prefill.tokens) == ("prefill", 2, 4)
    product, norm = prefill.kernels
    assert (product.kernel, product.calls, product.operations) == ("product", 1, 8 * 10**6)
    assert product.seconds == pytest.approx(1e-3) and product.operations_per_second == pytest.approx(8e9)
    assert (norm.calls, norm.activation_bytes) == (2, 5000)
    assert norm.seconds == pytest.approx(5e-4 + 5e-5)
    assert (decode.tokens, [kernel.calls for kernel in decode.kernels]) == (1, [1, 2])
    assert decode.kernel_seconds == pytest.approx(6e-4)  # what lies before a start is nobody's


def test_the_slowest_of_the_bounds_is_the_limit() -> None:
    prefill, decode = analyse(DESCRIPTION, [STEPS], LIMITS)
    product, norm = prefill.kernels
    assert product.limit == "arithmetic"  # 4 million multiply-adds, each in two passes
    assert product.bound_seconds == pytest.approx(2 * 2 * 4e6 / 1e11)
    assert product.share_of_limit == pytest.approx(0.16)
    assert norm.limit == "cache" and norm.bound_seconds == pytest.approx(5000 / 1e11)
    assert decode.kernels[0].limit == "memory"
    assert decode.kernels[0].bound_seconds == pytest.approx(1e6 / 2e10)


def test_marks_that_the_description_does_not_have() -> None:
    strange = Step("head", (3,), 1e-4, (START, 7), (5.0, 6.0))
    with pytest.raises(RunError, match="`head` ran other kernels"):
        analyse(DESCRIPTION, [[strange]], LIMITS)


def test_a_time_is_the_lower_median_of_the_runs_after_the_first() -> None:
    def head(seconds: float) -> list[Step]:
        return [Step("head", (3,), 2 * seconds, (START, 2), (5.0, 5.0 + seconds))]

    (phase,) = analyse(DESCRIPTION, [head(1.0), head(3.0), head(2.0)], LIMITS)
    assert phase.kernel_seconds == pytest.approx(2.0) and phase.seconds == pytest.approx(4.0)
    (phase,) = analyse(DESCRIPTION, [head(1.0)], LIMITS)
    assert phase.kernel_seconds == pytest.approx(1.0)


def test_runs_that_did_not_do_the_same() -> None:
    other = [Step("head", (2,), 1e-4, (START, 2), (5.0, 5.00005))]
    with pytest.raises(RunError, match="same steps"):
        analyse(DESCRIPTION, [STEPS[1:2], STEPS[1:2], other], LIMITS)


@pytest.mark.parametrize(
    "head",
    [
        {"parameters": ["row"]},
        {"parameters": ["row"], "calls": [{"mark": 2}]},
        {"parameters": ["row"], "calls": [{"enter": "head", "arguments": ["row"]}]},
        {"parameters": ["row", "column"], "calls": []},
        {"parameters": ["row"], "calls": [call(2, "norm", activations=["*", "n"])]},
        {"parameters": ["row"], "calls": [call(2, "norm", activations={})]},
        {"parameters": ["row"], "calls": [call(2, "norm", "abacus", macs=1)]},
    ],
)
def test_a_damaged_description(head: Any) -> None:
    with pytest.raises(BundleError, match="damaged"):
        analyse({"entries": {"head": head}}, [STEPS[1:2]], LIMITS)


@pytest.mark.parametrize(
    ("amount", "value"),
    [(7, 7), ("n", 3), (["+", "n", 1], 4), (["-", "n", ["*", 2, 4]], -5), (["//", 7, 2], 3), (["min", "n", 2], 2)],
)
def test_amounts(amount: Any, value: int) -> None:
    assert evaluate(amount, {"n": 3}) == value


def test_the_page_is_well_formed_and_shows_every_kernel() -> None:
    roofline = Roofline("wasmtime", "<1>", "relaxed", LIMITS, analyse(DESCRIPTION, [STEPS], LIMITS))
    text = render("<b>tiny</b>", [roofline])
    page = Page()
    page.feed(text)
    assert page.open == page.fetched == []
    assert "<b>tiny" not in text and "<4x4>" not in text and "NaN" not in text
    assert text.count("<code>product</code>") == 2
    assert text == render("<b>tiny</b>", [roofline])


def test_words() -> None:
    phases = analyse(DESCRIPTION, [STEPS], LIMITS)
    assert summary(phases[0]).startswith("4 tokens in 2.10 ms (1,904.8/s), at the limits 0.16 ms (8%)")
    memory, arithmetic, _ = machine(Roofline("node", "v20", "relaxed-threads", LIMITS, phases))
    assert "10 GB/s from memory" in memory and "100 GOP/s by dot products of relaxed," in arithmetic
