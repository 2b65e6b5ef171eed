"""Text in pictures: lines are found, cut out and read (docs/tasks.md, "Text in pictures")."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.bundle import dims as dimensions
from edgec.errors import RunError, UnsupportedError
from edgec.pictures import colors, pixels_of, read_image, resized
from edgec.run.graph import Graph
from edgec.run.tasks.runner import first_float_output
from edgec.run.tasks.text_boxes import TextBox, text_boxes

TASK = "ocr"
DETECT_GRAPH, RECOGNIZE_GRAPH = "detect", "recognize"
TALL = 1.5  # times higher than wide, and a line is read from top to bottom

Pixels = npt.NDArray[np.uint8]  # [height, width, 3], RGB
Corner = tuple[float, float]


@dataclass(frozen=True)
class TextLine:
    text: str
    score: float  # mean probability of its characters
    corners: tuple[Corner, Corner, Corner, Corner]  # in pixels of the picture, clockwise from the text's upper left

    def __str__(self) -> str:
        return self.text

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Quad:
    """A parallelogram in the picture: its upper left corner and the vectors along its upper and left sides."""

    origin: Corner
    right: Corner
    down: Corner

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in whole pixels, at least 1."""
        width, height = (math.sqrt(x * x + y * y) for x, y in (self.right, self.down))
        return max(1, math.floor(width + 0.5)), max(1, math.floor(height + 0.5))

    def turned(self) -> _Quad:
        """Read from top to bottom: a quarter turn counterclockwise."""
        (x, y), (dx, dy) = self.origin, self.right
        return _Quad((x + dx, y + dy), self.down, (-dx, -dy))

    def corners(self) -> list[Corner]:
        (x, y), (rx, ry), (dx, dy) = self.origin, self.right, self.down
        return [(x, y), (x + rx, y + ry), (x + rx + dx, y + ry + dy), (x + dx, y + dy)]


def read_text(detect: Graph, recognize: Graph, task: Mapping[str, Any], image: Any) -> list[TextLine]:
    """The lines of text in a picture, in reading order."""
    picture = pixels_of(read_image(image))
    quads = [_line(quad) for quad in in_reading_order(_find(detect, task["detect"], picture))]
    lines = []
    for quad in quads:
        text, score = _read(recognize, task["recognize"], cut(picture, quad))
        if text and score >= task["min_score"]:
            lines.append(TextLine(text, score, _inside(quad.corners(), picture)))
    return lines


def _line(quad: _Quad) -> _Quad:
    width, height = quad.size
    return quad.turned() if height >= TALL * width else quad


def _inside(corners: Sequence[Corner], picture: Pixels) -> Any:
    height, width, _ = picture.shape
    return tuple((min(max(x, 0.0), float(width)), min(max(y, 0.0), float(height))) for x, y in corners)


# Finding


def _find(graph: Graph, settings: Mapping[str, Any], picture: Pixels) -> list[_Quad]:
    height, width, _ = picture.shape
    (step_y, most_y), (step_x, most_x) = _sides(graph)
    ratio = min(1.0, settings["longest"] / max(width, height), most_x / width, most_y / height)
    size = _stepped(width * ratio, step_x, most_x), _stepped(height * ratio, step_y, most_y)
    values = colors(resized(picture, size), settings)
    output = first_float_output(graph.run({graph.inputs[0].name: values.transpose(2, 0, 1)[np.newaxis]}))
    if output.ndim != 4 or output.shape[:2] != (1, 1):
        raise RunError(f"the detector's output has the shape {list(output.shape)}, expected [1, 1, height, width]")
    probabilities = output[0, 0]
    scale_y, scale_x = height / probabilities.shape[0], width / probabilities.shape[1]
    return [_quad(box, scale_x, scale_y) for box in text_boxes(probabilities, settings)]


def _stepped(side: float, step: int, most: int) -> int:
    return min(max(math.floor(side / step + 0.5) * step, step), most)


