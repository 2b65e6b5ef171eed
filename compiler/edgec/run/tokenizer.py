"""Text to ids and back, and the pieces of text that a stream of ids gives."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers

from edgec.bundle import Bundle
from edgec.errors import BundleError, UnsupportedError
from edgec.run.chat import GUARD, special_pattern
from edgec.run.tasks.places import Surface, fold

CONTEXT_IDS = 5  # ids before a piece that it is decoded with
_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")
_SPACE = "[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"  # what \\s is for the tokenizers
_LEFT, _RIGHT = re.compile(f"^{_SPACE}+"), re.compile(f"{_SPACE}+$")


@dataclass(frozen=True)
class Encoded:
    ids: Sequence[int]
    types: Sequence[int]  # which text of a pair a token is of


class Tokenizer:
    """The bundle's `tokenizer.json`."""

    def __init__(self, tokenizer_json: bytes) -> None:
        try:
            self._tokenizer = _read(tokenizer_json)
            definition = json.loads(tokenizer_json)
            changed = plain_model(definition)
            plain = tokenizer_json if changed is None else json.dumps({**definition, **changed}).encode("utf-8")
            self._plain = self._tokenizer if changed is None else _read(plain)
            self._following = _following(plain) if _minds_the_start(definition.get("pre_tokenizer")) else None
        except Exception as error:
            raise BundleError(f"`tokenizer.json` cannot be read ({error})") from error
        self._plain.encode_special_tokens = True
        added = self._tokenizer.get_added_tokens_decoder()
        self._controls = {token.content: token for _, token in sorted(added.items()) if token.special}
        self.control_tokens = {token.content: id for id, token in sorted(added.items()) if token.special}
        self._pattern = special_pattern(self.control_tokens)
        decoder, model = definition.get("decoder"), definition["model"]
        self._joins_bytes = _has(decoder, lambda part: part.get("type") == "ByteFallback")
        self._bytes = byte_letters() if _has(decoder, lambda part: part.get("type") == "ByteLevel") else None
        self._continues = model.get("continuing_subword_prefix") if model["type"] == "WordPiece" else None
        self._ends = model.get("end_of_word_suffix") or ""
        unknown = model.get("unk_token")
        self._unknown = model["vocab"][model["unk_id"]][0] if model.get("unk_id") is not None else unknown

    @classmethod
    def of(cls, bundle: Bundle) -> Tokenizer | None:
        content = bundle.tokenizer_json()
        return None if content is None else cls(content)

    def encode(self, text: str) -> list[int]:
        """A raw prompt: special tokens in the text count, and the tokenizer adds its own start and end."""
        self._tokenizer.encode_special_tokens = False
        ids = list(self._tokenizer.encode(well_formed(text)).ids)
        self._plain.encode_special_tokens = True
        return ids

    def encode_plain(self, text: str, *, add_special_tokens: bool = False, max_length: int | None = None) -> list[int]:
        """Text is text: nothing in it becomes a special token. `max_length` drops the text's own last ids."""
        if max_length is not None:
            self._plain.enable_truncation(max_length)
        ids = list(self._plain.encode(well_formed(text), add_special_tokens=add_special_tokens).ids)
        if max_length is not None:
            self._plain.no_truncation()
        return ids

    def encode_pair(self, first: str, second: str | None, max_length: int) -> Encoded:
        """One text or two as text, with the tokenizer's own template; the longer text loses its last ids first."""
        room = max_length - self._plain.num_special_tokens_to_add(second is not None)
        if room < (1 if second is None else 2):
            raise UnsupportedError(f"the model holds {max_length} tokens, the tokenizer's own leave no room for a text")
        self._plain.enable_truncation(max_length)
        encoded = self._plain.encode(well_formed(first), None if second is None else well_formed(second))
        self._plain.no_truncation()
        return Encoded(encoded.ids, encoded.type_ids)

    def around(self) -> tuple[list[int], list[int]]:
        """The ids that the tokenizer's template puts before and after a text."""
        encoded = self._plain.encode("a")
        own = [index for index, special in enumerate(encoded.special_tokens_mask) if not special] or [len(encoded.ids)]
        return encoded.ids[: own[0]], encoded.ids[own[-1] + 1 :]

    def surface(self, id: int) -> Surface:
        """What an id of a text looks like in it (docs/tasks.md, "Places of tokens")."""
        token = self.token(id) or ""
        if self._bytes is not None and all(char in self._bytes for char in token):
            return Surface("".join(self._bytes[char] for char in token), exact=True)
        if self._bytes is not None:
            return Surface(token.encode().decode("latin-1"), exact=True)
        if token == self._unknown:
            return Surface(None)
        if self._joins_bytes and _BYTE.fullmatch(token):
            return Surface(None, byte=int(token[3:5], 16))
        if self._continues is not None:
            return Surface(fold(token.removeprefix(self._continues)), not token.startswith(self._continues))
        return Surface(fold(token.removesuffix(self._ends)), token.startswith("▁"))

    def encode_rendered(self, text: str) -> list[int]:
        """A rendered chat: special tokens count, except where `GUARD` is in them; none are added."""
        ids, end, before = list[int](), 0, None
        for match in self._pattern.finditer(text):
            token = self._controls[match[0]]
            ids += self._encode_part(text[end : match.start()], before, token)
            ids.append(self.control_tokens[match[0]])
            end, before = match.end(), token
        return ids + self._encode_part(text[end:], before, None)

    def _encode_part(
        self, text: str, before: tokenizers.AddedToken | None, after: tokenizers.AddedToken | None
    ) -> list[int]:
        """The text between two control tokens, which may take the spaces beside them."""
        part = text.replace(GUARD, "")
        if before is not None and before.rstrip:
            part = _LEFT.sub("", part)
        if after is not None and after.lstrip:
            part = _RIGHT.sub("", part)
        if not part:
            return []
        if before is None or self._following is None:
            return self.encode_plain(part)
        return list(self._following.encode(GUARD + well_formed(part), add_special_tokens=False).ids[1:])

    def decode(self, ids: Sequence[int]) -> str:
        """Without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def ids(self) -> dict[str, int]:
        """The id of every entry of the vocabulary."""
        return dict(self._tokenizer.get_vocab(with_added_tokens=True))

    def token(self, id: int) -> str | None:
        """The vocabulary's entry for an id."""
        found = self._tokenizer.id_to_token(id)
        return None if found is None else str(found)

    def may_change(self, id: int) -> bool:
        """Whether the text of ids that end with `id` may change when more come: a byte may spoil those before it."""
        return self._joins_bytes and _BYTE.fullmatch(self.token(id) or "") is not None


