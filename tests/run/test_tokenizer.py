from __future__ import annotations

import pytest
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers

from edgec.errors import BundleError
from edgec.run.tokenizer import StopStrings, TextStream, Tokenizer
from tests.run.fake_module import make_tokenizer


def byte_fallback_tokenizer() -> bytes:
    """Like Llama 2's: a space before each word, unknown characters as byte tokens."""
    vocabulary = {"<unk>": 0, "<s>": 1}
    for name in [*(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdefghijklmnopqrstuvwxyz"]:
        vocabulary[name] = len(vocabulary)
    tokenizer = Library(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    spaces = decoders.Replace("▁", " ")
    strip = decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence([spaces, decoders.ByteFallback(), decoders.Fuse(), strip])
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer.to_str().encode()


@pytest.mark.parametrize("content", [make_tokenizer(), byte_fallback_tokenizer()], ids=["byte-level", "byte-fallback"])
def test_pieces_make_up_the_whole_text(content: bytes) -> None:
    tokenizer = Tokenizer(content)
    text = "the 日本語 🎉🎉 日本 é end  x"
    ids = tokenizer.encode(text)
    stream = TextStream(tokenizer)
    pieces = [stream.push(id) for id in ids] + [stream.finish()]
    assert "".join(pieces) == tokenizer.decode(ids) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert sum(piece == "" for piece in pieces) >= 10  # waited for whole characters


def test_bytes_that_are_no_text_do_come_out() -> None:
    tokenizer = Tokenizer(make_tokenizer())
    stream = TextStream(tokenizer)
    ids = [0xFF] * 20 + [ord("a")]
    text = "".join(stream.push(id) for id in ids) + stream.finish()
    assert text.endswith("a") and text.count("\ufffd") == 20


def test_special_tokens_are_not_shown() -> None:
    tokenizer = Tokenizer(make_tokenizer())
    assert tokenizer.decode([258, 97, 259]) == "a"
    assert tokenizer.encode("<|im_end|>") == [259]
    assert len(tokenizer.encode_plain("<|im_end|>")) == 10
    assert tokenizer.token(97) == "a" and tokenizer.token(9999) is None


def test_a_broken_tokenizer_is_the_bundles_fault() -> None:
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        Tokenizer(b"{}")


@pytest.mark.parametrize(
    ("stops", "pieces", "expected", "hit"),
    [
        (["END"], ["abc", "E", "N", "D", "x"], "abc", True),
        (["END"], ["abcE", "Nope"], "abcENope", False),
        (["aab"], ["a", "a", "a", "b"], "a", True),
        (["x", "abc"], ["1abx"], "1ab", True),
        (["late", "a"], ["late"], "", True),
        ([], ["a", "b"], "ab", False),
        (["", "q"], ["a", "q"], "a", True),
    ],
)
def test_stop_strings(stops: list[str], pieces: list[str], expected: str, hit: bool) -> None:
    matcher = StopStrings(stops)
    shown = ""
    for piece in pieces:
        shown += matcher.push(piece)
        if matcher.hit:
            break
    else:
        shown += matcher.finish()
    assert (shown, matcher.hit) == (expected, hit)
