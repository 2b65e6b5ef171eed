"""Rectangles around the lines of text in a probability map (docs/tasks.md, "Text in pictures").

The boxes of differentiable binarization: Liao et al., "Real-time Scene Text Detection with Differentiable
Binarization", 2019. All of it is exact or in a fixed order, so that every runtime finds the same boxes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Point = tuple[int, int]
Run = tuple[int, int, int]  # row, first column, column after the last


@dataclass(frozen=True)
class TextBox:
    """A rectangle in pixels of the map, centres of pixels at whole numbers."""

    x: float  # its centre
    y: float
    right: tuple[float, float]  # unit vector along the side called width, never to the left
    width: float
    height: float

    def corner(self, along: float, across: float) -> tuple[float, float]:
        """The point at `along` halves of the width and `across` halves of the height from the centre."""
        dx, dy = self.right
        a, b = along * self.width / 2, across * self.height / 2
        return self.x + dx * a - dy * b, self.y + dy * a + dx * b


def text_boxes(probabilities: npt.NDArray[np.float32], settings: Mapping[str, Any]) -> list[TextBox]:
    """The boxes in a map `[height, width]`, in the order of their first pixels, row by row."""
    found = []
    for runs in regions(probabilities > np.float32(settings["threshold"])):
        box = smallest_rectangle(hull([point for y, start, end in runs for point in ((start, y), (end - 1, y))]))
        if min(box.width, box.height) < settings["shortest"]:
            continue
        values = np.concatenate([probabilities[y, start:end] for y, start, end in runs]).astype(np.float64)
        if np.cumsum(values)[-1] / len(values) < settings["box_threshold"]:
            continue
        distance = box.width * box.height * settings["unclip"] / (2 * (box.width + box.height))
        grown = TextBox(box.x, box.y, box.right, box.width + 2 * distance, box.height + 2 * distance)
        if min(grown.width, grown.height) >= settings["shortest"] + 2:
            found.append(grown)
    return found


def regions(mask: npt.NDArray[np.bool_]) -> list[list[Run]]:
    """Connected pixels, neighbours at corners too, as runs row by row; regions by their first pixel."""
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    starts, ends = np.argwhere(edges == 1).tolist(), np.argwhere(edges == -1)[:, 1].tolist()
    runs: list[Run] = [(y, x, end) for (y, x), end in zip(starts, ends, strict=True)]
    root = list(range(len(runs)))

    def find(index: int) -> int:
        while root[index] != index:
            root[index] = root[root[index]]
            index = root[index]
        return index

    for above, below in _touching(runs):
        first, second = sorted((find(above), find(below)))
        root[second] = first
    grouped: dict[int, list[Run]] = {}
    for index, run in enumerate(runs):
        grouped.setdefault(find(index), []).append(run)
    return [grouped[index] for index in sorted(grouped)]


def _touching(runs: Sequence[Run]) -> Iterator[tuple[int, int]]:
    """Pairs of runs in neighbouring rows that have neighbouring pixels."""
    above = 0
    for index, (y, start, end) in enumerate(runs):
        while runs[above][0] < y - 1 or (runs[above][0] == y - 1 and runs[above][2] < start):
            above += 1
        for other in range(above, index):
            row, first, _ = runs[other]
            if row != y - 1 or first > end:
                break
            yield other, index


def hull(points: Sequence[Point]) -> list[Point]:
    """Corners of the convex hull (Andrew's monotone chain, 1979), from the smallest (x, y) on."""
    ordered = sorted(set(points))
    if len(ordered) < 3:
        return ordered
    return _chain(ordered)[:-1] + _chain(ordered[::-1])[:-1]


def _chain(points: Sequence[Point]) -> list[Point]:
    chain: list[Point] = []
    for point in points:
        while len(chain) >= 2 and _turn(chain[-2], chain[-1], point) <= 0:
            chain.pop()
        chain.append(point)
    return chain


def _turn(a: Point, b: Point, c: Point) -> int:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def smallest_rectangle(corners: Sequence[Point]) -> TextBox:
    """The rectangle of the least area around a convex hull: one of its sides lies on a side of the hull."""
    best: tuple[float, int, int, int, int, int, int] | None = None
    for (x0, y0), (x1, y1) in itertools.pairwise([*corners, corners[0]]):
        dx, dy = x1 - x0, y1 - y0
        if dx == dy == 0:
            dx = 1  # a single point
        along = [x * dx + y * dy for x, y in corners]
        across = [y * dx - x * dy for x, y in corners]
        low, high, near, far = min(along), max(along), min(across), max(across)
        area = (high - low) * (far - near) / (dx * dx + dy * dy)
        if best is None or area < best[0]:
            best = (area, dx, dy, low, high, near, far)
    assert best is not None
    _, dx, dy, low, high, near, far = best
    square = dx * dx + dy * dy
    length = math.sqrt(square)
    a, b = (low + high) / 2, (near + far) / 2
    x, y = (a * dx - b * dy) / square, (a * dy + b * dx) / square
    width, height = (high - low) / length, (far - near) / length
    turned = [(dx, dy), (-dy, dx), (-dx, -dy), (dy, -dx)]
    right = max(range(4), key=lambda i: (turned[i], -i))
    if right % 2:
        width, height = height, width
    return TextBox(x, y, (turned[right][0] / length, turned[right][1] / length), width, height)