def byte_letters() -> dict[str, str]:
    """Of the characters that byte-level vocabularies are written in, the character with the byte's number."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    other = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): chr(byte) for byte in plain} | {chr(0x100 + i): chr(byte) for i, byte in enumerate(other)}


def _read(tokenizer_json: bytes) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_buffer(tokenizer_json)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _following(tokenizer_json: bytes) -> tokenizers.Tokenizer:
    """Encodes texts that follow a token, which stands before them as `GUARD`."""
    tokenizer = _read(tokenizer_json)
    tokenizer.encode_special_tokens = True
    tokenizer.add_tokens([tokenizers.AddedToken(GUARD, normalized=False, special=False)])
    return tokenizer


def plain_model(definition: Mapping[str, Any]) -> dict[str, Any] | None:
    """Fields of a `tokenizer.json` whose model makes no control token out of text, None if it never does.

    Many models have control tokens in their vocabularies. Unigram and WordPiece models take them from there, BPE models
    with `ignore_merges` too, or where merges lead to one. There they get a name that no text has.
    """
    model = definition["model"]
    kind, unknown, vocabulary = model["type"], model.get("unk_token"), model["vocab"]
    if kind == "Unigram" and model.get("unk_id") is not None:
        unknown = vocabulary[model["unk_id"]][0]
    added = definition.get("added_tokens") or []
    names = {token["content"] for token in added if token.get("special")} - {unknown}
    names &= {text for text, _ in vocabulary} if kind == "Unigram" else vocabulary.keys()
    if not names:
        return None
    changed: dict[str, Any]
    if kind == "Unigram":
        changed = {"vocab": [[GUARD + text if text in names else text, score] for text, score in vocabulary]}
    else:
        changed = {"vocab": {GUARD + text if text in names else text: id for text, id in vocabulary.items()}}
    if kind == "BPE":
        changed["merges"] = [merge for merge in model["merges"] if _parts(merge).isdisjoint(names)]
        if len(changed["merges"]) == len(model["merges"]) and not model.get("ignore_merges"):
            return None
    kept = [token for token in added if token["content"] not in names]
    return {"model": {**model, **changed}, "added_tokens": kept}


def _parts(merge: str | Sequence[str]) -> set[str]:
    """The two parts of a merge, and what they make."""
    first, second = merge.split(" ", 1) if isinstance(merge, str) else merge
    return {first, second, first + second}


def _minds_the_start(part: Any) -> bool:
    """Whether a text after a control token is split otherwise than one that begins."""
    return _has(part, lambda part: part.get("type") == "Metaspace" and part.get("prepend_scheme") == "first")


def _has(part: Any, wanted: Callable[[Mapping[str, Any]], bool]) -> bool:
    """Whether a part of a tokenizer, or one in its sequence, is wanted."""
    if not isinstance(part, Mapping):
        return False
    inner = [item for name in ("pretokenizers", "decoders") for item in part.get(name) or ()]
    return wanted(part) or any(_has(item, wanted) for item in inner)


def well_formed(text: str) -> str:
    """Halves of surrogate pairs, which UTF-8 cannot hold, as U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class TextStream:
    """Turns ids into text as they come; what may still change is held back.

    That is an unfinished character, and a run of byte tokens, which decoders spoil as a whole when it is no UTF-8. The
    pieces together are `decode` of all ids. Only the last few ids are decoded again each time: enough that a decoder
    which drops a space at the very start does not drop one between pieces, and from where a character begins.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._boundaries = [0]  # counts of ids whose text is certain
        self._shown = 0  # characters of the text of `_ids`

    def push(self, token: int) -> str:
        """The text that is certain now, possibly empty."""
        self._ids.append(token)
        return self._take(final=False)

    def finish(self) -> str:
        """The rest."""
        return self._take(final=True)

    def _take(self, *, final: bool) -> str:
        if not final and self._tokenizer.may_change(self._ids[-1]):
            return ""
        text = self._tokenizer.decode(self._ids)
        # An unfinished character is one U+FFFD.
        certain = len(text) - (text.endswith("\ufffd") and not final)
        piece = text[self._shown : certain]
        self._shown = max(self._shown, certain)
        if certain == len(text):
            self._boundaries.append(len(self._ids))
            start = max(boundary for boundary in self._boundaries if boundary <= max(0, len(self._ids) - CONTEXT_IDS))
            shown = len(self._tokenizer.decode(self._ids[start:]))
            if shown:  # else the next text would be taken for the first one
                self._boundaries = [boundary - start for boundary in self._boundaries if boundary >= start]
                self._ids, self._shown = self._ids[start:], shown
        return piece


class StopStrings:
    """Cuts text at the first stop string, holding back what may yet become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.hit = False

    def push(self, piece: str) -> str:
        """The text that may be shown; after `hit` nothing more comes."""
        self._held += piece
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.hit = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = max((self._overlap(stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def finish(self) -> str:
        shown, self._held = self._held, ""
        return shown

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that begins `stop`."""
        for length in range(min(len(stop) - 1, len(self._held)), 0, -1):
            if self._held.endswith(stop[:length]):
                return length
        return 0
