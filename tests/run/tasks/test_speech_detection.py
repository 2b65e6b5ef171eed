"""Where somebody speaks: the rule for segments, and a small detector against onnxruntime in Python and in Node."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import edgec
from edgec import resources
from edgec.bundle import Bundle
from edgec.cli import invoke
from edgec.errors import UnsupportedError
from edgec.frontend import load
from edgec.frontend.signatures import SIGNATURES
from edgec.pipeline import CompileOptions, compile_model
from edgec.run.tasks.speech_detection import probabilities, speech_segments
from tests.frontend.vads import bursts, detector
from tests.run.tasks.waves import wav_bytes

TASK = SIGNATURES[0].task
W = 512
PAD = 480
SCRIPT = """
import { readFileSync } from "node:fs";
const [runtime, bundle, sound] = process.argv.slice(2);
const edgec = await import(runtime);
const model = await edgec.load(bundle, { threads: 1 });
console.log(JSON.stringify(await model.detectSpeech(readFileSync(sound))));
await model.dispose();
"""


def chances(text: str) -> list[float]:
    """`#` speech, `.` silence, `-` between the thresholds."""
    return [{"#": 0.9, ".": 0.1, "-": 0.4}[character] for character in text]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("....", []),
        ("#######", []),  # 3,584 samples of at least 4,000
        ("########", [(0, 8 * W)]),
        (".#########", [(W - PAD, 10 * W)]),
        # A silence of less than 100 ms (1,600 samples from its first window to its last) is no end.
        ("#########....#########", [(0, 22 * W)]),
        ("#########.....#########", [(0, 9 * W + PAD), (14 * W - PAD, 23 * W)]),
        # It ends where the silence began, and begins again where speech does: both padded.
        ("#########........#########", [(0, 9 * W + PAD), (17 * W - PAD, 26 * W)]),
        # Between the thresholds speech goes on, but a silence that has begun does too.
        ("#########---------#", [(0, 19 * W)]),
        ("#########.-------#########", [(0, 26 * W)]),
        ("#########.-------.#########", [(0, 9 * W + PAD), (18 * W - PAD, 27 * W)]),
        # A word that is too short is none, and what follows has its own beginning.
        ("###.......#########", [(10 * W - PAD, 19 * W)]),
    ],
)
def test_segments(text: str, expected: list[tuple[int, int]]) -> None:
    assert speech_segments(chances(text), TASK, len(text) * W) == expected


def test_a_short_silence_is_shared() -> None:
    task = {**TASK, "min_silence_ms": 30, "speech_pad_ms": 100}
    assert speech_segments(chances("#########.#########"), task, 19 * W) == [(0, 19 * W)]
    assert speech_segments(chances("#########..#########"), task, 20 * W) == [(0, 10 * W), (10 * W, 20 * W)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bundle]:
    folder = tmp_path_factory.mktemp("vad")
    onnx.save(detector(3), folder / "vad.onnx")
    return folder / "vad.onnx", compile_model(folder / "vad.onnx", "laptop-8gb", folder / "vad.edgec")


def reference(path: Path, samples: np.ndarray) -> list[float]:
    """The model's own file in onnxruntime, called as Silero's package does."""
    session = onnxruntime.InferenceSession(str(path))
    state, context, found = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32), []
    for start in range(0, samples.size, W):
        part = np.zeros(W, np.float32)
        rest = samples[start : start + W]
        part[: rest.size] = rest
        feed = {"input": np.concatenate([context, part])[None], "state": state, "sr": np.array(16000, np.int64)}
        chance, state = session.run(["output", "stateN"], feed)
        context = part[-64:]
        found.append(float(chance[0, 0]))
    return found


def test_probabilities_are_those_of_onnxruntime(made: tuple[Path, Bundle]) -> None:
    path, bundle = made
    assert bundle.manifest.task == dict(TASK)
    assert [slot.name for slot in bundle.manifest.inputs] == ["input", "state"]
    samples = bursts(3.03)
    expected = reference(path, samples)
    assert max(expected) - min(expected) > 0.2
    for variant, threads in (("simd128", 1), ("simd128-threads", 2)):
        with edgec.load(bundle, variant=variant, threads=threads) as model:
            found = list(probabilities(model, TASK, samples))
        assert np.abs(np.array(found) - expected).max() < 5e-6
        assert len(found) == -(-samples.size // W)


def test_the_task_finds_segments(made: tuple[Path, Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, bundle = made
    samples = bursts(6.0)
    expected = [(s / 16000, e / 16000) for s, e in speech_segments(reference(path, samples), TASK, samples.size)]
    with edgec.load(bundle, threads=1) as model:
        assert [(segment.start, segment.end) for segment in model.detect_speech(samples)] == expected
        assert model.detect_speech(samples[:0]) == []
        with pytest.raises(UnsupportedError):
            model.transcribe(samples)
    sound = tmp_path / "sound.wav"
    sound.write_bytes(wav_bytes(samples[:, None].astype(np.float64), "f4", 16000))
    assert invoke(["run", str(bundle.path), "--audio", str(sound), "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out).values()
    assert [(segment["start"], segment["end"]) for segment in document] == expected
    assert invoke(["run", str(bundle.path), "--audio", str(sound)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(expected)


@pytest.mark.node
def test_node_finds_the_same(made: tuple[Path, Bundle], tmp_path: Path) -> None:
    path, bundle = made
    samples = bursts(5.0, seed=9)
    expected = speech_segments(reference(path, samples), TASK, samples.size)
    sound, script = tmp_path / "sound.wav", tmp_path / "detect.mjs"
    sound.write_bytes(wav_bytes(samples[:, None].astype(np.float64), "f4", 16000))
    script.write_text(SCRIPT)
    command = ["node", str(script), str(resources.runtime_directory() / "edgec.js"), str(bundle.path), str(sound)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr
    found = [(segment["start"], segment["end"]) for segment in json.loads(finished.stdout)]
    assert found == [(start / 16000, end / 16000) for start, end in expected]


def test_signatures(made: tuple[Path, Bundle], tmp_path: Path) -> None:
    """A file is what its names say, unless one's own task says otherwise, or a name or a size is another."""
    path, _ = made
    model = load(path)
    assert model.task == dict(TASK)
    assert [value.name for value in model.model.graph.inputs] == ["input", "state"]
    (tmp_path / "task.json").write_text('{"type": "tensors"}')
    assert load(path, task=str(tmp_path / "task.json")).task == {"type": "tensors"}
    onnx.save(detector(renamed="chance"), tmp_path / "other.onnx")
    assert load(tmp_path / "other.onnx").task is None
    larger = detector()
    larger.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1536
    onnx.save(larger, tmp_path / "larger.onnx")
    assert load(tmp_path / "larger.onnx").task is None


def test_small_recurrent_networks_stay_float(made: tuple[Path, Bundle], tmp_path: Path) -> None:
    path, bundle = made
    tensors = bundle.manifest.plan["tensors"]
    assert {tensor["bits"] for tensor in tensors} == {32}
    assert any("recurrent" in tensor["reason"] for tensor in tensors)
    asked = compile_model(path, "laptop-8gb", tmp_path / "asked.edgec", CompileOptions(bits=8))
    assert 8 in {tensor["bits"] for tensor in asked.manifest.plan["tensors"]}
