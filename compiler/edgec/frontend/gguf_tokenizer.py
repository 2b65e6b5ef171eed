"""GGUF tokenizer metadata into `tokenizer.json` form, with the ids of the original tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgec.errors import CorruptFileError, ModelError
from edgec.frontend.gguf_metadata import Metadata
from edgec.frontend.hf_tokenizer import assets
from edgec.frontend.problems import Problem
from edgec.frontend.sentencepiece_bpe import added_token, template, tokenizer_definition
from edgec.ir.model import TokenizerAssets

_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6  # token types; 1 is normal, 5 unused

# Splitting patterns of the pre-tokenizers that GGUF names, applied one after the other.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_PATTERNS: Mapping[str, tuple[str, ...]] = {
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"),
    "gpt-2": (_GPT2,),
    "smollm": (r"\p{N}", _GPT2),
    "llama-bpe": (_LLAMA3,),
    "llama3": (_LLAMA3,),
    "qwen2": (_QWEN2,),
    "deepseek-r1-qwen": (_QWEN2,),
}
_WHOLE_WORDS_FIRST = frozenset({"llama-bpe", "llama3"})  # a word that is a token is not merged again
_NORMALIZED = frozenset({"qwen2", "deepseek-r1-qwen"})  # text goes through NFC
_BOS_BY_DEFAULT = frozenset({"llama-bpe", "llama3"})


def tokenizer_problems(metadata: Metadata) -> list[Problem]:
    """Tokenizer kinds that cannot be written as `tokenizer.json`."""
    kind = metadata.text("tokenizer.ggml.model")
    if kind is None or metadata.text("tokenizer.huggingface.json") is not None:
        return []
    if kind not in ("gpt2", "llama"):
        return [Problem("tokenizer.ggml.model", f"'{kind}'", "gpt2, llama")]
    pre = metadata.text("tokenizer.ggml.pre") or "default"
    if kind == "gpt2" and pre not in _PATTERNS:
        return [Problem("tokenizer.ggml.pre", f"'{pre}'", ", ".join(_PATTERNS))]
    return []


def read_tokenizer(metadata: Metadata, *, vocabulary: int) -> TokenizerAssets | None:
    """The file's tokenizer; None when it has none."""
    kind = metadata.text("tokenizer.ggml.model")
    if kind is None:
        return None
    tokens = metadata.required_texts("tokenizer.ggml.tokens")
    types = metadata.integers("tokenizer.ggml.token_type") or [1] * len(tokens)
    if len(types) != len(tokens):
        raise ModelError(f"the metadata has {len(tokens)} tokens but {len(types)} token types")
    original = metadata.text("tokenizer.huggingface.json")
    if original is not None:
        definition = _parse(original)
    elif kind == "llama":
        definition = _sentencepiece(metadata, tokens, types)
    else:
        definition = _byte_level(metadata, tokens, types)
    ids = {role: _token_id(metadata, role, len(tokens)) for role in ("bos", "eos", "unknown", "padding", "eot", "eom")}
    roles = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    return assets(
        definition,
        {name: tokens[index] for name, role in roles.items() if (index := ids[role]) is not None},
        eos_token_ids=list(dict.fromkeys(index for role in ("eos", "eot", "eom") if (index := ids[role]) is not None)),
        bos_token_id=ids["bos"],
        pad_token_id=ids["padding"],
        chat_template=metadata.text("tokenizer.chat_template"),
        vocabulary=vocabulary,
    )


def _sentencepiece(metadata: Metadata, tokens: list[str], types: list[int]) -> dict[str, Any]:
    scores = metadata.reals("tokenizer.ggml.scores")
    if scores is None or len(scores) != len(tokens):
        raise ModelError(f"the metadata has {len(tokens)} tokens but {0 if scores is None else len(scores)} scores")
    unknown = _token_id(metadata, "unknown", len(tokens))
    prefix, suffix = _surrounding(metadata, len(tokens), bos_by_default=True)
    return tokenizer_definition(
        tokens,
        scores,
        unknown=0 if unknown is None else unknown,
        special=[index for index, kind in enumerate(types) if kind in (_UNKNOWN, _CONTROL)],
        user_defined=[index for index, kind in enumerate(types) if kind == _USER_DEFINED],
        not_merged=[index for index, kind in enumerate(types) if kind == _BYTE],
        space_prefix=metadata.flag("tokenizer.ggml.add_space_prefix", True),
        prefix_ids=prefix,
        suffix_ids=suffix,
    )


def _byte_level(metadata: Metadata, tokens: list[str], types: list[int]) -> dict[str, Any]:
    pre = metadata.text("tokenizer.ggml.pre") or "default"
    merges = [merge.split(" ") for merge in metadata.required_texts("tokenizer.ggml.merges")]
    known = set(tokens)
    for index, merge in enumerate(merges):
        if len(merge) != 2 or not {*merge, "".join(merge)} <= known:
            raise CorruptFileError(f"merge {index} of `tokenizer.ggml.merges` is not two tokens that make a third")
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in _PATTERNS[pre]
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    prefix, suffix = _surrounding(metadata, len(tokens), bos_by_default=pre in _BOS_BY_DEFAULT)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            added_token(index, tokens[index], special=kind == _CONTROL)
            for index, kind in enumerate(types)
            if kind in (_CONTROL, _USER_DEFINED)
        ],
        "normalizer": {"type": "NFC"} if pre in _NORMALIZED else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, byte_level]},
        "post_processor": template(tokens, prefix, suffix),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre in _WHOLE_WORDS_FIRST,
            "vocab": {token: index for index, token in reversed(list(enumerate(tokens)))},
            "merges": merges,
        },
    }


def _surrounding(metadata: Metadata, tokens: int, *, bos_by_default: bool) -> tuple[list[int], list[int]]:
    """Ids that every encoded text starts and ends with."""
    bos, eos = _token_id(metadata, "bos", tokens), _token_id(metadata, "eos", tokens)
    prefix = [bos] if bos is not None and metadata.flag("tokenizer.ggml.add_bos_token", bos_by_default) else []
    suffix = [eos] if eos is not None and metadata.flag("tokenizer.ggml.add_eos_token", False) else []
    return prefix, suffix


def _token_id(metadata: Metadata, role: str, tokens: int) -> int | None:
    key = f"tokenizer.ggml.{role}_token_id"
    value = metadata.integer(key)
    if value is not None and value >= tokens:
        raise ModelError(f"the metadata key `{key}` is {value}, but there are {tokens} tokens")
    return value


def _parse(original: str) -> dict[str, Any]:
    try:
        definition = json.loads(original)
    except (ValueError, RecursionError) as error:
        raise CorruptFileError("the metadata key `tokenizer.huggingface.json` is not JSON") from error
    if not isinstance(definition, dict):
        raise CorruptFileError("the metadata key `tokenizer.huggingface.json` is not a JSON object")
    return definition
