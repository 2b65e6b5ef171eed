"""A tokenizer that knows some of its tokens only, under new ids."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers

from edgec.compress.prune.token_choice import merge_pair
from edgec.errors import UnsupportedError
from edgec.ir.model import TokenizerAssets


def prune_tokenizer(assets: TokenizerAssets, kept: Sequence[int]) -> TokenizerAssets:
    """The token `kept[i]` (ascending, see `edgec.compress.prune.token_choice`) gets the id `i`.

    Merges whose parts or result are gone are left out; everything else that holds an id is renumbered.
    Raises `UnsupportedError` where the library reads other ids from the new file than were written into it.
    """
    new = {old: index for index, old in enumerate(kept)}
    definition = json.loads(assets.tokenizer_json)
    definition["model"] = _model(definition["model"], new)
    definition["added_tokens"] = [
        {**token, "id": new[token["id"]]} for token in definition.get("added_tokens") or () if token["id"] in new
    ]
    definition["post_processor"] = _processor(definition.get("post_processor"), new)
    content = json.dumps(definition, ensure_ascii=False)
    _check(assets.tokenizer_json.decode("utf-8"), content, kept)
    return dataclasses.replace(
        assets,
        tokenizer_json=content.encode("utf-8"),
        eos_token_ids=tuple(new[index] for index in assets.eos_token_ids),
        bos_token_id=None if assets.bos_token_id is None else new[assets.bos_token_id],
        pad_token_id=None if assets.pad_token_id is None else new[assets.pad_token_id],
    )


def _model(model: Mapping[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    if model["type"] == "Unigram":
        pruned = {**model, "vocab": [entry for index, entry in enumerate(model["vocab"]) if index in new]}
        if isinstance(model.get("unk_id"), int):
            pruned["unk_id"] = new[model["unk_id"]]
        return pruned
    vocab = {text: new[index] for text, index in model["vocab"].items() if index in new}
    if model["type"] != "BPE":
        return {**model, "vocab": vocab}
    prefix = str(model.get("continuing_subword_prefix") or "")
    pairs = [merge_pair(merge) for merge in model.get("merges") or ()]
    merges = [
        list(pair)
        for pair in pairs
        if pair[0] in vocab and pair[1] in vocab and pair[0] + pair[1].removeprefix(prefix) in vocab
    ]
    return {**model, "vocab": vocab, "merges": merges}


def _processor(processor: Mapping[str, Any] | None, new: Mapping[int, int]) -> dict[str, Any] | None:
    if processor is None:
        return None
    pruned = dict(processor)
    for role in ("sep", "cls"):
        if role in pruned:
            pruned[role] = [pruned[role][0], new[pruned[role][1]]]
    if "special_tokens" in pruned:
        pruned["special_tokens"] = {
            name: {**token, "ids": [new[index] for index in token["ids"]]}
            for name, token in pruned["special_tokens"].items()
        }
    if "processors" in pruned:
        pruned["processors"] = [_processor(part, new) for part in pruned["processors"]]
    return pruned


def _check(before: str, after: str, kept: Sequence[int]) -> None:
    """Every token still has its text."""
    old, new = tokenizers.Tokenizer.from_str(before), tokenizers.Tokenizer.from_str(after)
    for index, original in enumerate(kept):
        if new.id_to_token(index) != old.id_to_token(original):
            raise UnsupportedError(
                f"the token `{old.id_to_token(original)}` cannot be renumbered from {original} to {index}",
                hint="this vocabulary cannot be pruned, leave `--keep-vocab` out",
            )


__all__ = ["prune_tokenizer"]
