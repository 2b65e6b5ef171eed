"""`Model.embed`, `.classify` and `.detect`: the task's data and the graph come together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgec.bundle.manifest import Slot
from edgec.errors import UnsupportedError
from edgec.run import Model, load
from tests.run.fake_module import make_lowered, make_model, make_plan, make_tokenizer
from tests.run.tasks.test_images import DETECTION, SPEC, cells, picture

IMAGE_SLOT = Slot("image", "float32", (1, 3, 4, 8), 0, 0)


def with_task(
    model: Model,
    task: Mapping[str, Any] | None,
    inputs: tuple[Slot, ...],
    output: npt.NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, Any]:
    """Give the model a task and a graph that answers `output`; returns what the graph was asked."""
    asked: dict[str, Any] = {}

    def run(arrays: Mapping[str, Any]) -> dict[str, npt.NDArray[np.float32]]:
        asked.update(arrays)
        return {"output": output}

    monkeypatch.setattr(model, "manifest", dataclasses.replace(model.manifest, task=task, inputs=inputs))
    monkeypatch.setattr(model, "run", run)
    return asked


def test_classify(graph: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    task = {"type": "image-classification", "image": SPEC, "labels": ["a", "b"], "scores": "logits"}
    asked = with_task(graph, task, (IMAGE_SLOT,), np.array([[1, 3]], np.float32), monkeypatch)
    assert [entry.label for entry in graph.classify(picture(20, 10))] == ["b", "a"]
    assert len(graph.classify(picture(20, 10), top_k=1)) == 1
    assert asked["image"].shape == (1, 3, 4, 8) and asked["image"].dtype == np.float32


def test_detect(graph: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    image = {**SPEC, "width": 16, "height": 16, "fit": "letterbox", "pad": 114}
    task = {**DETECTION, "type": "object-detection", "image": image}
    output = cells((0, 0.5, 0.5, 0, 0, 0.9, 1, 0))
    with_task(graph, task, (IMAGE_SLOT,), output, monkeypatch)
    [found] = graph.detect(picture(32, 32))
    assert found.label == "cat" and (found.box.x, found.box.width) == (0, 16)


def test_embed(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    task = {"type": "embedding", "pooling": "cls", "normalize": False, "max_length": 4}
    states = np.arange(12, dtype=np.float32).reshape(1, 4, 3)
    slots = (Slot("input_ids", "int64", (1, "sequence"), 0, 0),)
    asked = with_task(model, task, slots, states, monkeypatch)
    assert model.embed("abcdef").tolist() == [[0, 1, 2]]
    assert asked["input_ids"].tolist() == [list(b"abcd")]
    assert model.embed(["a", "b"]).shape == (2, 3)


def test_other_tasks_are_refused(graph: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    for ask in (lambda: graph.embed("a"), lambda: graph.classify("a.png"), lambda: graph.detect("a.png")):
        with pytest.raises(UnsupportedError, match="was not compiled for the task"):
            ask()
    task = {"type": "image-classification", "image": SPEC, "labels": None, "scores": "logits"}
    with_task(graph, task, (IMAGE_SLOT, IMAGE_SLOT), np.zeros((1, 2), np.float32), monkeypatch)
    with pytest.raises(UnsupportedError, match="has 2 inputs"):
        graph.classify(picture(4, 4))


def test_a_task_goes_through_a_bundle(tmp_path: Path) -> None:
    from edgec import bundle

    task = {"type": "embedding", "pooling": "mean", "normalize": True, "max_length": 8}
    encoder = dataclasses.replace(make_model("graph"), task=task, tokenizer=make_model().tokenizer)
    plan, lowered = make_plan("graph"), make_lowered("graph")
    written = bundle.write(lowered, model=encoder, plan=plan, accuracy={}, out=tmp_path / "a.edgec")
    assert written.manifest.task == task and written.tokenizer_json() == make_tokenizer()
    with load(written.path, threads=1) as loaded, pytest.raises(UnsupportedError, match="input_ids"):
        loaded.embed("a")
