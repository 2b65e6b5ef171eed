from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgec.errors import MissingDependencyError, RunError, UsageError
from edgec.pictures import Placement, fit, read_image, to_tensor
from edgec.run.tasks.classification import classifications
from edgec.run.tasks.detection import detections

SPEC = {
    "width": 8,
    "height": 4,
    "layout": "NCHW",
    "channels": "RGB",
    "fit": "stretch",
    "interpolation": "bilinear",
    "mean": [1, 2, 3],
    "std": [2, 4, 8],
}


def picture(width: int, height: int) -> Image.Image:
    random = np.random.default_rng(width * height)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


# reading


def test_alpha_is_laid_on_white() -> None:
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 255, 128]]], np.uint8)
    expected = [[10, 20, 30], [255, 255, 255], [127, 177, 255]]
    assert np.asarray(read_image(Image.fromarray(rgba))).tolist() == [expected]
    assert np.asarray(read_image(rgba)).tolist() == [expected]


def test_other_modes_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "1", "P", "CMYK", "LA", "I;16"):
        assert read_image(Image.new(mode, (2, 2))).mode == "RGB"


def test_pictures_are_turned_upright(tmp_path: Path) -> None:
    image = picture(4, 2)
    exif = image.getexif()
    exif[0x0112] = 6  # rotate by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    assert read_image(tmp_path / "turned.png").size == (2, 4)


def test_what_is_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.jpg").write_text("hello")
    picture(9, 9).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:60])
    for name in ("text.jpg", "cut.png", "missing.png"):
        with pytest.raises(UsageError, match=f"{name}` cannot be read"):
            read_image(tmp_path / name)
    with pytest.raises(UsageError, match="no picture"):
        read_image(np.zeros((2, 2), np.float32))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    picture(9, 9).save(tmp_path / "bomb.png")
    with pytest.raises(UsageError, match="too large"):
        read_image(tmp_path / "bomb.png")


