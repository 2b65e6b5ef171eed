"""Tokenizers of Hugging Face directories as `TokenizerAssets`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from edgec.errors import CorruptFileError, ModelError, UnsupportedError
from edgec.frontend import tokenizer_llama2c
from edgec.frontend.files import read_json
from edgec.ir.model import TokenizerAssets

_FILES = ("tokenizer.json", "tokenizer.bin", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
_SLOW = ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def tokenizer_files(folder: Path) -> list[Path]:
    """The files that `read_tokenizer` reads."""
    return [folder / name for name in _FILES if (folder / name).is_file()]


def read_tokenizer(
    folder: Path, config: Mapping[str, Any], *, eos_token_ids: Sequence[int], vocabulary: int
) -> TokenizerAssets | None:
    """The directory's tokenizer, None when it has none at all.

    Raises `UnsupportedError` for tokenizers that only Python code understands.
    """
    settings = {
        **_optional_json(folder / "special_tokens_map.json"),
        **_optional_json(folder / "tokenizer_config.json"),
    }
    if (folder / "tokenizer.json").is_file():
        definition = read_json(folder / "tokenizer.json")
    elif (folder / "tokenizer.bin").is_file():
        definition = tokenizer_llama2c.read_tokenizer(folder / "tokenizer.bin", vocabulary)
        settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **settings}
    else:
        slow = [name for name in _SLOW if (folder / name).is_file()]
        if slow:
            raise UnsupportedError(
                f"`{folder.name}` has a tokenizer only as {', '.join(f'`{name}`' for name in slow)}",
                hint="write `tokenizer.json` with `AutoTokenizer.from_pretrained(...).save_pretrained(...)`",
            )
        return None
    special = {role: text for role in _ROLES if (text := _token_text(settings.get(role))) is not None}
    return assets(
        definition,
        special,
        eos_token_ids=eos_token_ids,
        bos_token_id=config.get("bos_token_id"),
        pad_token_id=config.get("pad_token_id"),
        chat_template=_chat_template(folder, settings),
        vocabulary=vocabulary,
    )


def assets(
    definition: dict[str, Any],
    special: Mapping[str, str],
    *,
    eos_token_ids: Sequence[int],
    bos_token_id: Any,
    pad_token_id: Any,
    chat_template: str | None,
    vocabulary: int,
) -> TokenizerAssets:
    """Checks a tokenizer definition and completes ids from the special tokens' texts.

    Truncation and padding are removed: the runtime decides lengths. Every end token counts, the
    generation configuration's and the tokenizer's own.
    """
    content = json.dumps({**definition, "truncation": None, "padding": None}, ensure_ascii=False)
    try:
        tokenizer = tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # the library raises plain `Exception`
        raise CorruptFileError(f"`tokenizer.json` cannot be read: {error}", hint="download the file again") from error
    _check_ids(definition, tokenizer, vocabulary)
    ids = {role: index for role, text in special.items() if (index := tokenizer.token_to_id(text)) is not None}
    ends = list(dict.fromkeys([*eos_token_ids, *([ids["eos_token"]] if "eos_token" in ids else [])]))
    return TokenizerAssets(
        tokenizer_json=content.encode("utf-8"),
        eos_token_ids=tuple(ends),
        bos_token_id=bos_token_id if isinstance(bos_token_id, int) else ids.get("bos_token"),
        pad_token_id=pad_token_id if isinstance(pad_token_id, int) else ids.get("pad_token"),
        chat_template=chat_template,
        special_tokens=dict(special),
    )


def _check_ids(definition: Mapping[str, Any], tokenizer: tokenizers.Tokenizer, vocabulary: int) -> None:
    """The library numbers added tokens itself, other readers believe the file: both must agree."""
    known = dict(tokenizer.get_vocab())
    for token in definition.get("added_tokens") or ():
        known[token["content"]] = max(token["id"], known.get(token["content"], 0))
    beyond = {text: index for text, index in known.items() if index >= vocabulary}
    if beyond:
        first = min(beyond, key=lambda text: beyond[text])
        raise ModelError(
            f"the tokenizer knows {len(beyond)} tokens that the model does not, the first is `{first}` "
            f"with id {beyond[first]} of {vocabulary}",
            hint="tokenizer and weights are of different models",
        )
    moved = [text for text, index in known.items() if tokenizer.token_to_id(text) != index]
    if moved:
        raise ModelError(
            f"the added token `{moved[0]}` is numbered {known[moved[0]]}, which leaves a gap in the vocabulary"
        )


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several named ones; the one for plain chat is called "default"
        named = {item["name"]: item["template"] for item in template if isinstance(item, dict) and len(item) == 2}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _token_text(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
