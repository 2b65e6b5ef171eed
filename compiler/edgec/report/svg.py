"""Inline SVG plots: no script, no font, no request; colours come from the page's CSS classes."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgec.report.units import mebibytes

WIDTH = 860.0


@dataclass(frozen=True)
class Part:
    """A piece of a bar: `style` is a CSS class of the page."""

    label: str
    value: float
    style: str


def stacked_bar(parts: Sequence[Part], *, title: str, limit: float | None = None) -> str:
    """One horizontal bar of bytes; `limit` draws a mark (a budget)."""
    total = sum(part.value for part in parts)
    scale = WIDTH / max(total, limit or 0.0, 1.0)
    shapes, x = [], 0.0
    for part in parts:
        width = part.value * scale
        tip = f"{part.label}: {mebibytes(part.value)}"
        shapes.append(
            f'<rect class="{part.style}" x="{x:.1f}" y="6" width="{width:.1f}" height="30">{_tip(tip)}</rect>'
        )
        if width > 7.5 * len(part.label) + 8:
            shapes.append(f'<text class="on" x="{x + width / 2:.1f}" y="26">{html.escape(part.label)}</text>')
        x += width
    if limit is not None:
        at = min(limit * scale, WIDTH - 1)
        shapes.append(f'<line class="mark" x1="{at:.1f}" y1="0" x2="{at:.1f}" y2="42">{_tip("budget")}</line>')
    return _svg(44, title, shapes)


def columns(groups: Sequence[tuple[str, Sequence[Part]]], *, title: str) -> str:
    """One stacked column of bytes per group."""
    height, bottom, left = 190.0, 24.0, 66.0
    highest = max((sum(p.value for p in parts) for _, parts in groups), default=0.0)
    unit = 1024.0 ** max(0, math.floor(math.log(max(highest, 1.0), 1024)))
    ticks = [value * unit for value in round_ticks(highest / unit)]
    top = ticks[-1]
    step = (WIDTH - left) / max(len(groups), 1)
    width = min(step * 0.78, 46.0)
    shapes = _axis(left, height, [(tick, mebibytes(tick)) for tick in ticks])
    for index, (name, parts) in enumerate(groups):
        x, y = left + index * step + (step - width) / 2, height + 8
        for part in parts:
            tall = part.value / top * height
            y -= tall
            tip = f"{name}, {part.label}: {mebibytes(part.value)}"
            shapes.append(
                f'<rect class="{part.style}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{tall:.1f}">'
                f"{_tip(tip)}</rect>"
            )
        if step >= 7.0 * len(name) or (name.isdigit() and index % math.ceil(24 / step) == 0):
            shapes.append(
                f'<text class="tick mid" x="{x + width / 2:.1f}" y="{height + 23}">{html.escape(name)}</text>'
            )
    return _svg(height + bottom + 8, title, shapes)


def dots(points: Sequence[tuple[str, float, str]], *, title: str) -> str:
    """One dot per item (label, value >= 0, style), in the order given; values are shown in percent."""
    height, bottom, left = 170.0, 10.0, 66.0
    ticks = round_ticks(100 * max((value for _, value, _ in points), default=0.0))
    top = ticks[-1] / 100
    shapes = _axis(left, height, [(tick, f"{tick:g} %") for tick in ticks])
    step = (WIDTH - left) / max(len(points), 1)
    radius = max(2.0, min(5.0, step / 2))
    for index, (label, value, style) in enumerate(points):
        x, y = left + (index + 0.5) * step, height + 8 - value / top * height
        tip = f"{label}: {100 * value:.2f} %"
        shapes.append(f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">{_tip(tip)}</circle>')
    return _svg(height + bottom + 8, title, shapes)


def heat_map(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[float | None]]], *, title: str) -> str:
    """A cell for each value >= 0 (None leaves it out), the darker the larger; values are shown in percent.

    `rows` are (name, a value for each of `columns`).
    """
    left, high, top = 230.0, 20.0, 18.0
    step = min((WIDTH - left) / max(len(columns), 1), 60.0)
    largest = max((value for _, values in rows for value in values if value is not None), default=0.0)
    shapes = []
    for index, name in enumerate(columns):
        if step >= 7.0 * len(name) or index % math.ceil(24 / step) == 0:
            shapes.append(
                f'<text class="tick mid" x="{left + (index + 0.5) * step:.1f}" y="12">{html.escape(name)}</text>'
            )
    for number, (name, values) in enumerate(rows):
        y = top + number * high
        shapes.append(f'<text class="tick end" x="{left - 8}" y="{y + 14:.1f}">{html.escape(name[-34:])}</text>')
        for index, value in enumerate(values):
            if value is None:
                continue
            tip = f"{columns[index]}, {name}: {100 * value:.2f} %"
            shade = 0.08 + 0.92 * value / largest if largest else 0.08
            shapes.append(
                f'<rect class="heat" fill-opacity="{shade:.3f}" x="{left + index * step:.1f}" y="{y:.1f}" '
                f'width="{max(step - 1, 1):.1f}" height="{high - 1}">{_tip(tip)}</rect>'
            )
    return _svg(top + high * len(rows) + 4, title, shapes)


@dataclass(frozen=True)
class Point:
    """In a plane; both are better when smaller. `size` >= 0 is shown as the area of its circle."""

    label: str
    x: float
    y: float
    size: float
    style: str
    tip: str


def front(points: Sequence[Point]) -> list[Point]:
    """The points to which no other is better in one direction and as good in the other, from left to right."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, p.y)):
        if not kept or point.y < kept[-1].y:
            kept.append(point)
    return kept


