"""Tiny random Moonshine and Whisper models, exported by Optimum."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
import transformers

from edgec.frontend.sentencepiece_bpe import tokenizer_definition

VOCABULARY = 300
WORDS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *"abcdefghijklmnopqrstuvwxyz"]
MOONSHINE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 36,
    "intermediate_size": 48,
    "encoder_num_hidden_layers": 2,
    "decoder_num_hidden_layers": 2,
    "encoder_num_attention_heads": 4,
    "decoder_num_attention_heads": 4,
    "encoder_num_key_value_heads": 4,
    "decoder_num_key_value_heads": 4,
    "max_position_embeddings": 40,
    "pad_head_dim_to_multiple_of": 8,
    "initializer_range": 0.15,
    "tie_word_embeddings": False,
}

WHISPER = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_source_positions": 150,  # three seconds
    "max_target_positions": 40,
    "init_std": 0.15,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "begin_suppress_tokens": [5, 260],
    "suppress_tokens": [7],
}
WHISPER_SECONDS = 3


def pieces() -> list[str]:
    return [*WORDS, *(f"\u2581w{index}" for index in range(VOCABULARY - len(WORDS)))]


def write_tokenizer(folder: Path) -> None:
    scores = [-float(index) for index in range(VOCABULARY)]
    definition = tokenizer_definition(
        pieces(), scores, unknown=0, special=(0, 1, 2), not_merged=range(3, 259), prefix_ids=(1,)
    )
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))


def export_moonshine(folder: Path, *, seed: int = 0) -> transformers.PreTrainedModel:
    """Writes `folder/onnx`: the graphs, the tokenizer and the configuration; the model that they are of."""
    torch.manual_seed(seed)
    model = transformers.MoonshineForConditionalGeneration(transformers.MoonshineConfig(**MOONSHINE))
    return _export(model, folder)


def export_whisper(folder: Path, *, seed: int = 0) -> transformers.PreTrainedModel:
    """The same of a Whisper, which hears a spectrogram of three seconds."""
    torch.manual_seed(seed)
    model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**WHISPER))
    extractor = transformers.WhisperFeatureExtractor(chunk_length=WHISPER_SECONDS)
    (folder / "source").mkdir()
    extractor.save_pretrained(folder / "source")
    return _export(model, folder, nb_max_frames=100 * WHISPER_SECONDS)


def _export(model: transformers.PreTrainedModel, folder: Path, **shapes: int) -> transformers.PreTrainedModel:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from optimum.exporters.onnx import main_export

    model.eval().generation_config.max_length = 40
    source = folder / "source"
    model.save_pretrained(source)
    main_export(
        str(source),
        output=str(folder / "onnx"),
        task="automatic-speech-recognition-with-past",
        opset=18,
        device="cpu",
        framework="pt",
        library_name="transformers",
        do_validation=False,
        **shapes,
    )
    write_tokenizer(folder / "onnx")
    return model
