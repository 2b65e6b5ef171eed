"""Raw boxes to objects (docs/tasks.md, "Object detection")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.errors import RunError
from edgec.pictures import Placement
from edgec.run.exp64 import exp
from edgec.run.tasks.classification import label_of


@dataclass(frozen=True)
class Box:
    """In pixels of the source picture, `x`, `y` at the top left."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Detection:
    index: int
    label: str
    score: float
    box: Box

    def __str__(self) -> str:
        box = self.box
        return f"{self.label} at {box.x:.0f},{box.y:.0f}, {box.width:.0f} x {box.height:.0f}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def detections(output: npt.NDArray[np.float32], task: Mapping[str, Any], placement: Placement) -> list[Detection]:
    """Objects by score descending, overlapping ones of a class dropped."""
    boxes, classes, scores = _decode(output, task)
    kept: list[int] = []
    for cell in np.argsort(-scores, kind="stable"):
        if scores[cell] < task["score_threshold"]:
            break
        rivals = [other for other in kept if classes[other] == classes[cell]]
        if all(overlap(boxes[other], boxes[cell]) <= task["iou_threshold"] for other in rivals):
            kept.append(int(cell))
    return [_detection(boxes[cell], int(classes[cell]), float(scores[cell]), task, placement) for cell in kept]


def _decode(
    output: npt.NDArray[np.float32], task: Mapping[str, Any]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Of every cell: (left, top, right, bottom) in the input's pixels, best class, its score."""
    grid = _grid(int(task["image"]["width"]), int(task["image"]["height"]), task["strides"])
    if output.ndim != 3 or output.shape[0] != 1 or output.shape[1] != len(grid) or output.shape[2] < 6:
        raise RunError(f"the output has the shape {list(output.shape)}, expected [1, {len(grid)}, 5 + classes]")
    values = output[0].astype(np.float64)
    x, y, stride = grid.T
    half_width, half_height = exp(values[:, 2]) * stride / 2, exp(values[:, 3]) * stride / 2
    center_x, center_y = (values[:, 0] + x) * stride, (values[:, 1] + y) * stride
    sides = (center_x - half_width, center_y - half_height, center_x + half_width, center_y + half_height)
    classes = np.argmax(values[:, 5:], axis=1)
    return np.stack(sides, axis=1), classes, values[:, 4] * values[np.arange(len(grid)), 5 + classes]


def _grid(width: int, height: int, strides: Sequence[int]) -> npt.NDArray[np.float64]:
    """(column, row, stride) of every cell."""
    cells = [
        (column, row, stride)
        for stride in strides
        for row in range(height // stride)
        for column in range(width // stride)
    ]
    return np.array(cells, np.float64).reshape(-1, 3)


def overlap(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return float(both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both))


def _detection(
    box: npt.NDArray[np.float64], index: int, score: float, task: Mapping[str, Any], placement: Placement
) -> Detection:
    def clamp(value: float, high: int) -> float:
        return min(max(float(value), 0.0), float(high))

    left = clamp(box[0] / placement.scale_x + placement.offset_x, placement.width)
    top = clamp(box[1] / placement.scale_y + placement.offset_y, placement.height)
    right = clamp(box[2] / placement.scale_x + placement.offset_x, placement.width)
    bottom = clamp(box[3] / placement.scale_y + placement.offset_y, placement.height)
    return Detection(index, label_of(task, index), score, Box(left, top, right - left, bottom - top))
