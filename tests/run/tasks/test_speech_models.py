"""Tiny random speech models from export to transcript, in Python and in Node; transformers says what is right."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import edgec
from edgec import resources
from edgec.bundle import Bundle
from edgec.pipeline import CompileOptions, compile_model
from edgec.run.tasks.audio import windows
from tests.frontend.speech_models import export_moonshine, export_whisper
from tests.run.tasks.waves import wav_bytes

RATE = 16000
SECONDS = (0.3, 1.7, 3.1)
SCRIPT = """
import { readFileSync } from "node:fs";
const [runtime, bundle, ...sounds] = process.argv.slice(2);
const edgec = await import(runtime);
const model = await edgec.load(bundle, { threads: 1 });
const results = [];
for (const sound of sounds) results.push(await model.transcribe(readFileSync(sound)).result);
await model.dispose();
console.log(JSON.stringify(results.map(({ text, tokenIds }) => ({ text, ids: tokenIds }))));
"""


def sounds() -> list[np.ndarray]:
    random = np.random.default_rng(2)
    return [random.normal(0, 0.3, int(RATE * seconds)).astype(np.float32) for seconds in SECONDS]


def by_moonshine(model: transformers.PreTrainedModel, sound: np.ndarray) -> list[int]:
    limit = min(int(6.5 * sound.size / RATE) + 8, 40 - 1)
    with torch.no_grad():
        ids = model.generate(torch.tensor(sound[None]), do_sample=False, max_new_tokens=limit)
    return [token for token in ids[0].tolist()[1:] if token != 2]


def by_whisper(model: transformers.PreTrainedModel, sound: np.ndarray) -> list[int]:
    """Greedily, window by window, without the ids that are suppressed."""
    extractor = transformers.WhisperFeatureExtractor(chunk_length=3)
    found: list[int] = []
    for start, end in windows(sound, 3 * RATE, RATE):
        features = torch.tensor(extractor(sound[start:end], sampling_rate=RATE).input_features)
        ids = [1]
        for _ in range(min(int(20 * (end - start) / RATE) + 8, 40 - 1)):
            with torch.no_grad():
                logits = model(input_features=features, decoder_input_ids=torch.tensor([ids])).logits[0, -1]
            logits[[7, 5, 260] if len(ids) == 1 else [7]] = -torch.inf
            ids.append(int(logits.argmax()))
            if ids[-1] == 2:
                break
        found += [token for token in ids[1:] if token != 2]
    return found


MODELS: dict[str, Any] = {
    "moonshine": (lambda folder: export_moonshine(folder, seed=4), by_moonshine, {"samples": 4 * RATE}),
    "whisper": (lambda folder: export_whisper(folder, seed=2), by_whisper, {}),
}


@pytest.fixture(scope="module", params=list(MODELS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, list[list[int]]]:
    """The bundle, and the ids that transformers gives each sound."""
    folder = tmp_path_factory.mktemp(request.param)
    make, answer, dims = MODELS[request.param]
    model = make(folder)
    expected = [answer(model, sound) for sound in sounds()]
    options = CompileOptions(precision="float32", max_dims=dims)
    bundle = compile_model(folder / "onnx", "laptop-8gb", folder / "tiny.edgec", options)
    return bundle, expected


def test_python_says_what_transformers_says(made: tuple[Bundle, list[list[int]]]) -> None:
    bundle, expected = made
    assert len({tuple(ids) for ids in expected}) == len(SECONDS)
    assert max(len(set(ids)) for ids in expected) > 3  # no model that repeats one word
    for variant, threads in (("simd128", 1), ("simd128-threads", 2)):
        with edgec.load(bundle, variant=variant, threads=threads) as model:
            for sound, ids in zip(sounds(), expected, strict=True):
                transcription = model.transcribe(sound)
                assert transcription.text()  # of random bytes, which are no characters
                assert transcription.ids == ids


@pytest.mark.node
def test_node_says_the_same(made: tuple[Bundle, list[list[int]]], tmp_path: Path) -> None:
    bundle, expected = made
    paths = []
    for index, sound in enumerate(sounds()):
        paths.append(tmp_path / f"{index}.wav")
        paths[-1].write_bytes(wav_bytes(sound[:, None].astype(np.float64), "f4", RATE))
    runtime = str(resources.runtime_directory() / "edgec.js")
    script = tmp_path / "transcribe.mjs"
    script.write_text(SCRIPT)
    command = ["node", str(script), runtime, str(bundle.path), *map(str, paths)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)
    assert [result["ids"] for result in found] == expected
