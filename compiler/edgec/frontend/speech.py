"""Speech-to-text models: an exported encoder and decoder, their tokenizer, and the `transcription` task."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgec.errors import UnsupportedError
from edgec.frontend import encoder_decoder, tokenizer_moonshine
from edgec.frontend.encoder_decoder import Files, Front
from edgec.frontend.files import model_card_license, read_json, source_sha256
from edgec.frontend.hf_tokenizer import assets, read_tokenizer, tokenizer_files
from edgec.frontend.log_mel import LogMel
from edgec.frontend.problems import Problem
from edgec.ir.model import GraphPart, ModelFacts, ModelIR, TokenizerAssets
from edgec.ir.weight_use import FLOAT_TYPES

_CODES = (ir.DataType.INT8, ir.DataType.UINT8)  # of weights that were quantized elsewhere
ENCODE, DECODE = "encode", "decode"
_SETTINGS = ("config.json", "generation_config.json", "preprocessor_config.json")

# What a model that reads a waveform was trained on, where its files do not say (Moonshine: arXiv 2410.15608).
WAVEFORM: Mapping[str, Any] = {
    "sample_rate": 16000,
    "window_seconds": 30,  # the longest it was trained on
    "min_seconds": 0.1,  # less than its convolutions' reach is not computed
    "max_tokens": 194,
    "max_tokens_per_second": 6.5,  # more are repetitions
}
SPECTROGRAM: Mapping[str, Any] = {"max_tokens": 448, "max_tokens_per_second": 20.0}


def load(
    folder: Path,
    files: Files,
    *,
    name: str | None = None,
    description: Mapping[str, Any] | None = None,
    supported_ops: Collection[str] | None = None,
) -> ModelIR:
    """One model with the parts `encode` and `decode`; `description` replaces the task that the files give.

    Raises `UnsupportedError` for encoders that read neither a waveform nor Whisper's spectrogram.
    """
    settings = _settings(folder)
    hearing = _Hearing(settings)
    composed = encoder_decoder.compose(files, hearing.front, supported_ops=supported_ops)
    tokenizer = _tokenizer(folder, settings, composed.vocabulary)
    sources = [*files.all, *(folder / file for file in _SETTINGS if (folder / file).is_file())]
    model = ModelIR(
        model=composed.model,
        kind="graph",
        facts=ModelFacts(
            name=name or folder.resolve().name,
            architecture=str(settings.get("model_type", "encoder-decoder")),
            source_format="onnx",
            source_sha256=source_sha256([*sources, *tokenizer_files(folder)]),
            parameters=_parameters(composed.model),
            license=model_card_license(folder),
        ),
        tokenizer=tokenizer,
        task=description if description is not None else _task(settings, hearing.task, tokenizer),
        parts={
            ENCODE: GraphPart(("audio",), ("states",)),
            DECODE: GraphPart(("tokens",), ("logits",), follows=ENCODE, state=composed.carried),
        },
    )
    model.verify()
    return model


def check(files: Files, *, supported_ops: Collection[str] | None = None) -> list[Problem]:
    """What stands against it."""
    return encoder_decoder.check(files, supported_ops=supported_ops)


class _Hearing:
    """What the encoder reads, and the numbers of the task that follow from it."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self.task: dict[str, Any] = {}

    def front(self, name: str) -> Front:
        if name == "input_values":
            rate = self._settings.get("sampling_rate", WAVEFORM["sample_rate"])
            longest = self._settings.get("max_position_embeddings", WAVEFORM["max_tokens"])
            self.task = {**WAVEFORM, "sample_rate": int(rate), "max_tokens": int(longest)}
            return Front((1, "samples"))
        if name == "input_features":
            mel = LogMel.read(self._settings)
            seconds = mel.samples / mel.sample_rate
            longest = self._settings.get("max_target_positions", SPECTROGRAM["max_tokens"])
            own = {"sample_rate": mel.sample_rate, "window_seconds": seconds, "min_seconds": seconds}
            self.task = {**SPECTROGRAM, **own, "max_tokens": int(longest)}
            return Front((1, mel.samples), mel.build)
        raise UnsupportedError(
            f"the encoder reads `{name}`",
            hint="supported are a waveform, `input_values`, and `input_features` of Whisper",
        )


def _settings(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in _SETTINGS:
        if (folder / name).is_file():
            found |= {key: value for key, value in read_json(folder / name).items() if value is not None}
    return found


def _task(settings: Mapping[str, Any], hearing: Mapping[str, Any], tokenizer: TokenizerAssets) -> dict[str, Any]:
    start = settings.get("decoder_start_token_id", tokenizer.bos_token_id)
    if type(start) is not int:
        raise UnsupportedError("the model does not say with which id a transcript begins (`decoder_start_token_id`)")
    return {
        "type": "transcription",
        **hearing,
        "start_ids": [start, *_prompt(settings)],
        "suppress_ids": list(settings.get("suppress_tokens") or []),
        "begin_suppress_ids": list(settings.get("begin_suppress_tokens") or []),
    }


def _prompt(settings: Mapping[str, Any]) -> list[int]:
    """The ids after the first that say what is wanted: English where there are languages, and no times."""
    forced = settings.get("forced_decoder_ids")
    if forced:
        return [int(token) for _, token in forced if token is not None]
    languages, tasks = settings.get("lang_to_id") or {}, settings.get("task_to_id") or {}
    found = [languages.get("<|en|>"), tasks.get("transcribe"), settings.get("no_timestamps_token_id")]
    return [token for token in found if type(token) is int]


def _tokenizer(folder: Path, settings: Mapping[str, Any], vocabulary: int) -> TokenizerAssets:
    ends = settings.get("eos_token_id", [])
    ends = [ends] if isinstance(ends, int) else list(ends)
    if (folder / "tokenizer.json").is_file() or not (folder / "tokenizer.bin").is_file():
        found = read_tokenizer(folder, settings, eos_token_ids=ends, vocabulary=vocabulary)
        if found is None:
            raise UnsupportedError(
                f"`{folder.name}` has no `tokenizer.json`", hint="a transcript is text: put its tokenizer beside it"
            )
        return found
    return assets(
        tokenizer_moonshine.read_tokenizer(folder / "tokenizer.bin", vocabulary),
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        eos_token_ids=ends,
        bos_token_id=settings.get("bos_token_id"),
        pad_token_id=settings.get("pad_token_id"),
        chat_template=None,
        vocabulary=vocabulary,
    )


def _parameters(model: ir.Model) -> int:
    tensors = [value.const_value for value in model.graph.initializers.values()]
    return sum(tensor.size for tensor in tensors if tensor is not None and tensor.dtype in (*FLOAT_TYPES, *_CODES))