def scatter(points: Sequence[Point], *, title: str, x: str, y: str) -> str:
    """Circles with their labels, and the front as a line; `x` and `y` name the axes."""
    height, left, bottom = 300.0, 74.0, 44.0
    across, up = (round_ticks(max((value for value in axis), default=0.0)) for axis in _axes(points))
    shapes = _axis(left, height, [(tick, f"{tick:g}") for tick in up])

    def place(point: Point) -> tuple[float, float]:
        return left + point.x / across[-1] * (WIDTH - left - 90), height + 8 - point.y / up[-1] * height

    for tick in across:
        at = left + tick / across[-1] * (WIDTH - left - 90)
        shapes.append(f'<text class="tick mid" x="{at:.1f}" y="{height + 24}">{tick:g}</text>')
    shapes.append(
        f'<text class="tick mid" x="{left + (WIDTH - left) / 2:.1f}" y="{height + 42}">{html.escape(x)}</text>'
    )
    shapes.append(f'<text class="tick" x="{left + 6}" y="18">{html.escape(y)}</text>')
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in map(place, front(points)))
    shapes.append(f'<polyline class="front" points="{line}"/>')
    largest = max((point.size for point in points), default=0.0)
    for point in points:
        a, b = place(point)
        radius = 4 + 10 * math.sqrt(point.size / largest) if largest else 6.0
        shapes.append(
            f'<circle class="{point.style}" cx="{a:.1f}" cy="{b:.1f}" r="{radius:.1f}">{_tip(point.tip)}</circle>'
        )
        shapes.append(f'<text class="tick" x="{a + radius + 3:.1f}" y="{b + 4:.1f}">{html.escape(point.label)}</text>')
    return _svg(height + bottom + 8, title, shapes)


def _axes(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point.x for point in points], [point.y for point in points]


@dataclass(frozen=True)
class Bar:
    """A labelled bar: `part` of its length is filled. `style` colours it, `note` stands at its end."""

    label: str
    value: float
    part: float
    style: str
    note: str
    tip: str


def bars(items: Sequence[Bar], *, title: str) -> str:
    """One horizontal bar per item, in the order given: pale for the whole, filled for `part` of it."""
    left, right, step = 330.0, 130.0, 24.0
    scale = (WIDTH - left - right) / max((item.value for item in items), default=1.0)
    shapes = []
    for index, item in enumerate(items):
        y, whole = 4 + index * step, max(item.value * scale, 1.0)
        middle = y + 15
        shapes.append(f'<text class="name" x="{left - 8}" y="{middle}">{html.escape(item.label)}</text>')
        shapes.append(
            f'<g class="{item.style}">{_tip(item.tip)}'
            f'<rect class="pale" x="{left}" y="{y + 2}" width="{whole:.1f}" height="{step - 6}"/>'
            f'<rect x="{left}" y="{y + 2}" width="{whole * min(item.part, 1.0):.1f}" height="{step - 6}"/></g>'
        )
        shapes.append(f'<text class="tick" x="{left + whole + 8:.1f}" y="{middle}">{html.escape(item.note)}</text>')
    return _svg(8 + step * len(items), title, shapes)


def round_ticks(highest: float) -> list[float]:
    """Four to seven round numbers from 0 to at least `highest`."""
    if highest <= 0:
        return [0.0, 1.0]
    size = 10.0 ** math.floor(math.log10(highest / 4))
    step = next(size * factor for factor in (1, 2, 5, 10) if highest / (size * factor) <= 6)
    return [step * index for index in range(math.ceil(highest / step - 1e-9) + 1)]


def _axis(left: float, height: float, ticks: Sequence[tuple[float, str]]) -> list[str]:
    shapes = []
    for value, label in ticks:
        y = height + 8 - value / ticks[-1][0] * height
        shapes.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{WIDTH}" y2="{y:.1f}"/>')
        shapes.append(f'<text class="tick end" x="{left - 6}" y="{y + 4:.1f}">{label}</text>')
    return shapes


def _tip(text: str) -> str:
    return f"<title>{html.escape(text)}</title>"


def _svg(height: float, title: str, shapes: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img" aria-label="{html.escape(title)}">'
        + "".join(shapes)
        + "</svg>"
    )
