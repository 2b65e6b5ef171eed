"""A text reader of two ONNX files, from a folder to lines: as onnxruntime computes it, the same on every engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from PIL import Image, ImageDraw

import edgec
from edgec.bundle import dims
from tests.conformance.runtimes import Runtime, image_job, in_javascript
from tests.ocr_models import save_reader

NAMES = {"detect": "detect.onnx", "recognize": "recognize.onnx"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("reader")
    save_reader(made)
    return made


@pytest.fixture(scope="module")
def bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("bundles") / "reader.edgec"
    task = folder / "task.json"
    task.write_text('{"type": "ocr", "detect": {"longest": 256}, "min_score": 0.1}')
    return edgec.compile(
        folder, "laptop-8gb", output, edgec.CompileOptions(task=str(task), max_dims={"rec_columns": 60})
    ).path


def page() -> npt.NDArray[np.uint8]:
    """Black bars on white: two beside each other, one below, one that leans, one that is upright."""
    image = Image.new("RGB", (230, 150), "white")
    draw = ImageDraw.Draw(image)
    for box in ((10, 10, 90, 24), (120, 12, 210, 26), (12, 45, 150, 60)):
        draw.rectangle(box, fill=(20, 0, 30))
        for x in range(box[0] + 3, box[2] - 5, 9):
            draw.rectangle((x, box[1] + x % 5, x + x % 7, box[3] - x % 4), fill=(x % 90, 3 * x % 80, 7 * x % 100))
    draw.polygon([(20, 120), (130, 90), (134, 104), (24, 134)], fill="black")
    draw.rectangle((190, 50, 204, 130), fill="black")
    return np.asarray(image)


@pytest.mark.parametrize("part", ["detect", "recognize"])
def test_both_graphs_at_several_sizes(part: str, folder: Path, bundle: Path) -> None:
    session = onnxruntime.InferenceSession(folder / NAMES[part])
    random = np.random.default_rng(0)
    with edgec.load(bundle) as model:
        graph = model.graph(part)
        [slot] = graph.inputs
        for count in (1, 2, 5):
            values = {name: min(count + i, bound) for i, (name, bound) in enumerate(graph.dims.items())}
            shape = [dims.evaluate(size, values) for size in slot.shape]
            array = random.normal(size=shape).astype(np.float32)
            [expected] = session.run(None, {"x": array})
            [got] = graph.run({slot.name: array}).values()
            np.testing.assert_allclose(got, expected, atol=1e-5 if part == "detect" else 0.05)
        if part == "detect":
            with pytest.raises(edgec.EdgecError, match="has the shape"):
                graph.run({slot.name: np.zeros((1, 3, 33, 64), np.float32)})


def test_lines_in_reading_order(bundle: Path) -> None:
    with edgec.load(bundle) as model:
        task: Any = model.manifest.task
        assert len(task["recognize"]["characters"]) == 12
        lines = model.ocr(page())
    middles = [np.mean(line.corners, axis=0) for line in lines]
    wanted = [(50, 17), (165, 19), (81, 52), (77, 112), (197, 90)]
    assert len(lines) == len(wanted), lines
    for middle, place in zip(middles, wanted, strict=True):
        assert np.abs(middle - place).max() < 4, (middle, place)
    leaning, upright = lines[3], lines[4]
    (x0, y0), (x1, y1) = upright.corners[:2]
    assert abs(x1 - x0) < 1 and abs(y1 - y0) > 70  # along its text
    (x0, y0), (x1, y1) = leaning.corners[:2]
    assert (y0 - y1) / (x1 - x0) == pytest.approx(30 / 110, abs=0.1)
    assert all(line.text and 0.1 <= line.score <= 1 for line in lines)


@pytest.mark.node
@pytest.mark.parametrize(
    "runtime",
    [
        Runtime("node", "simd128", 1),
        pytest.param(Runtime("chromium", "simd128-threads", 2), marks=pytest.mark.browser),
        pytest.param(Runtime("firefox", "simd128", 1), marks=pytest.mark.browser),
    ],
    ids=str,
)
def test_the_same_lines_in_javascript(bundle: Path, runtime: Runtime) -> None:
    turned = np.asarray(Image.fromarray(page()).resize((301, 99)).rotate(7, expand=True, fillcolor="white"))
    pictures = [page(), turned, np.full((40, 50, 3), 255, np.uint8)]
    results = in_javascript(runtime, bundle, [{"ocr": image_job(picture)} for picture in pictures])
    with edgec.load(bundle, threads=1) as model:
        for picture, result in zip(pictures, results, strict=True):
            expected = [
                {"text": line.text, "score": line.score, "corners": [list(corner) for corner in line.corners]}
                for line in model.ocr(picture)
            ]
            assert result["lines"] == expected
    assert len(results[0]["lines"]) == 5 and len(results[1]["lines"]) > 2 and results[2]["lines"] == []
