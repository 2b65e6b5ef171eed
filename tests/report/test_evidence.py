from __future__ import annotations

import pytest

from edgec.report import from_manifest, render
from edgec.report.data import TensorRow
from edgec.report.evidence import Candidate, render_candidates, render_evaluation
from edgec.report.svg import Point, front
from tests.report.test_report import Page, manifest


def checked(source: str) -> Page:
    """Well-formed, self-contained."""
    page = Page()
    page.VOID = Page.VOID | {"polyline"}  # type: ignore[misc]
    page.feed(source)
    assert page.open == [] and page.fetched == []
    return page


def calibrated() -> dict[str, object]:
    document = manifest()
    for number, facts in enumerate(document["accuracy"]["tensors"].values()):  # type: ignore[index]
        facts["relative_output_error"] = 0.01 * (number + 1)
    return document


def test_float_model_and_bundle_side_by_side() -> None:
    result = {"tokens": 1000, "perplexity": 29.4, "reference_perplexity": 29.2, "loss": 0.0068, "kl_mean": 0.0029}
    page = checked(render_evaluation(from_manifest(calibrated()), result, "wiki & co.txt"))
    for text in ("float model", "29.4000", "29.2000", "1,000", "KL divergence, mean", "wiki & co.txt", "<b>tiny</b>"):
        assert text in page.text
    assert "reference" not in page.text and "Error per layer" in page.text


def test_errors_of_outputs_where_they_are_known_and_of_weights_where_not() -> None:
    source = render(from_manifest(calibrated()))
    assert "its calibration inputs; the darkest is 2.00 %" in source  # of numbered layers
    assert source.count('class="heat"') == 2  # one kind of tensor in two layers
    assert "weights; the darkest is 7.00 %" in render(from_manifest(manifest()))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.layers.7.self_attn.q_proj.weight", "self_attn.q_proj"),
        ("encoder.layer.3.output.dense.weight", "output.dense"),
        ("features/blocks/4/conv", "conv"),
        ("model.layers.7.weight", "weight"),
        ("lm_head.weight", "lm_head"),
    ],
)
def test_kinds_of_tensors(name: str, kind: str) -> None:
    assert TensorRow(name, 4, 1, 1, 1, 0.0, "").kind == kind


def point(x: float, y: float) -> Point:
    return Point(f"{x}/{y}", x, y, 1.0, "b4", "")


def test_the_front() -> None:
    points = [point(3, 1), point(1, 3), point(2, 3), point(2, 2), point(4, 1), point(3, 0.5)]
    assert [p.label for p in front(points)] == ["1/3", "2/2", "3/0.5"]
    assert front([]) == []


def test_sizes_and_losses_of_several_sources() -> None:
    candidates = [
        Candidate("small", "4 bits <phone>", 10 << 20, 0.02, 100.0, 20 << 20),
        Candidate("small", "8 bits", 20 << 20, 0.001, 70.0, 30 << 20),
        Candidate("small", "wasteful", 30 << 20, 0.002, 70.0, 40 << 20),
        Candidate("other", "graph", 5 << 20, 0.0, 0.0, 9 << 20),
    ]
    source = render_candidates(candidates, "KL divergence (nats)")
    page = checked(source)
    assert "4 bits <phone>" in page.text and "KL divergence (nats)" in page.text
    assert source.count("<polyline") == 2 and page.text.count("yes") == 3
    assert source == render_candidates(candidates, "KL divergence (nats)")
