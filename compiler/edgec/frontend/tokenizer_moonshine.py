"""Moonshine's `tokenizer.bin`: the pieces of Llama's SentencePiece BPE vocabulary, without scores.

Layout: per token its length in bytes, in one byte below 128 or in two (`first - 128 + 128 * second`), and the bytes.
Tokens 0, 1, 2 are unknown, begin and end, 3 to 258 the 256 bytes; a piece's number is its rank, and tokens such as
`<<ST_0>>` at the end are control tokens.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from edgec.errors import CorruptFileError
from edgec.frontend.sentencepiece_bpe import tokenizer_definition

UNKNOWN, BOS, EOS = 0, 1, 2
_BYTES = range(3, 259)
_CONTROL = re.compile(r"<<ST_\d+>>")


def read_tokenizer(path: Path, vocabulary: int) -> dict[str, Any]:
    """The content of the `tokenizer.json`. Raises `CorruptFileError` unless there are exactly `vocabulary` tokens."""
    pieces = [_piece(path, index, raw) for index, raw in enumerate(_tokens(path))]
    if len(pieces) != vocabulary:
        raise _corrupt(path, f"it has {len(pieces)} tokens, the model {vocabulary}")
    if pieces[:3] != ["<unk>", "<s>", "</s>"]:
        raise _corrupt(path, f"its first tokens are {pieces[:3]}")
    special = [UNKNOWN, BOS, EOS, *(index for index, piece in enumerate(pieces) if _CONTROL.fullmatch(piece))]
    scores = [-float(index) for index in range(vocabulary)]
    return tokenizer_definition(pieces, scores, unknown=UNKNOWN, special=special, not_merged=_BYTES, prefix_ids=(BOS,))


def _tokens(path: Path) -> list[bytes]:
    data, at = path.read_bytes(), 0
    tokens: list[bytes] = []
    while at < len(data):
        length = data[at]
        at += 1
        if length >= 128:
            if at == len(data):
                raise _corrupt(path, f"it ends inside the length of token {len(tokens)}")
            length = length - 128 + 128 * data[at]
            at += 1
        if at + length > len(data):
            raise _corrupt(path, f"it ends at byte {len(data)} inside token {len(tokens)}")
        tokens.append(data[at : at + length])
        at += length
    return tokens


def _piece(path: Path, index: int, raw: bytes) -> str:
    if index in _BYTES:
        if raw != bytes([index - _BYTES.start]):
            raise _corrupt(path, f"token {index} is {raw!r}, not the byte {index - _BYTES.start}")
        return f"<0x{index - _BYTES.start:02X}>"
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _corrupt(path, f"token {index} is not UTF-8") from error


def _corrupt(path: Path, reason: str) -> CorruptFileError:
    return CorruptFileError(
        f"`{path.name}` is not the tokenizer of this model: {reason}", hint="download the file again"
    )
