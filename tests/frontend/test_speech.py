"""Speech models: Optimum's files as one graph in two parts, with their tokenizer and task."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
import transformers

from edgec.errors import CorruptFileError, ModelError, UnsupportedError
from edgec.frontend import check, load
from edgec.frontend.log_mel import mel_filters
from edgec.frontend.tokenizer_moonshine import read_tokenizer
from edgec.ir import GraphPart, ModelIR
from tests.frontend.speech_models import VOCABULARY, export_moonshine, export_whisper, pieces

LAYERS = (("0", "key"), ("0", "value"), ("1", "key"), ("1", "value"))
STATE = {f"present.{layer}.{part}": f"past.{layer}.{part}" for layer, part in LAYERS}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, transformers.PreTrainedModel]:
    folder = tmp_path_factory.mktemp("moonshine")
    return folder / "onnx", export_moonshine(folder)


@pytest.fixture
def copy(exported: tuple[Path, transformers.PreTrainedModel], tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported[0], tmp_path / "model"))


def steps(model: ModelIR, audio: np.ndarray, ids: list[int]) -> np.ndarray:
    """Logits after each id, in onnxruntime."""
    session = onnxruntime.InferenceSession(onnx_ir.to_proto(model.model).SerializeToString())
    names = [value.name for value in session.get_outputs()]
    state = {before: np.zeros((1, 4, 0, 9), np.float32) for before in STATE.values()}
    logits = []
    for token in ids:
        feed = {"audio": audio, "tokens": np.array([[token]], np.int64), **state}
        found = dict(zip(names, session.run(None, feed), strict=True))
        state = {before: found[after] for after, before in STATE.items()}
        logits.append(found["logits"][0, 0])
    return np.array(logits)


@pytest.mark.parametrize("merged", [True, False])
def test_steps_are_those_of_transformers(
    exported: tuple[Path, transformers.PreTrainedModel], copy: Path, merged: bool
) -> None:
    for name in ["decoder_model.onnx", "decoder_with_past_model.onnx"] if merged else ["decoder_model_merged.onnx"]:
        (copy / name).unlink()
    model = load(copy, name="tiny")
    assert model.parts == {
        "encode": GraphPart(("audio",), ("states",)),
        "decode": GraphPart(("tokens",), ("logits",), follows="encode", state=STATE),
    }
    assert [value.name for value in model.model.graph.inputs] == ["audio", *STATE.values(), "tokens"]
    audio = np.random.default_rng(1).normal(0, 0.3, (1, 5000)).astype(np.float32)
    ids = [1, 57, 260, 3, 299, 14]
    with torch.no_grad():
        expected = (
            exported[1](input_values=torch.tensor(audio), decoder_input_ids=torch.tensor([ids])).logits[0].numpy()
        )
    assert np.abs(steps(model, audio, ids) - expected).max() < 2e-4


def test_task_and_tokenizer(exported: tuple[Path, transformers.PreTrainedModel]) -> None:
    model = load(exported[0], name="tiny")
    assert model.facts.architecture == "moonshine" and model.facts.source_format == "onnx"
    assert model.task == {
        "type": "transcription",
        "sample_rate": 16000,
        "window_seconds": 30,
        "min_seconds": 0.1,
        "max_tokens": 40,
        "max_tokens_per_second": 6.5,
        "start_ids": [1],
        "suppress_ids": [],
        "begin_suppress_ids": [],
    }
    assert model.tokenizer is not None and model.tokenizer.eos_token_ids == (2,)
    assert check(exported[0]) == []


def test_files_in_a_folder_of_their_own(copy: Path) -> None:
    (copy / "onnx").mkdir()
    for path in copy.glob("*.onnx"):
        path.rename(copy / "onnx" / path.name)
    assert load(copy).facts.name == "model"


def test_a_task_of_ones_own(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text(json.dumps({"type": "sing"}))
    assert load(copy, task=str(tmp_path / "task.json")).task == {"type": "sing"}


def test_without_a_tokenizer(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    with pytest.raises(UnsupportedError, match=r"no `tokenizer\.json`"):
        load(copy)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, transformers.PreTrainedModel]:
    folder = tmp_path_factory.mktemp("whisper")
    return folder / "onnx", export_whisper(folder)


def test_whisper_hears_samples(whisper: tuple[Path, transformers.PreTrainedModel]) -> None:
    """The spectrogram is part of the graph: states and logits are those of transformers' features."""
    folder, judge = whisper
    model = load(folder, name="tiny")
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder)
    random = np.random.default_rng(5)
    audio = (random.normal(0, 0.2, 48000) * np.linspace(0, 1, 48000)).astype(np.float32)
    features = torch.tensor(extractor(audio, sampling_rate=16000).input_features)
    ids = [1, 57, 260, 3]
    with torch.no_grad():
        expected = judge(input_features=features, decoder_input_ids=torch.tensor([ids])).logits[0].numpy()
    session = onnxruntime.InferenceSession(onnx_ir.to_proto(model.model).SerializeToString())
    state = {v.name: np.zeros((1, 4, 0, 8), np.float32) for v in session.get_inputs() if v.name.startswith("past")}
    names = [value.name for value in session.get_outputs()]
    for index, token in enumerate(ids):
        feed = {"audio": audio[None], "tokens": np.array([[token]], np.int64), **state}
        found = dict(zip(names, session.run(None, feed), strict=True))
        state = {before: found[before.replace("past", "present")] for before in state}
        assert np.abs(found["logits"][0, 0] - expected[index]).max() < 2e-3 * np.abs(expected).max()
    assert model.task == {
        "type": "transcription",
        "sample_rate": 16000,
        "window_seconds": 3.0,
        "min_seconds": 3.0,
        "max_tokens": 40,
        "max_tokens_per_second": 20.0,
        "start_ids": [1],
        "suppress_ids": [7],
        "begin_suppress_ids": [5, 260],
    }


