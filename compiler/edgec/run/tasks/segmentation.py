"""A class for every pixel (docs/tasks.md, "Segmentation")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgec.errors import RunError
from edgec.pictures import Placement, read_image
from edgec.run.tasks.classification import label_of
from edgec.run.tasks.images import image_output
from edgec.run.tasks.runner import GraphRunner

if TYPE_CHECKING:
    from PIL.Image import Image

TASK = "semantic-segmentation"
_MOST_CLASSES = 1 << 16
_BLOCK = 64  # rows of pixels at a time


@dataclass(frozen=True)
class Segment:
    """A class that a picture shows."""

    index: int
    label: str
    pixels: int
    share: float  # of the picture

    def __str__(self) -> str:
        return self.label

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Segmentation:
    """`classes` is uint16 [height, width]; `segments` the classes in it, the largest first."""

    classes: npt.NDArray[np.uint16]
    segments: list[Segment]

    def to_json(self) -> dict[str, Any]:
        height, width = self.classes.shape
        return {"width": width, "height": height, "segments": [segment.to_json() for segment in self.segments]}

    def overlay(self, image: Any, *, opacity: float = 0.5) -> Image:
        """The picture with the color of each pixel's class over it."""
        from PIL import Image

        picture = read_image(image)
        over = Image.fromarray(_colors(_MOST_CLASSES)[self.classes])
        return Image.blend(picture, over.resize(picture.size, Image.Resampling.NEAREST), opacity)


def segment(runner: GraphRunner, task: Mapping[str, Any], image: Any) -> Segmentation:
    spec = task["image"]
    logits, placement = image_output(runner, spec, image, rank=4)
    if spec["layout"] == "NHWC":
        logits = logits.transpose(0, 3, 1, 2)
    if logits.shape[0] != 1 or not 1 < logits.shape[1] <= _MOST_CLASSES or 0 in logits.shape:
        raise RunError(f"the output has the shape {list(logits.shape)}, expected [1, classes, rows, columns]")
    classes = best_classes(logits[0], placement, int(spec["width"]), int(spec["height"]))
    counts = np.bincount(classes.ravel())
    found = [(int(index), int(counts[index])) for index in np.argsort(-counts, kind="stable") if counts[index]]
    segments = [Segment(index, label_of(task, index), pixels, pixels / classes.size) for index, pixels in found]
    return Segmentation(classes, segments)


def best_classes(
    logits: npt.NDArray[np.float32], placement: Placement, width: int, height: int
) -> npt.NDArray[np.uint16]:
    """uint16 [source height, source width]: the class with the largest logit of [classes, rows, columns]."""
    planes = logits.astype(np.float64)
    _, rows, columns = planes.shape
    low, high, down = _between(placement.height, placement.scale_y, placement.offset_y, height, rows)
    left, right, along = _between(placement.width, placement.scale_x, placement.offset_x, width, columns)
    result = np.zeros((placement.height, placement.width), np.uint16)
    for start in range(0, placement.height, _BLOCK):
        block = slice(start, start + _BLOCK)
        part = down[block, np.newaxis]
        best: npt.NDArray[np.float64] | None = None
        for index, plane in enumerate(planes):
            lines = plane[low[block]] * (1 - part) + plane[high[block]] * part
            values = lines[:, left] * (1 - along) + lines[:, right] * along
            if best is None:
                best = values
                continue
            better = values > best
            best[better] = values[better]
            result[block][better] = index
    return result


def _between(
    count: int, scale: float, offset: int, side: int, size: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Of each pixel: the two places of the map beside it, and the part of the second."""
    place = (np.arange(count, dtype=np.float64) + 0.5 - offset) * scale * size / side - 0.5
    place = np.minimum(np.maximum(place, 0.0), size - 1.0)
    low = np.floor(place).astype(np.int64)
    return low, np.minimum(low + 1, size - 1), place - low


def _colors(count: int) -> npt.NDArray[np.uint8]:
    """uint8 [count, 3]: colors far from each other for small numbers, as PASCAL VOC spreads its bits."""
    numbers = np.arange(count)
    colors = np.zeros((count, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            if 3 * bit + channel < 17:
                colors[:, channel] |= (((numbers >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colors
