import json
import struct
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from edgec.errors import CorruptFileError
from edgec.frontend.tokenizer_llama2c import read_tokenizer

WORDS = [(" ", -50.0), ("t", -51.0), ("h", -52.0), ("e", -53.0), ("th", -1.0), (" the", -3.0), ("the", -2.0)]


def encode(tokens: list[tuple[bytes, float]]) -> bytes:
    records = [struct.pack("<fi", score, len(text)) + text for text, score in tokens]
    return struct.pack("<i", 16) + b"".join(records)


def vocabulary() -> list[tuple[bytes, float]]:
    special = [(b"<unk>", 0.0), (b"\n<s>\n", 0.0), (b"\n</s>\n", 0.0)]
    bytes_ = [(f"<0x{byte:02X}>".encode(), 0.0) for byte in range(256)]
    return special + bytes_ + [(text.encode(), score) for text, score in WORDS]


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    (tmp_path / "tokenizer.bin").write_bytes(encode(vocabulary()))
    definition = read_tokenizer(tmp_path / "tokenizer.bin", 259 + len(WORDS))
    return Tokenizer.from_str(json.dumps(definition))


def test_merges_by_score(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("the the").tokens == ["<s>", "▁the", "▁the"]


def test_bytes_for_unknown_characters(tokenizer: Tokenizer) -> None:
    encoded = tokenizer.encode("the\nö")
    assert encoded.ids[-3:] == [3 + 0x0A, 3 + 0xC3, 3 + 0xB6]
    assert tokenizer.decode(encoded.ids) == "the\nö"


def test_empty_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("").ids == [1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encode(vocabulary())[:-1], "token 265 at byte"),
        (encode(vocabulary())[:-9], "inside token 265 of 266"),
        (encode(vocabulary()) + b"x", "1 bytes follow its 266 tokens"),
        (encode([*vocabulary()[:-1], (b"\xff", 0.0)]), "is not UTF-8"),
        (encode([*vocabulary()[:-1], (b"a", float("nan"))]), "score nan"),
        (b"", "inside token 0"),
    ],
)
def test_damage(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.bin").write_bytes(data)
    with pytest.raises(CorruptFileError, match=message):
        read_tokenizer(tmp_path / "tokenizer.bin", 259 + len(WORDS))
