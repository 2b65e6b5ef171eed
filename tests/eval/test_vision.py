from __future__ import annotations

from pathlib import Path

import pytest

from edgec.errors import UsageError
from edgec.eval.vision import LabelledImage, box_iou, detection_agreement, read_index, top1
from edgec.pictures import list_pictures
from edgec.run.tasks.classification import Classification
from edgec.run.tasks.detection import Box, Detection


@pytest.mark.parametrize(
    "text",
    [
        "file,class_index,label\na.jpg,3,tench\nsub/b.jpg,0,shark\n",
        "filename,label\na.jpg,3\nsub/b.jpg,0\n",
        "\ufeffFile,Class,class_index\na.jpg,3,9\nsub/b.jpg,0,9\n",
    ],
)
def test_the_index(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.csv").write_text(text)
    root = tmp_path.resolve()
    assert read_index(tmp_path) == [LabelledImage(root / "a.jpg", 3), LabelledImage(root / "sub" / "b.jpg", 0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no pictures"),
        ("file,label\na.jpg,tench\n", "it needs `file` and `class`"),
        ("name,class\na.jpg,1\n", "it needs `file` and `class`"),
        ("file,class\n../a.jpg,1\n", "out of the folder"),
    ],
)
def test_bad_indexes(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "index.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_index(tmp_path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_index(tmp_path / "missing")


def test_pictures_of_a_folder(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in list_pictures(tmp_path)] == ["a.jpg", "b.PNG"]
    with pytest.raises(UsageError, match="no pictures"):
        list_pictures(tmp_path / "missing")


def test_top1_counts_the_best_class() -> None:
    images = [LabelledImage(Path(str(i)), i % 2) for i in range(4)]
    seen: list[int] = []
    share = top1(lambda path: [Classification(1, "b", 0.9), Classification(0, "a", 0.1)], images, progress=seen.append)
    assert share == 0.5 and sum(seen) == 4


def thing(x: float, score: float = 0.9, index: int = 0) -> Detection:
    return Detection(index, str(index), score, Box(x, 0, 100, 100))


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([thing(0)], [thing(1)], (1, 1, 0)),
        ([], [thing(0)], (1, 0, 0)),
        ([thing(0)], [], (0, 0, 1)),
        ([thing(0)], [thing(20)], (1, 0, 1)),
        ([thing(0, index=1)], [thing(0)], (1, 0, 1)),
        ([thing(0)], [thing(0), thing(2)], (2, 1, 0)),
        ([thing(0, 0.49)], [thing(0, 0.51)], (1, 1, 0)),  # on either side of the threshold
        ([thing(0, 0.40)], [thing(0, 0.51)], (1, 0, 0)),
        ([thing(0, 0.3)], [thing(0, 0.3)], (0, 0, 0)),
        ([thing(0), thing(300)], [thing(301), thing(1)], (2, 2, 0)),
    ],
)
def test_detection_agreement(ours: list[Detection], theirs: list[Detection], expected: tuple[int, int, int]) -> None:
    result = detection_agreement(lambda _: ours, lambda _: theirs, [Path("a")])
    assert (result.reference_boxes, result.found, result.extra) == expected
    assert result.same == (expected[0] == expected[1] and expected[2] == 0)
    assert result.images == 1 and 0.9 < result.worst_iou <= 1


def test_intersection_over_union() -> None:
    assert box_iou(Box(0, 0, 10, 10), Box(0, 0, 10, 10)) == 1
    assert box_iou(Box(0, 0, 10, 10), Box(5, 0, 10, 10)) == pytest.approx(1 / 3)
    assert box_iou(Box(0, 0, 10, 10), Box(10, 0, 10, 10)) == 0
