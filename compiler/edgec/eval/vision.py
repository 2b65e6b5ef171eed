"""Top-1 of classifiers over a folder, and whether a detector finds the same boxes as its reference."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgec.errors import UsageError
from edgec.run.tasks.classification import Classification
from edgec.run.tasks.detection import Box, Detection


@dataclass(frozen=True)
class LabelledImage:
    path: Path
    index: int  # of the class


@dataclass(frozen=True)
class DetectionAgreement:
    """Boxes above the score threshold, matched one to one within their class."""

    images: int
    reference_boxes: int
    found: int  # reference boxes that the model has too
    extra: int  # boxes of the model that the reference lacks
    worst_iou: float  # of the found ones; 1 if there are none

    @property
    def same(self) -> bool:
        return self.found == self.reference_boxes and self.extra == 0


def read_index(folder: Path) -> list[LabelledImage]:
    """The pictures of `folder` and their classes from its `index.csv`.

    The first line names the columns: the file is in `file` or `filename` (or `path`, `image`), the
    class's number in `class`, `label` or `index` (or a name that ends in `_index` or `_id`).
    """
    file = folder / "index.csv"
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"`{file}` cannot be read ({error})") from error
    if not rows:
        raise UsageError(f"`{file}` lists no pictures")
    names = {name: name.strip().lower() for name in rows[0] if name}
    files = [name for name, low in names.items() if low in ("file", "filename", "file_name", "path", "image")]
    exact = [name for name, low in names.items() if low in ("class", "label", "index")]
    numbers = [
        name
        for name in (*exact, *(n for n, low in names.items() if low.endswith(("_index", "_id"))))
        if _numeric(rows, name)
    ]
    if not files or not numbers:
        raise UsageError(f"`{file}` has the columns {', '.join(names)}", hint="it needs `file` and `class`, a number")
    return [LabelledImage(_inside(folder, row[files[0]]), int(row[numbers[0]])) for row in rows]


def _numeric(rows: Sequence[dict[str, Any]], name: str) -> bool:
    return all(str(row[name]).strip().isdigit() for row in rows)


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise UsageError(f"`{name}` in `index.csv` leads out of the folder")
    return path


def top1(
    classify: Callable[[Path], Sequence[Classification]],
    images: Sequence[LabelledImage],
    *,
    progress: Callable[[int], None] | None = None,
) -> float:
    """Share of pictures whose best class is right. `progress` gets 1 per picture."""
    right = 0
    for image in images:
        right += int(classify(image.path)[0].index == image.index)
        if progress:
            progress(1)
    return right / len(images)


def detection_agreement(
    model: Callable[[Path], Sequence[Detection]],
    reference: Callable[[Path], Sequence[Detection]],
    images: Sequence[Path],
    *,
    score: float = 0.5,
    iou: float = 0.9,
    progress: Callable[[int], None] | None = None,
) -> DetectionAgreement:
    """Compare boxes of both above `score`; a box is found where the IoU is more than `iou`.

    A box just above the threshold in one model and just below in the other is not counted: the
    other model's boxes are looked up down to `score - 0.05`.
    """
    expected = found = extra = 0
    worst = 1.0
    for image in images:
        ours, theirs = model(image), reference(image)
        wanted = [box for box in theirs if box.score > score]
        matches = _match(wanted, [box for box in ours if box.score > score - 0.05], iou)
        expected += len(wanted)
        found += len(matches)
        worst = min([worst, *matches])
        more = [box for box in ours if box.score > score]
        extra += len(more) - len(_match(more, [box for box in theirs if box.score > score - 0.05], iou))
        if progress:
            progress(1)
    return DetectionAgreement(len(images), expected, found, extra, worst)


def _match(wanted: Sequence[Detection], candidates: Sequence[Detection], iou: float) -> list[float]:
    """The IoU of every wanted box that has a partner of its own class."""
    free = list(candidates)
    result = []
    for box in wanted:
        partners = [(box_iou(box.box, other.box), i) for i, other in enumerate(free) if other.index == box.index]
        best, index = max(partners, default=(0.0, -1))
        if best > iou:
            result.append(best)
            del free[index]
    return result


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union."""
    width = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    height = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / (a.width * a.height + b.width * b.height - both)
