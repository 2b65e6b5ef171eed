"""The whole pipeline on a tiny model: stages, stopping, dumps, records, same bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import onnxruntime
import pytest

import edgec
from edgec import pipeline
from edgec.bundle import verify
from edgec.errors import OutputError, ProfileError, UsageError
from edgec.pipeline import CompileOptions, StageRecord, run_stages

NAMES = ["frontend", "simplify", "plan", "compress", "lower", "bundle"]  # without what has to be asked for


class Watcher:
    """Writes down what a progress display would show."""

    def __init__(self) -> None:
        self.started_stages: list[str] = []
        self.advances: dict[str, list[tuple[int, int]]] = {}
        self.records: list[StageRecord] = []

    def started(self, stage: str) -> None:
        self.started_stages.append(stage)

    def advanced(self, stage: str, item: str, done: int, total: int) -> None:
        assert stage == self.started_stages[-1]
        self.advances.setdefault(stage, []).append((done, total))

    def finished(self, record: StageRecord) -> None:
        self.records.append(record)


def fingerprint(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_the_table_of_stages_is_that_of_the_docstring() -> None:
    documented = [line.split()[0] for line in (pipeline.__doc__ or "").splitlines() if "->" in line]
    assert list(pipeline.STAGE_NAMES) == documented
    plain = CompileOptions()
    assert [stage.name for stage in pipeline.STAGES if stage.asked(plain)] == NAMES


def test_a_bundle_is_sound_and_answers_the_same_again(tiny_bundle: Path) -> None:
    assert verify(tiny_bundle) == []
    with edgec.load(tiny_bundle, threads=1) as model:
        first = model.generate("Once upon", max_tokens=12, temperature=0)
        text = first.text()
        model.reset()
        assert model.generate("Once upon", max_tokens=12, temperature=0).text() == text
        chat = model.chat([{"role": "user", "content": "hi"}], max_tokens=4, temperature=0)
        chat.text()
        assert chat.finish_reason in ("stop", "length")


def test_the_same_input_gives_the_same_bytes_and_progress_ends_at_the_end(
    tiny_llama: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    watcher = Watcher()
    again = edgec.compile(tiny_llama, "phone-8gb", tmp_path / "again.edgec", progress=watcher)
    assert fingerprint(again.path) == fingerprint(tiny_bundle)
    assert watcher.started_stages == NAMES
    assert [record.stage for record in watcher.records] == NAMES
    assert all(record.seconds > 0 and record.peak_bytes > 0 for record in watcher.records)
    for stage, advances in watcher.advances.items():
        done = [fraction for fraction, _ in advances]
        assert done == sorted(done), stage
        assert advances[-1][0] == advances[-1][1] > 0, stage
    assert {"simplify", "compress", "lower", "bundle"} <= set(watcher.advances)


@pytest.mark.parametrize("stage", NAMES[:4])
def test_stopping_after_a_stage_dumps_what_was_made(tiny_llama: Path, tmp_path: Path, stage: str) -> None:
    options = CompileOptions(stop_after=stage, dump=tmp_path / "dump")
    work = run_stages(tiny_llama, "phone-8gb", options=options)
    reached = NAMES[: NAMES.index(stage) + 1]
    assert [record.stage for record in work.records] == reached
    assert sorted(folder.name for folder in (tmp_path / "dump").iterdir()) == [
        f"{number}-{name}" for number, name in enumerate(reached, start=1)
    ]
    assert (work.compressed is None) == (stage != "compress")
    assert work.bundle is None


def test_dumped_graphs_run_in_onnxruntime(tiny_llama: Path, tmp_path: Path) -> None:
    run_stages(tiny_llama, "phone-8gb", options=CompileOptions(stop_after="simplify", dump=tmp_path))
    for folder in ("1-frontend", "2-simplify"):
        session = onnxruntime.InferenceSession(tmp_path / folder / "model.onnx", providers=["CPUExecutionProvider"])
        assert "logits" in [output.name for output in session.get_outputs()]
        assert json.loads((tmp_path / folder / "facts.json").read_text())["decoder"]["layers"] == 2
        assert "RMSNormalization" in (tmp_path / folder / "graph.txt").read_text()


def test_a_dumped_plan_can_be_given_back(tiny_llama: Path, tmp_path: Path) -> None:
    first = run_stages(tiny_llama, "phone-4gb", options=CompileOptions(stop_after="plan", bits=7)).plan
    assert first is not None
    edited = dataclasses.replace(first, context_length=64, prefill_chunk=16)
    options = CompileOptions(stop_after="compress", plan=edited)
    work = run_stages(tiny_llama, "phone-4gb", options=options)
    assert work.plan is edited
    assert work.compressed is not None and {t.bits for t in work.compressed.packed.values()} == {7}


def test_bad_requests_are_refused_before_any_work(tiny_llama: Path, tmp_path: Path) -> None:
    watcher = Watcher()
    with pytest.raises(UsageError, match="no stage `lunch`"):
        run_stages(tiny_llama, "phone-8gb", tmp_path / "x", CompileOptions(stop_after="lunch"), watcher)
    with pytest.raises(UsageError, match="needs an output"):
        run_stages(tiny_llama, "phone-8gb", progress=watcher)
    with pytest.raises(ProfileError):
        run_stages(tiny_llama, "phone-0gb", tmp_path / "x", progress=watcher)
    with pytest.raises(UsageError, match="whole bundle"):
        edgec.compile(tiny_llama, "phone-8gb", tmp_path / "x", CompileOptions(stop_after="plan"), watcher)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError):
        edgec.compile(tiny_llama, "phone-8gb", tmp_path / "file", progress=watcher)
    both = CompileOptions(heal_steps=1, heal_minutes=1.0)
    with pytest.raises(UsageError, match="exclude each other"):
        run_stages(tiny_llama, "phone-8gb", tmp_path / "x", both, watcher)
    with pytest.raises(UsageError, match="`slim` does nothing here"):
        run_stages(tiny_llama, "phone-8gb", options=CompileOptions(stop_after="slim"), progress=watcher)
    assert watcher.started_stages == []
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
