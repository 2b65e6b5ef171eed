"""Regions, hulls, rectangles: against slow and obvious ways to find them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from edgec.run.tasks.text_boxes import hull, regions, smallest_rectangle, text_boxes

SETTINGS = {"threshold": 0.3, "box_threshold": 0.6, "unclip": 1.5, "shortest": 3}


def flooded(mask: npt.NDArray[np.bool_]) -> list[set[tuple[int, int]]]:
    """Regions by their first pixel, as sets of (row, column)."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    found = []
    for first in sorted(left):
        if first not in left:
            continue
        region, pending = set(), [first]
        left.discard(first)
        while pending:
            y, x = pending.pop()
            region.add((y, x))
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= around
            pending += around
        found.append(region)
    return found


@pytest.mark.parametrize("density", [0.1, 0.35, 0.5, 0.8])
@pytest.mark.parametrize("shape", [(1, 17), (13, 1), (23, 31)])
def test_regions(shape: tuple[int, int], density: float) -> None:
    random = np.random.default_rng(int(density * 100))
    for _ in range(20):
        mask = random.random(shape) < density
        got = [{(y, x) for y, start, end in runs for x in range(start, end)} for runs in regions(mask)]
        assert got == flooded(mask)


def test_hull_and_rectangle_hold_all_points_and_no_smaller_one_does() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        points = [(int(x), int(y)) for x, y in random.integers(0, 40, (int(random.integers(3, 25)), 2))]
        corners = hull(points)
        box = smallest_rectangle(corners)
        assert set(corners) <= set(points)
        (rx, ry), epsilon = box.right, 1e-9
        assert rx * rx + ry * ry == pytest.approx(1) and rx >= math.sqrt(0.5) - epsilon
        for x, y in points:
            dx, dy = x - box.x, y - box.y
            assert abs(dx * rx + dy * ry) <= box.width / 2 + epsilon
            assert abs(dy * rx - dx * ry) <= box.height / 2 + epsilon
        for angle in np.linspace(0, math.pi / 2, 181):
            c, s = math.cos(angle), math.sin(angle)
            spans = [np.ptp([x * a + y * b for x, y in points]) for a, b in ((c, s), (-s, c))]
            assert spans[0] * spans[1] >= box.width * box.height - 1e-6


@pytest.mark.parametrize(("points", "size"), [([(3, 4)], (0, 0)), ([(0, 0), (3, 4)], (0, 5)), ([(1, 1)] * 4, (0, 0))])
def test_points_and_segments(points: list[tuple[int, int]], size: tuple[float, float]) -> None:
    box = smallest_rectangle(hull(points))
    assert sorted((box.width, box.height)) == pytest.approx(size)


def test_boxes_grow_and_weak_or_thin_ones_are_dropped() -> None:
    map_ = np.zeros((40, 60), np.float32)
    map_[5:12, 10:41] = 0.9  # 31 x 7 pixels
    map_[20:30, 5:15] = 0.4  # too weak
    map_[32:34, 20:50] = 0.9  # too thin
    [box] = text_boxes(map_, SETTINGS)
    distance = 30 * 6 * 1.5 / (2 * 36)
    assert (box.x, box.y, box.right) == (25, 8, (1, 0))
    assert (box.width, box.height) == pytest.approx((30 + 2 * distance, 6 + 2 * distance))
    assert box.corner(-1, -1) == pytest.approx((10 - distance, 5 - distance))
    assert box.corner(1, 1) == pytest.approx((40 + distance, 11 + distance))


def test_an_empty_map() -> None:
    assert text_boxes(np.zeros((8, 8), np.float32), SETTINGS) == []
