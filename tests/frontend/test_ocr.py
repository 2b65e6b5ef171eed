"""Text readers of two ONNX files become one model of two parts."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest

from edgec.errors import ModelError
from edgec.frontend import check, load
from edgec.ir import GraphPart
from tests.ocr_models import CHARACTERS, save_reader


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_reader(tmp_path)
    return tmp_path


def test_two_files_become_two_parts(folder: Path) -> None:
    model = load(folder, task="ocr", name="reader")
    assert check(folder, task="ocr") == []
    assert (model.facts.name, model.facts.architecture, model.facts.source_format) == ("reader", "ocr", "onnx")
    assert dict(model.parts) == {
        "detect": GraphPart(("detect.x",), ("detect.y",)),
        "recognize": GraphPart(("recognize.x",), ("recognize.y",)),
    }
    shapes = [[str(dim) for dim in value.shape or ()] for value in model.model.graph.inputs]
    assert shapes == [["1", "3", "32*det_rows", "32*det_columns"], ["1", "3", "48", "8*rec_columns"]]
    task = dict(model.task or {})
    assert task["recognize"]["characters"] == ["", *CHARACTERS, " "]
    assert (task["min_score"], task["detect"]["longest"], task["detect"]["channels"]) == (0.5, 960, "BGR")
    model.verify()

    random = np.random.default_rng(0)
    feeds = {
        "detect.x": random.normal(size=(1, 3, 64, 96)).astype(np.float32),
        "recognize.x": random.normal(size=(1, 3, 48, 40)).astype(np.float32),
    }
    together = onnxruntime.InferenceSession(onnx_ir.to_proto(model.model).SerializeToString()).run(None, feeds)
    for part, result in zip(("detect", "recognize"), together, strict=True):
        alone = onnxruntime.InferenceSession(folder / f"{part}.onnx").run(None, {"x": feeds[f"{part}.x"]})
        np.testing.assert_allclose(result, alone[0], atol=1e-5)


def test_settings_of_a_task_win(folder: Path) -> None:
    given = {"type": "ocr", "min_score": 0.2, "detect": {"longest": 320}, "recognize": {"characters": ["", "x"]}}
    (folder / "task.json").write_text(json.dumps(given))
    task = dict(load(folder, task=str(folder / "task.json")).task or {})
    assert (task["min_score"], task["detect"]["longest"], task["detect"]["unclip"]) == (0.2, 320, 1.6)
    assert task["recognize"]["characters"] == ["", "x"]


def test_what_is_no_reader(folder: Path) -> None:
    with pytest.raises(ModelError, match="holds 2 models"):
        load(folder)  # without the task they are two models
    (folder / "recognize.onnx").rename(folder / "kept")
    with pytest.raises(ModelError, match="no file has `character` metadata"):
        load(folder, task="ocr")
    (folder / "kept").rename(folder / "recognize.onnx")
    shutil.copy(folder / "detect.onnx", folder / "detect2.onnx")
    with pytest.raises(ModelError, match=r"`detect.onnx`, `detect2.onnx` finds text") as caught:
        load(folder, task="ocr")
    assert "a folder of their own" in (caught.value.hint or "")


def test_operators_are_checked(folder: Path) -> None:
    graphs = [onnx.load(folder / f"{name}.onnx").graph for name in ("detect", "recognize")]
    known = {node.op_type for graph in graphs for node in graph.node} - {"Softmax", "Resize"}
    subjects = [problem.subject for problem in check(folder, task="ocr", supported_ops=known)]
    assert sorted(subjects) == ["Resize", "Softmax"]
