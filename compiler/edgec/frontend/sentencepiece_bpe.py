"""SentencePiece BPE vocabularies (Llama, llama2.c, GGUF `llama`) in the `tokenizers` library's format.

SentencePiece merges the pair whose result has the highest score; `tokenizers` wants the list of
merges in that order, so every split of a piece into two pieces becomes a merge of its score.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

SPACE = "\u2581"  # how SentencePiece writes a space


def tokenizer_definition(
    pieces: Sequence[str],
    scores: Sequence[float],
    *,
    unknown: int,
    special: Collection[int],
    user_defined: Collection[int] = (),
    not_merged: Collection[int] = (),
    space_prefix: bool = True,
    prefix_ids: Sequence[int] = (),
    suffix_ids: Sequence[int] = (),
) -> dict[str, Any]:
    """The content of a `tokenizer.json`.

    `pieces[i]` with `scores[i]` is token `i`. `special` tokens are skipped when text is shown,
    `user_defined` ones are matched in the text first, `not_merged` (bytes, control) are no merge
    results. `prefix_ids` and `suffix_ids` surround every encoded text (bos, eos).
    """
    added = sorted({*special, *user_defined, unknown})
    vocabulary = {piece: index for index, piece in reversed(list(enumerate(pieces)))}
    excluded = {pieces[index] for index in (*added, *not_merged)}
    normalizers: list[dict[str, Any]] = [{"type": "Prepend", "prepend": SPACE}] if space_prefix else []
    normalizers.append({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if space_prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(index, pieces[index], special=index in special) for index in added],
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "post_processor": template(pieces, prefix_ids, suffix_ids),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": pieces[unknown],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": merges(vocabulary, scores, excluded),
        },
    }


def merges(vocabulary: dict[str, int], scores: Sequence[float], excluded: Collection[str] = ()) -> list[list[str]]:
    """All pairs of pieces whose concatenation is a piece, best score first."""
    found: list[tuple[float, int, int, list[str]]] = []
    for piece, index in vocabulary.items():
        if piece in excluded:
            continue
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocabulary and right in vocabulary and left not in excluded and right not in excluded:
                found.append((-scores[index], vocabulary[left], vocabulary[right], [left, right]))
    found.sort(key=lambda merge: merge[:3])
    return [pair for *_, pair in found]


def template(pieces: Sequence[str], prefix: Sequence[int], suffix: Sequence[int]) -> dict[str, Any] | None:
    if not prefix and not suffix:
        return None

    def special(index: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": pieces[index], "type_id": 0}}

    def sequence(name: str) -> list[dict[str, Any]]:
        middle = {"Sequence": {"id": name, "type_id": 0}}
        return [*map(special, prefix), middle, *map(special, suffix)]

    tokens = {
        pieces[index]: {"id": pieces[index], "ids": [index], "tokens": [pieces[index]]} for index in (*prefix, *suffix)
    }
    return {
        "type": "TemplateProcessing",
        "single": sequence("A"),
        "pair": sequence("A") + sequence("B"),
        "special_tokens": tokens,
    }


def added_token(index: int, content: str, *, special: bool) -> dict[str, Any]:
    return {
        "id": index,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }
