"""Text to ids and back, and the pieces of text that a stream of ids gives."""

from __future__ import annotations

from collections.abc import Sequence

import tokenizers

from edgec.bundle import Bundle
from edgec.errors import BundleError
from edgec.run.chat import GUARD, special_pattern

CONTEXT_IDS = 5  # ids before a piece that it is decoded with
_MOST_PENDING = 8  # ids; no character needs as many


class Tokenizer:
    """The bundle's `tokenizer.json`."""

    def __init__(self, tokenizer_json: bytes) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(tokenizer_json)
        except Exception as error:
            raise BundleError(f"`tokenizer.json` cannot be read ({error})") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        added = self._tokenizer.get_added_tokens_decoder()
        self.control_tokens = {token.content: id for id, token in sorted(added.items()) if token.special}
        self._pattern = special_pattern(self.control_tokens)

    @classmethod
    def of(cls, bundle: Bundle) -> Tokenizer | None:
        content = bundle.tokenizer_json()
        return None if content is None else cls(content)

    def encode(self, text: str) -> list[int]:
        """A raw prompt: special tokens in the text count, and the tokenizer adds its own start and end."""
        self._tokenizer.encode_special_tokens = False
        return list(self._tokenizer.encode(text).ids)

    def encode_plain(self, text: str, *, add_special_tokens: bool = False, max_length: int | None = None) -> list[int]:
        """Text is text: nothing in it becomes a special token. `max_length` drops the text's own last ids."""
        self._tokenizer.encode_special_tokens = True
        if max_length is not None:
            self._tokenizer.enable_truncation(max_length)
        ids = list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)
        if max_length is not None:
            self._tokenizer.no_truncation()
        return ids

    def encode_rendered(self, text: str) -> list[int]:
        """A rendered chat: special tokens count, except where `GUARD` is in them; none are added."""
        ids, end = list[int](), 0
        for match in self._pattern.finditer(text):
            ids += self._encode_part(text[end : match.start()])
            ids.append(self.control_tokens[match[0]])
            end = match.end()
        return ids + self._encode_part(text[end:])

    def _encode_part(self, text: str) -> list[int]:
        part = text.replace(GUARD, "")
        return self.encode_plain(part) if part else []

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


class TextStream:
    """Turns ids into text as they come; an unfinished character is held back until it is complete.

    The pieces together are `decode` of all ids. Only the last few ids are decoded again each time:
    enough that a decoder which drops a space at the very start does not drop one between pieces, and
    from where a character begins, because decoders spoil runs of bytes that start inside one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._boundaries = [0]  # counts of ids whose text ends with a whole character
        self._text = ""

    def push(self, token: int) -> str:
        """The text that is certain now, possibly empty."""
        self._ids.append(token)
        return self._take(final=False)

    def finish(self) -> str:
        """The rest."""
        return self._take(final=True)

    def _take(self, *, final: bool) -> str:
        text = self._tokenizer.decode(self._ids)
        unfinished = text.endswith("\ufffd") and len(self._ids) - self._boundaries[-1] < _MOST_PENDING
        if (unfinished and not final) or len(text) <= len(self._text):
            return ""
        piece = text[len(self._text) :]
        self._boundaries.append(len(self._ids))
        start = max(boundary for boundary in self._boundaries if boundary <= max(0, len(self._ids) - CONTEXT_IDS))
        self._boundaries = [boundary - start for boundary in self._boundaries if boundary >= start]
        self._ids = self._ids[start:]
        self._text = self._tokenizer.decode(self._ids)
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