@pytest.mark.parametrize(("bins", "fft", "rate"), [(80, 400, 16000), (128, 400, 16000), (40, 512, 8000)])
def test_mel_filters_are_those_of_transformers(bins: int, fft: int, rate: int) -> None:
    expected = transformers.audio_utils.mel_filter_bank(
        fft // 2 + 1, bins, 0.0, rate / 2, rate, norm="slaney", mel_scale="slaney"
    )
    assert np.abs(mel_filters(bins, fft, rate) - expected.T).max() < 1e-8


def test_the_prompt_says_english_without_times(
    whisper: tuple[Path, transformers.PreTrainedModel], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(whisper[0], tmp_path / "model"))
    config = json.loads((folder / "generation_config.json").read_text())
    languages = {"lang_to_id": {"<|de|>": 30, "<|en|>": 31}, "task_to_id": {"transcribe": 33, "translate": 32}}
    (folder / "generation_config.json").write_text(json.dumps(config | languages | {"no_timestamps_token_id": 34}))
    assert load(folder).task["start_ids"] == [1, 31, 33, 34]
    forced = {"forced_decoder_ids": [[1, None], [2, 40], [3, 41]]}
    (folder / "generation_config.json").write_text(json.dumps(config | forced))
    assert load(folder).task["start_ids"] == [1, 40, 41]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"feature_extractor_type": "MusicFeatureExtractor"}, UnsupportedError, "MusicFeatureExtractor"),
        ({"dither": 0.1}, UnsupportedError, "dither"),
        ({"hop_length": 0}, ModelError, "hop_length"),
        ({"n_fft": "400"}, ModelError, "n_fft"),
    ],
)
def test_other_features_are_refused(
    whisper: tuple[Path, transformers.PreTrainedModel],
    tmp_path: Path,
    change: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    folder = Path(shutil.copytree(whisper[0], tmp_path / "model"))
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | change))
    with pytest.raises(error, match=message):
        load(folder)


def test_a_spectrogram_without_its_numbers(copy: Path) -> None:
    encoder = onnx.load(copy / "encoder_model.onnx")
    for values in (encoder.graph.input, *(node.input for node in encoder.graph.node)):
        for index, value in enumerate(values):
            if isinstance(value, str):
                values[index] = "input_features" if value == "input_values" else value
            elif value.name == "input_values":
                value.name = "input_features"
    onnx.save(encoder, copy / "encoder_model.onnx")
    with pytest.raises(UnsupportedError, match="the feature extractor is None"):
        load(copy)


def test_an_input_that_is_not_known(copy: Path) -> None:
    (copy / "decoder_model_merged.onnx").unlink()
    decoder = onnx.load(copy / "decoder_with_past_model.onnx")
    decoder.graph.input.append(onnx.helper.make_tensor_value_info("cache_position", onnx.TensorProto.INT64, [1]))
    onnx.save(decoder, copy / "decoder_with_past_model.onnx")
    with pytest.raises(UnsupportedError, match="the input `cache_position`"):
        load(copy)


def test_a_decoder_without_a_cache(copy: Path) -> None:
    (copy / "decoder_model_merged.onnx").unlink()
    shutil.copy(copy / "decoder_model.onnx", copy / "decoder_with_past_model.onnx")
    with pytest.raises(UnsupportedError, match="a decoder needs its cache"):
        load(copy)


# Moonshine's own tokenizer file


def write_pieces(path: Path, tokens: list[bytes]) -> Path:
    lengths = [bytes([len(t)]) if len(t) < 128 else bytes([128 + len(t) % 128, len(t) // 128]) for t in tokens]
    path.write_bytes(b"".join(length + token for length, token in zip(lengths, tokens, strict=True)))
    return path


def raw_pieces() -> list[bytes]:
    tokens = [piece.encode() for piece in pieces()]
    tokens[3:259] = [bytes([byte]) for byte in range(256)]
    tokens[-1], tokens[-2] = b"<<ST_0>>", "\u2581".encode() * 100
    return tokens


def test_tokenizer_of_moonshine(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    write_pieces(copy / "tokenizer.bin", raw_pieces())
    model = load(copy)
    assert model.tokenizer is not None
    assert model.tokenizer.eos_token_ids == (2,) and model.tokenizer.bos_token_id == 1
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=__import__("tokenizers").Tokenizer.from_str(model.tokenizer.tokenizer_json.decode())
    )
    ids = [1, 259, 260, 261, 3 + 0xC3, 3 + 0xA9, VOCABULARY - 1, 2]
    assert tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == "abé"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tokens: tokens[:-1], "299 tokens, the model 300"),
        (lambda tokens: [*tokens[:7], b"x", *tokens[8:]], "token 7 is b'x', not the byte 4"),
        (lambda tokens: [*tokens[:270], b"\xff", *tokens[271:]], "token 270 is not UTF-8"),
        (lambda tokens: [b"<pad>", *tokens[1:]], "its first tokens are"),
    ],
)
def test_damaged_tokenizers(tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    path = write_pieces(tmp_path / "tokenizer.bin", change(raw_pieces()))
    with pytest.raises(CorruptFileError, match=message):
        read_tokenizer(path, VOCABULARY)


@pytest.mark.parametrize("cut", [1, 99, 102])
def test_a_tokenizer_that_is_cut_off(tmp_path: Path, cut: int) -> None:
    path = write_pieces(tmp_path / "tokenizer.bin", [*raw_pieces()[:-2], b"x" * 200])
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(CorruptFileError, match="it ends"):
        read_tokenizer(path, VOCABULARY)
