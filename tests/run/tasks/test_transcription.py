"""The loop around a speech model, with the fake one: what it says follows from its samples by known arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import edgec
from edgec.bundle import Bundle
from edgec.cli import invoke
from edgec.errors import RunError, UnsupportedError, UsageError
from tests.run.fake_module import SAMPLE_RATE, write_fake_bundle
from tests.run.tasks.waves import wav_bytes

RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_fake_bundle(tmp_path_factory.mktemp("fake") / "speech.edgec", kind="speech")


def expected(samples: np.ndarray, limit: int) -> str:
    h = int(np.trunc(samples * np.float32(1000)).astype(np.int64).sum()) & 0xFFFFFFFF
    token, text = 258, ""
    for past in range(limit):
        if past >= 12:
            break
        token = 97 + ((h + 5 * past + token) & 0xFFFFFFFF) % 26
        text += chr(token)
    return text


def sound(seconds: float) -> np.ndarray:
    return RNG.uniform(-1, 1, int(seconds * SAMPLE_RATE)).astype(np.float32)


@pytest.mark.parametrize(("variant", "threads"), [("simd128", 1), ("simd128-threads", 3)])
def test_a_short_sound(speech: Bundle, variant: str, threads: int) -> None:
    samples = sound(0.25)
    with edgec.load(speech, variant=variant, threads=threads) as model:
        transcription = model.transcribe(samples)
        pieces = list(transcription)
    assert "".join(pieces) == expected(samples, 12)  # 4 by time and 8 to spare
    assert len(pieces) == 12
    assert transcription.ids == [ord(c) for c in "".join(pieces)]
    assert [(s.start, s.end, s.text) for s in transcription.segments] == [(0.0, 0.25, "".join(pieces))]
    assert transcription.audio_seconds == 0.25


def test_time_limits_what_is_said(speech: Bundle) -> None:
    samples = sound(0.01)  # shorter than the least: silence follows
    with edgec.load(speech, threads=1) as model:
        assert model.transcribe(samples).text() == expected(samples, 8)
        assert model.transcribe(samples[:0]).text() == ""


def test_a_long_sound_is_heard_in_windows(speech: Bundle) -> None:
    samples = sound(1.7)
    with edgec.load(speech, threads=1) as model:
        transcription = model.transcribe(samples)
        text = transcription.text()
    parts = transcription.segments
    assert len(parts) > 3
    assert text == " ".join(segment.text for segment in parts)
    for segment in parts:
        part = samples[round(segment.start * SAMPLE_RATE) : round(segment.end * SAMPLE_RATE)]
        assert segment.text == expected(part, 8 + int(16 * len(part) / SAMPLE_RATE))
    assert text == transcription.text()  # what has been taken is not said again


def test_one_request_at_a_time(speech: Bundle) -> None:
    with edgec.load(speech, threads=1) as model:
        first = model.transcribe(sound(1.0))
        next(first)
        second = model.transcribe(sound(0.2))
        with pytest.raises(RunError, match="taken over"):
            first.text()
        assert second.text()
    with pytest.raises(RunError, match="closed"):
        model.transcribe(sound(0.1))


def test_other_models_do_not_hear(tmp_path: Path) -> None:
    with (
        edgec.load(write_fake_bundle(tmp_path / "graph", kind="graph"), threads=1) as model,
        pytest.raises(UnsupportedError, match="transcription"),
    ):
        model.transcribe(sound(0.1))


def test_command_line(speech: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = sound(0.3)
    path = tmp_path / "sound.wav"
    path.write_bytes(wav_bytes(samples[:, None], "f4", SAMPLE_RATE))
    assert invoke(["run", str(speech.path), "--audio", str(path)]) == 0
    assert capsys.readouterr().out == expected(samples, 12) + "\n"
    assert invoke(["run", str(speech.path), "--audio", str(path), "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out).values()
    assert document["text"] == expected(samples, 12)
    assert document["segments"] == [{"start": 0.0, "end": 0.3, "text": document["text"]}]
    assert invoke(["run", str(speech.path), "--audio", str(tmp_path / "none.wav")]) == UsageError.exit_code
    assert "cannot be read" in capsys.readouterr().err
