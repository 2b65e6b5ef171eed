"""llama2.c's `tokenizer.bin`: a SentencePiece BPE vocabulary as scores and strings.

Layout (little endian): int32 longest token, then per token float32 score, int32 length, bytes.
Tokens 0, 1, 2 are unknown, begin and end of sequence, 3 to 258 the 256 bytes; spaces are plain.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

from edgec.errors import CorruptFileError
from edgec.frontend.sentencepiece_bpe import SPACE, tokenizer_definition

UNKNOWN, BOS, EOS = 0, 1, 2
_SPECIAL = ("<unk>", "<s>", "</s>")
_BYTES = range(3, 259)


def read_tokenizer(path: Path, vocabulary: int) -> dict[str, Any]:
    """The content of the `tokenizer.json` of a `tokenizer.bin` with `vocabulary` tokens.

    Raises `CorruptFileError` when the file does not hold exactly that many tokens.
    """
    data = path.read_bytes()
    pieces: list[str] = []
    scores: list[float] = []
    position = 4
    for index in range(vocabulary):
        if position + 8 > len(data):
            raise _corrupt(path, f"it ends at byte {len(data)} inside token {index} of {vocabulary}")
        score, length = struct.unpack_from("<fi", data, position)
        position += 8
        if length < 0 or position + length > len(data) or not math.isfinite(score):
            raise _corrupt(path, f"token {index} at byte {position - 8} has length {length} and score {score}")
        try:
            text = data[position : position + length].decode("utf-8")
        except UnicodeDecodeError as error:
            raise _corrupt(path, f"token {index} at byte {position} is not UTF-8") from error
        position += length
        pieces.append(text.replace(" ", SPACE))
        scores.append(score)
    if position != len(data):
        raise _corrupt(path, f"{len(data) - position} bytes follow its {vocabulary} tokens")
    if vocabulary < _BYTES.stop:
        raise _corrupt(path, f"{vocabulary} tokens leave no room for the 256 bytes")
    pieces[:3] = _SPECIAL  # llama2.c stores them padded with newlines
    pieces[_BYTES.start : _BYTES.stop] = [f"<0x{byte:02X}>" for byte in range(256)]
    return tokenizer_definition(
        pieces, scores, unknown=UNKNOWN, special=(UNKNOWN, BOS, EOS), not_merged=_BYTES, prefix_ids=(BOS,)
    )


def _corrupt(path: Path, reason: str) -> CorruptFileError:
    return CorruptFileError(
        f"`{path.name}` is not the tokenizer of this model: {reason}", hint="download the file again"
    )
