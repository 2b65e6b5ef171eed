"""Tiny random CLIP and SigLIP folders, as `transformers` saves them, with their tokenizers and image settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIZE, LENGTH = 32, 16  # side of the image, tokens of a text
_VISION: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "image_size": SIZE, "patch_size": 8,
}  # fmt: skip
_TEXT = {**_VISION, "max_position_embeddings": LENGTH}


def save_clip(folder: Path) -> transformers.CLIPModel:
    tokenizer = _clip_tokenizer(folder)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**_TEXT, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **ends}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config={**text, "projection_dim": 24}, vision_config={**_VISION, "projection_dim": 24}, projection_dim=24
    )
    model = _spread(transformers.CLIPModel(config))
    model.save_pretrained(folder)
    settings = {
        "size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}, "do_center_crop": True,
        "resample": 3, "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return model


def save_siglip(folder: Path) -> transformers.SiglipModel:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(letter, -4.0) for letter in LETTERS] + [(f"▁{word}", -5.0) for word in ("a", "cat", "dog", "on")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(".", "")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="</s>", eos_token="</s>", unk_token="<unk>", model_max_length=LENGTH
    )
    fast.save_pretrained(folder)
    torch.manual_seed(1)
    text = {**_TEXT, "vocab_size": len(pieces), "pad_token_id": 1, "eos_token_id": 1, "projection_size": 32}
    model = _spread(transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=_VISION)))
    with torch.no_grad():
        model.logit_scale.fill_(1.5)
        model.logit_bias.fill_(-2.5)
    model.save_pretrained(folder)
    settings = {"size": {"height": SIZE, "width": SIZE}, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return model


def _spread(model: Any) -> Any:
    """Weights of a width that lets vectors differ; the initial ones hardly do."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.2)
            elif "norm" not in name and "logit" not in name:
                parameter.normal_(0.0, 0.05)
    return model.eval()


def _clip_tokenizer(folder: Path) -> transformers.CLIPTokenizerFast:
    """Byte pairs of lower-case letters, ends of words marked `</w>`."""
    merges = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>"), ("o", "n</w>")]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *("".join(merge) for merge in merges)]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(merge) for merge in merges) + "\n")
    tokenizer = transformers.CLIPTokenizerFast(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=LENGTH
    )
    tokenizer.save_pretrained(folder)
    return tokenizer