def _sides(graph: Graph) -> list[tuple[int, int]]:
    """Step and largest size of the height and the width of a graph's picture `[1, 3, height, width]`."""
    [slot] = graph.inputs
    if len(slot.shape) != 4:
        raise UnsupportedError(f"the graph `{graph.name}` takes no picture of [1, 3, height, width]")
    ones = dict.fromkeys(graph.dims, 1)
    return [(dimensions.evaluate(side, ones), dimensions.evaluate(side, graph.dims)) for side in slot.shape[2:]]


def _quad(box: TextBox, scale_x: float, scale_y: float) -> _Quad:
    (ax, ay), (bx, by), (cx, cy) = (
        ((x + 0.5) * scale_x, (y + 0.5) * scale_y)
        for x, y in (box.corner(-1, -1), box.corner(1, -1), box.corner(-1, 1))
    )
    return _Quad((ax, ay), (bx - ax, by - ay), (cx - ax, cy - ay))


def in_reading_order(quads: Sequence[_Quad]) -> list[_Quad]:
    """Rows from top to bottom, each from left to right; a row's middles lie within half the height of its first."""

    def middle(quad: _Quad) -> Corner:
        (x, y), (rx, ry), (dx, dy) = quad.origin, quad.right, quad.down
        return y + (ry + dy) / 2, x + (rx + dx) / 2

    ordered: list[_Quad] = []
    row: list[_Quad] = []
    for quad in sorted(quads, key=middle):
        if row and middle(quad)[0] >= middle(row[0])[0] + row[0].size[1] / 2:
            ordered += sorted(row, key=lambda other: middle(other)[1])
            row = []
        row.append(quad)
    return ordered + sorted(row, key=lambda other: middle(other)[1])


# Reading


def cut(picture: Pixels, quad: _Quad) -> Pixels:
    """The parallelogram as a picture of its own, bilinear; what lies outside repeats the edge."""
    width, height = quad.size
    (ox, oy), (ux, uy), (vx, vy) = quad.origin, quad.right, quad.down
    along, down = (np.arange(width) + 0.5) / width, ((np.arange(height) + 0.5) / height)[:, np.newaxis]
    left, a = _neighbours(ox + ux * along + vx * down - 0.5)
    top, b = _neighbours(oy + uy * along + vy * down - 0.5)
    rows, columns = picture.shape[0] - 1, picture.shape[1] - 1
    x0, x1 = np.clip(left, 0, columns), np.clip(left + 1, 0, columns)
    y0, y1 = np.clip(top, 0, rows), np.clip(top + 1, 0, rows)
    a, b = a[..., np.newaxis], b[..., np.newaxis]
    upper = picture[y0, x0] * (1 - a) + picture[y0, x1] * a
    lower = picture[y1, x0] * (1 - a) + picture[y1, x1] * a
    return np.floor(upper * (1 - b) + lower * b + 0.5).astype(np.uint8)


def _neighbours(place: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    whole = np.floor(place)
    return whole.astype(np.int64), place - whole


def _read(graph: Graph, settings: Mapping[str, Any], line: Pixels) -> tuple[str, float]:
    _, (step, most) = _sides(graph)
    height = int(settings["height"])
    width = min(max(math.ceil(height * line.shape[1] / line.shape[0]), 1), most)
    total = min(-(-max(width, int(settings["least_width"])) // step) * step, most)
    values = np.zeros((1, 3, height, total), np.float32)  # what the line does not fill is zero
    values[0, :, :, :width] = colors(resized(line, (width, height)), settings).transpose(2, 0, 1)
    output = first_float_output(graph.run({graph.inputs[0].name: values}), 3)
    characters = settings["characters"]
    if output.shape[2] != len(characters):
        raise RunError(f"the recogniser knows {output.shape[2]} characters, the task {len(characters)}")
    return greedy_text(output[0], characters)


def greedy_text(probabilities: npt.NDArray[np.float32], characters: Sequence[str]) -> tuple[str, float]:
    """The best character of each step; repeated ones count once, the first one is none (Graves et al., CTC, 2006)."""
    best = probabilities.argmax(axis=1)
    kept = (best != 0) & np.concatenate([[True], best[1:] != best[:-1]])
    if not kept.any():
        return "", 0.0
    scores = probabilities[kept, best[kept]].astype(np.float64)
    return "".join(characters[index] for index in best[kept]), float(np.cumsum(scores)[-1] / len(scores))
