"""Small trained tokenizers of every kind whose vocabulary can be pruned."""

from __future__ import annotations

import json

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from edgec.ir.model import TokenizerAssets

TEXT = (
    """The quick brown fox jumps over the lazy dog, and the dog does not mind; the fox was quicker than that.
It was a bright cold day in April, and the clocks were striking thirteen. All happy families are alike.
Call me what you like: names are names, and nothing else. Naïve café owners serve jalapeños, über alles.
"""
    * 3
)
KINDS = ("byte-level", "byte-fallback", "wordpiece", "unigram")


def assets(kind: str, vocabulary: int = 400) -> TokenizerAssets:
    """A tokenizer with special tokens around texts where its kind has such."""
    tokenizer = {
        "byte-level": _byte_level,
        "byte-fallback": _byte_fallback,
        "wordpiece": _wordpiece,
        "unigram": _unigram,
    }[kind](vocabulary)
    special = {token: tokenizer.token_to_id(token) for token in ("<s>", "</s>")}
    template = "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    return TokenizerAssets(
        tokenizer.to_str().encode(),
        (special["</s>"],),
        bos_token_id=special["<s>"],
        chat_template=template if kind == "byte-level" else None,
        special_tokens={"bos_token": "<s>", "eos_token": "</s>"},
    )


def _around(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")],
    )
    return tokenizer


def _byte_level(vocabulary: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT.splitlines(), trainer)
    return _around(tokenizer)


def _byte_fallback(vocabulary: int) -> Tokenizer:
    """As converted from SentencePiece: a token may come from any of its splits."""
    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 256, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(TEXT.splitlines(), trainer)
    content = json.loads(tokenizer.to_str())
    model = content["model"]
    pieces = [*model["vocab"], *(f"<0x{byte:02X}>" for byte in range(256))]
    model["vocab"] = {piece: index for index, piece in enumerate(sorted(model["vocab"], key=model["vocab"].get))}
    for piece in pieces:
        model["vocab"].setdefault(piece, len(model["vocab"]))
    merges = [tuple(merge) for merge in model["merges"]]
    known = set(merges)
    for piece in model["vocab"]:
        for cut in range(1, len(piece)):
            pair = (piece[:cut], piece[cut:])
            if pair not in known and pair[0] in model["vocab"] and pair[1] in model["vocab"] and "<" not in piece:
                merges.append(pair)
    model |= {"merges": merges, "unk_token": "<unk>", "byte_fallback": True, "fuse_unk": True}
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _wordpiece(vocabulary: int) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary, special_tokens=["[UNK]", "<s>", "</s>"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXT.splitlines(), trainer)
    tokenizer.post_processor = processors.BertProcessing(
        ("</s>", tokenizer.token_to_id("</s>")), ("<s>", tokenizer.token_to_id("<s>"))
    )
    return tokenizer


def _unigram(vocabulary: int) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocabulary, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXT.splitlines(), trainer)
    return _around(tokenizer)
