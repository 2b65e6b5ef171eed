"""Pages of what was measured: a bundle beside its float model, and many bundles beside each other.

They lie beside bundles and not in them: what is in a bundle follows from the model alone, these from data and machine.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgec.report import svg
from edgec.report.data import Report
from edgec.report.page import STYLE, error_map
from edgec.report.units import mebibytes

_NAMES = {
    "kl_mean": "KL divergence, mean (nats)",
    "kl_p99": "KL divergence, 99th percentile (nats)",
    "kl_max": "KL divergence, largest (nats)",
    "top1_agreement": "same most likely token",
    "worst_iou": "worst overlap of boxes",
}
_REFERENCE = "reference_"
_STYLES = ("b4", "b8", "b32", "b6", "r1", "r3")


@dataclass(frozen=True)
class Candidate:
    """A bundle with what it costs and what it loses."""

    source: str  # those of one source are compared with each other
    label: str
    bytes: int
    loss: float  # the more, the worse
    tokens_per_second: float  # predicted, 0 where it does not apply
    memory_bytes: int  # at most, predicted


def render_evaluation(report: Report, measured: Mapping[str, float | int | bool], data: str) -> str:
    """The numbers of `edgec eval` on `data`, float model and bundle side by side, and where the bundle's errors are."""
    sides: list[tuple[str, float, float]] = []
    single: list[tuple[str, float]] = []
    for name, value in measured.items():
        if name.startswith(_REFERENCE):
            continue
        reference = measured.get(_REFERENCE + name)
        words = _NAMES.get(name, name.replace("_", " "))
        if reference is None:
            single.append((words, value))
        else:
            sides.append((words, value, reference))
    tables = ""
    if sides:
        rows = "".join(f"<tr><td>{_text(n)}</td>{_number(r)}{_number(v)}</tr>" for n, v, r in sides)
        head = '<tr><th></th><th class="n">float model</th><th class="n">bundle</th></tr>'
        tables += f"<h2>Side by side</h2><table>{head}{rows}</table>"
    rows = "".join(f"<tr><td>{_text(name)}</td>{_number(value)}</tr>" for name, value in single)
    tables += f"<h2>Measured</h2><table>{rows}</table>"
    size = mebibytes(report.plan.prediction.download_bytes)
    head = (
        f"<p>Compiled for <code>{_text(report.plan.profile)}</code>, {size} to download, measured on {_text(data)}.</p>"
    )
    return _page(f"{report.model}: accuracy", f"<h1>{_text(report.model)}</h1>{head}{tables}{error_map(report)}")


def render_candidates(candidates: Sequence[Candidate], measure: str) -> str:
    """Size against loss, a plot per source; circles grow with the predicted speed. `measure` says what the loss is."""
    sections = []
    for source in dict.fromkeys(candidate.source for candidate in candidates):
        found = [candidate for candidate in candidates if candidate.source == source]
        points = [_point(candidate, _STYLES[i % len(_STYLES)]) for i, candidate in enumerate(found)]
        best = {point.label for point in svg.front(points)}
        rows = "".join(_row(candidate, candidate.label in best) for candidate in found)
        head = "".join(f'<th class="n">{name}</th>' for name in ("size", "memory", "answer", "loss", "on the front"))
        sections.append(
            f"<h2>{_text(source)}</h2>"
            + svg.scatter(points, title=f"Size and loss of {source}", x="MiB to download", y=measure)
            + f"<table><tr><th>for</th>{head}</tr>{rows}</table>"
        )
    text = f"Each circle is a bundle: size to the right, {measure} upwards, larger where it is predicted to be faster."
    return _page("Sizes and losses", f"<h1>Sizes and losses</h1><p>{_text(text)}</p>" + "".join(sections))


def _point(candidate: Candidate, style: str) -> svg.Point:
    tip = f"{candidate.label}: {mebibytes(candidate.bytes)}, loss {candidate.loss:.4g}"
    size, loss = candidate.bytes / (1 << 20), max(candidate.loss, 0.0)
    return svg.Point(candidate.label, size, loss, candidate.tokens_per_second, style, tip)


def _row(candidate: Candidate, best: bool) -> str:
    speed = f"{candidate.tokens_per_second:,.0f} tok/s" if candidate.tokens_per_second else ""
    cells = [mebibytes(candidate.bytes), mebibytes(candidate.memory_bytes), speed, f"{candidate.loss:.4g}"]
    cells.append("yes" if best else "")
    return f"<tr><td>{_text(candidate.label)}</td>" + "".join(f'<td class="n">{cell}</td>' for cell in cells) + "</tr>"


def _number(value: float | int | bool) -> str:
    if isinstance(value, bool):
        shown = "yes" if value else "no"
    else:
        shown = f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
    return f'<td class="n">{shown}</td>'


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{_text(title)}</title><style>{STYLE}</style></head><body><main>\n{body}\n</main></body></html>\n"
    )


def _text(text: str) -> str:
    return html.escape(text)


__all__ = ["Candidate", "render_candidates", "render_evaluation"]
