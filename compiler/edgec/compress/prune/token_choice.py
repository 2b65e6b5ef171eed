"""Which tokens of a vocabulary stay.

Some always do: added tokens, those that special ids and templates name, and the single characters or
bytes from which any text can still be put together. The others are ranked by how often a text uses
them, then by the tokenizer's own order: most tokenizers number their tokens by frequency. A token
made by merges brings along what it is merged from, so that a text whose tokens all stay is cut into
the very same tokens as before.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tokenizers

from edgec.errors import UnsupportedError, UsageError
from edgec.ir.model import TokenizerAssets

KINDS = ("BPE", "Unigram", "WordPiece")
_CHARACTERS = 1 << 20  # of a text that are encoded in one go
_TEMPLATE = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"|(?:^|[}%]\})([^{]+)")


class Vocabulary:
    """A `tokenizer.json`: its tokens by id, and what they need of each other.

    Raises `UnsupportedError` for models of tokenizers other than `KINDS`.
    """

    def __init__(self, assets: TokenizerAssets) -> None:
        self._assets = assets
        self._definition: Mapping[str, Any] = json.loads(assets.tokenizer_json)
        self._model: Mapping[str, Any] = self._definition["model"]
        kind = self._model.get("type")
        if kind not in KINDS:
            raise UnsupportedError(
                f"the tokenizer's model is `{kind}`, its vocabulary cannot be pruned",
                hint=f"supported are {', '.join(KINDS)}",
            )
        self.kind: str = kind
        entries = self._model["vocab"]
        pieces = enumerate(piece for piece, _ in entries) if kind == "Unigram" else ((i, t) for t, i in entries.items())
        self.texts: dict[int, str] = dict(pieces)
        added = {token["id"]: token["content"] for token in self._definition.get("added_tokens") or ()}
        self.added = frozenset(added)
        self.texts.update(added)
        self.ids: dict[str, int] = {text: index for index, text in self.texts.items()}
        self._ranks = _ranks(self._model) if kind == "BPE" else {}
        self._prefix = str(self._model.get("continuing_subword_prefix") or "")
        self._suffix = str(self._model.get("end_of_word_suffix") or "")

    def needed(self) -> set[int]:
        """Ids without which some text, or some special token, could not be encoded any more."""
        assets = self._assets
        found = set(self.added)
        found.update(i for i in (assets.bos_token_id, assets.pad_token_id, *assets.eos_token_ids) if i is not None)
        found.update(_processor_ids(self._definition.get("post_processor")))
        unknown = self._model.get("unk_token")
        if isinstance(unknown, str) and unknown in self.ids:
            found.add(self.ids[unknown])
        if isinstance(self._model.get("unk_id"), int):
            found.add(self._model["unk_id"])
        if self.kind == "Unigram":  # what an unknown character costs depends on the least likely piece
            scores = [score for _, score in self._model["vocab"]]
            found.add(min(range(len(scores)), key=lambda index: scores[index]))
        in_bytes = {i for i, text in self.texts.items() if re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", text)}
        if self._model.get("byte_fallback") and in_bytes:
            return found | in_bytes
        return found | {i for i, text in self.texts.items() if len(self._bare(text)) == 1}

    def used(self, text: str) -> Counter[int]:
        """How often each token is in `text`."""
        tokenizer = _plain(self._assets.tokenizer_json)
        parts = [text[start : start + _CHARACTERS] for start in range(0, len(text), _CHARACTERS)]
        counts: Counter[int] = Counter()
        for encoding in tokenizer.encode_batch(parts, add_special_tokens=False):
            counts.update(encoding.ids)
        return counts

    def template_words(self) -> set[int]:
        """Tokens that a rendered chat consists of besides its messages."""
        template = self._assets.chat_template
        if not template:
            return set()
        literals = ["".join(groups).replace("\\n", "\n").replace("\\t", "\t") for groups in _TEMPLATE.findall(template)]
        tokenizer = _plain(self._assets.tokenizer_json)
        words = [*literals, "system", "user", "assistant"]
        return {i for encoding in tokenizer.encode_batch(words, add_special_tokens=False) for i in encoding.ids}

    def by_own_order(self) -> list[int]:
        """All ids, the most useful first as far as the tokenizer itself tells."""
        if self.kind == "Unigram":
            scores = [score for _, score in self._model["vocab"]]
            return sorted(self.texts, key=lambda i: (-scores[i] if i < len(scores) else 0.0, i))
        unreachable = self._unreachable() if self.kind == "WordPiece" else set()
        return sorted(self.texts, key=lambda i: (i in unreachable, i))

    def with_parts(self, index: int) -> set[int]:
        """`index`, and all that comes up while merges build it."""
        parts = {index}
        if self.kind == "BPE":
            parts.update(self._parts(self.texts[index]))
        return parts

    def _parts(self, text: str) -> Iterable[int]:
        pieces = self._characters(text)
        yield from (self.ids[piece] for piece in pieces if piece in self.ids)
        while len(pieces) > 1:
            ranked = [(self._ranks.get(pair, len(self._ranks)), i) for i, pair in enumerate(itertools.pairwise(pieces))]
            rank, at = min(ranked)
            if rank == len(self._ranks):
                return  # no text is cut into this token
            pieces[at : at + 2] = [pieces[at] + pieces[at + 1].removeprefix(self._prefix)]
            if pieces[at] in self.ids:
                yield self.ids[pieces[at]]

    def _characters(self, text: str) -> list[str]:
        bare = self._bare(text)
        starts = bool(self._prefix) and text.startswith(self._prefix)
        pieces = [(self._prefix if i or starts else "") + character for i, character in enumerate(bare)]
        if pieces and self._suffix and text.endswith(self._suffix):
            pieces[-1] += self._suffix
        return pieces

    def _bare(self, text: str) -> str:
        bare = text.removeprefix(self._prefix) if self._prefix else text
        return bare.removesuffix(self._suffix) if self._suffix else bare

    def _unreachable(self) -> set[int]:
        """Whole words into which no text is cut, such as `[unused7]`."""
        words = {i: text for i, text in self.texts.items() if not text.startswith(self._prefix) and i not in self.added}
        encodings = _plain(self._assets.tokenizer_json).encode_batch(list(words.values()), add_special_tokens=False)
        return {i for i, encoding in zip(words, encodings, strict=True) if encoding.ids != [i]}


def covering_ids(assets: TokenizerAssets, text: str) -> list[int]:
    """The fewest ids with which `text` is encoded as before, and any other text somehow; sorted."""
    vocabulary = Vocabulary(assets)
    kept = vocabulary.needed()
    for index in sorted(vocabulary.used(text).keys() | vocabulary.template_words()):
        kept |= vocabulary.with_parts(index)
    return sorted(kept)


def most_useful_ids(assets: TokenizerAssets, count: int, text: str = "") -> list[int]:
    """`count` ids, those first that every text needs, then the most frequent ones of `text`; sorted.

    Raises `UsageError` when even the necessary ones are more, or when there are no more than `count`.
    """
    vocabulary = Vocabulary(assets)
    kept = _necessary(vocabulary)
    if count < len(kept):
        raise UsageError(
            f"a vocabulary of {count:,} tokens is too small, special tokens, characters and the chat template "
            f"alone are {len(kept):,}",
            hint=f"keep at least {len(kept):,}",
        )
    if count >= len(vocabulary.texts):
        raise UsageError(
            f"a vocabulary of {count:,} tokens prunes nothing, the tokenizer has {len(vocabulary.texts):,}",
            hint="give a smaller number",
        )
    frequent = [index for index, _ in sorted(vocabulary.used(text).items(), key=lambda entry: (-entry[1], entry[0]))]
    for index in [*frequent, *vocabulary.by_own_order()]:
        if len(kept) >= count:
            break
        parts = vocabulary.with_parts(index) if index not in kept else set()
        if len(kept | parts) <= count:
            kept |= parts
    return sorted(kept)


def smallest_vocabulary(assets: TokenizerAssets) -> int:
    """The fewest tokens that `most_useful_ids` can give."""
    return len(_necessary(Vocabulary(assets)))


def _necessary(vocabulary: Vocabulary) -> set[int]:
    kept = vocabulary.needed()
    for index in sorted(vocabulary.template_words()):
        kept |= vocabulary.with_parts(index)
    return kept


def _ranks(model: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    return {pair: rank for rank, pair in enumerate(merge_pair(merge) for merge in model.get("merges") or ())}


def merge_pair(merge: str | Sequence[str]) -> tuple[str, str]:
    """Older files write a merge as one text, newer ones as two."""
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _processor_ids(processor: Mapping[str, Any] | None) -> set[int]:
    """Ids in a post-processor, which puts special tokens around a text."""
    if processor is None:
        return set()
    found = {pair[1] for role in ("sep", "cls") if (pair := processor.get(role)) is not None}
    for token in (processor.get("special_tokens") or {}).values():
        found.update(token["ids"])
    for part in processor.get("processors") or ():
        found |= _processor_ids(part)
    return found


def _plain(tokenizer_json: bytes) -> Any:
    tokenizer = tokenizers.Tokenizer.from_buffer(tokenizer_json)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


__all__ = ["KINDS", "Vocabulary", "covering_ids", "merge_pair", "most_useful_ids", "smallest_vocabulary"]