def test_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def no_pillow(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("PIL"):
            raise ImportError(name)
        return original(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", no_pillow)
    with pytest.raises(MissingDependencyError, match="Pillow"):
        read_image("x.png")


# fitting


def test_stretch() -> None:
    image = picture(20, 20)
    pixels, placement = fit(image, SPEC)
    assert np.array_equal(pixels, np.asarray(image.resize((8, 4), Image.Resampling.BILINEAR)))
    assert placement == Placement(8 / 20, 4 / 20, 0, 0, 20, 20)


@pytest.mark.parametrize(
    ("size", "crop", "box"),
    [
        ((20, 20), 1, (0, 5, 20, 10)),
        ((40, 10), 0.5, (15, 2, 10, 5)),
        ((21, 11), 0.875, (1, 1, 18, 9)),
        ((1, 1), 0.1, (0, 0, 1, 1)),
    ],
)
def test_crop(size: tuple[int, int], crop: float, box: tuple[int, int, int, int]) -> None:
    image = picture(*size)
    pixels, placement = fit(image, {**SPEC, "fit": "crop", "crop": crop, "interpolation": "bicubic"})
    left, top, width, height = box
    cut = image.crop((left, top, left + width, top + height))
    assert np.array_equal(pixels, np.asarray(cut.resize((8, 4), Image.Resampling.BICUBIC)))
    assert (placement.offset_x, placement.offset_y) == (left, top)


def test_letterbox() -> None:
    image = picture(10, 20)
    pixels, placement = fit(image, {**SPEC, "fit": "letterbox", "pad": 114})
    assert np.array_equal(pixels[:4, :2], np.asarray(image.resize((2, 4), Image.Resampling.BILINEAR)))
    assert (pixels[:, 2:] == 114).all()
    assert placement == Placement(0.2, 0.2, 0, 0, 10, 20)
    pixels, _ = fit(picture(1000, 1), {**SPEC, "fit": "letterbox", "pad": 0})
    assert (pixels[1:] == 0).all()


def test_tensor_layouts() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    nchw = to_tensor(pixels, SPEC, raw=False)
    assert nchw.shape == (1, 3, 2, 4) and nchw.dtype == np.float32
    assert np.array_equal(nchw[0, 1], (pixels[..., 1] - 2.0) / 4)
    bgr = to_tensor(pixels, {**SPEC, "channels": "BGR", "layout": "NHWC"}, raw=False)
    assert bgr.shape == (1, 2, 4, 3)
    assert np.array_equal(bgr[0, ..., 0], (pixels[..., 2] - 1.0) / 2)
    raw = to_tensor(pixels, SPEC, raw=True)
    assert raw.dtype == np.uint8 and np.array_equal(raw[0, 2], pixels[..., 2])


# results


def test_classes_by_score() -> None:
    output = np.array([[0, 2, 1, 2]], np.float32)
    task = {"labels": ["a", "b", "c"], "scores": "logits"}
    found = classifications(output, task, 3)
    assert [(entry.index, entry.label) for entry in found] == [(1, "b"), (3, "3"), (2, "c")]
    total = 1 + np.e + 2 * np.e**2
    assert found[0].score == pytest.approx(np.e**2 / total) and str(found[0]) == "b"
    assert found[0].to_json() == {"index": 1, "label": "b", "score": found[0].score}
    plain = classifications(output, {"labels": None, "scores": "probabilities"}, 99)
    assert [(entry.label, entry.score) for entry in plain] == [("1", 2), ("3", 2), ("2", 1), ("0", 0)]


DETECTION = {
    "image": {"width": 16, "height": 16},
    "labels": ["cat", "dog"],
    "strides": [8, 16],
    "score_threshold": 0.3,
    "iou_threshold": 0.5,
}


def cells(
    *entries: tuple[int, float, float, float, float, float, float, float],
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Five cells (2 x 2 of stride 8, one of stride 16): (cell, x, y, log w, log h, objectness, cat, dog)."""
    output = np.zeros((1, 5, 7), np.float32)
    for cell, *values in entries:
        output[0, cell] = values
    return output


def test_boxes_are_decoded_and_mapped_back() -> None:
    output = cells((3, 0.5, 0.25, 0, np.log(0.5), 0.9, 0.2, 0.8), (4, 0.5, 0.5, 5, 5, 0.5, 1, 0))
    first, second = detections(output, DETECTION, Placement(0.5, 0.5, 0, 0, 30, 25))
    assert (first.label, first.index, first.score) == ("dog", 1, pytest.approx(0.72))
    box = first.box  # centre (12, 10), 8 x 4 in the input, twice that in the source
    assert (box.x, box.y, box.width, box.height) == pytest.approx((16, 16, 14, 8))  # cut at x = 30
    assert (second.label, second.box.x, second.box.y, second.box.width, second.box.height) == ("cat", 0, 0, 30, 25)
    assert str(first) == "dog at 16,16, 14 x 8"
    assert first.to_json()["box"] == {"x": box.x, "y": box.y, "width": box.width, "height": box.height}


def test_overlapping_boxes_of_a_class_are_dropped() -> None:
    same = (0.5, 0.5, 0.0, 0.0)
    output = cells(
        (0, *same, 0.8, 1, 0),
        (1, -0.4, 0.5, 0, 0, 0.9, 1, 0),
        (2, 0.5, -0.4, 0, 0, 0.7, 0, 1),
        (3, 0, 0, 0, 0, 0.29, 1, 0),
    )
    found = detections(output, DETECTION, Placement(1, 1, 0, 0, 16, 16))
    assert [(entry.label, round(entry.score, 3)) for entry in found] == [("cat", 0.9), ("dog", 0.7)]


def test_an_output_of_the_wrong_shape() -> None:
    with pytest.raises(RunError, match=r"expected \[1, 5, 5 \+ classes\]"):
        detections(np.zeros((1, 4, 7), np.float32), DETECTION, Placement(1, 1, 0, 0, 16, 16))
