"""Small tokenizers with the settings of published ones, and texts that are hard for them.

Normalizers, splitting patterns, decoders and the flags of added tokens are those of the families' `tokenizer.json`
files; the vocabularies are trained here.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SPACE = "\u2581"
CORPUS = [
    "the quick brown fox jumps over the lazy dog, and the dog sleeps on the other side of the road.",
    "Once upon a time there was a little girl named Lily. She loved to play outside in the sun.",
    "Mary's 12 apples cost 345 euros; isn't that too much? Ich weiß es nicht, aber schön wäre es.",
    "def main(argv):\n    for i in range(10):\n        print('hello', i)\n\treturn 0\n\n\nclass A:\n    pass\n",
    "naïve café, 東京 and Москва, 日本語のテキスト, 中文字符, 한국어 텍스트, العربية, עברית, हिन्दी, ไทย",
    "user: hello there! assistant: hi, how can I help you today? system: be brief and helpful.",
    "😀 😃 👍 👩‍👩‍👧 🏳️‍🌈 🇫🇷🇩🇪 ❤️ e\u0301 a\u0308",
    "1234567890 3.14159 1,000,000 0x1F x² ½ Ⅷ ٣٤",
]
TEXTS = [
    *CORPUS,
    "hello",
    " hello",
    "  hello  world  ",
    "hello ",
    "Hello, World!",
    # White space
    " ",
    "  ",
    "   ",
    "\n",
    "\n\n\n",
    "\t\t",
    " \n ",
    "\r\n\r\n",
    "a\n b",
    "a \n\n  b\n",
    "x" + " " * 40 + "y",
    "\n" * 17 + "z",
    "\u00a0",
    "a\u00a0b\u2003c\u3000d\u2028e\u2029f\u0085g\u200b\ufeff",
    "\v\f",
    # Emoji
    "👩‍👩‍👧‍👦👨🏽‍💻🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "🇫🇷🇩🇪🇫",
    "❤️❤︎☺️",
    "1️⃣#️⃣",
    "\u200d\ufe0f",
    "🤦🏿‍♂️ ok",
    # Scripts
    "中文，没有空格。",
    "日本語テスト「カギ」",
    "한국어 띄어쓰기",
    "ﾊﾝｶｸ ＦＵＬＬ",
    "𠀀𠮷野家",
    "مَرْحَبًا بِالْعَالَمِ",
    "שָׁלוֹם עוֹלָם",
    "\u202eabc\u202c \u2066x\u2069",
    "हिन्दी में क्षत्रिय",
    "ภาษาไทยไม่มีช่องว่าง",
    "Ελληνικά ΣΊΣΥΦΟΣ",
    "İstanbul ıI ß ẞ ǅ ŉ",
    "ﬁ ﬂ ﬃ ℌ ① ㎏ ㌀ ½ ² ₃ Ⅷ",
    "é e\u0301 \u1e9b\u0323 Å A\u030a \uac00 \u1100\u1161",
    "\u0301abc",
    "a\u0301\u0301\u0301\u0327",
    "o\u0308\u0323 o\u0323\u0308",
    # Code
    "int main() {\n\treturn x->y[0] != 3 && !z;  // ok\n}",
    "https://example.org/a?b=c&d=%20#e",
    "C:\\dir\\n.txt `x` \"q\" 'w'",
    "self.__init__(**kwargs)",
    "{{ x }} {% if y %}",
    "a=b+c*d/e^f|g~h<i>j@k#l$m",
    "--- ___ *** ... ,,,,, !!!!!!",
    "don't we'll I'M THEY'VE 'tis",
    "12345678901234567890",
    "1 22 333 4444 55555",
    "v1.2.3-rc4",
    "3,14 1_000 ٣٤٥ ๑๒๓ ½¾ ²³",
    # Control characters, noncharacters, what looks broken
    "\x00",
    "a\x00b",
    "\x01\x02\x1b[0m\x7f\x80\x9f",
    "\ufffd\ufffd",
    "\ufffe\uffff\U0001ffff",
    "\ue000\U000f0000",
    "\u00ad\u034f\u061c\u180e\u2060",
    "ÿþ Ã© â‚¬",
    "%C3%28 \\xc3\\x28 \\ud83d",
    "<0x41><0xFF>",
    "<0xE2><0x96><0x81>",
    SPACE,
    SPACE * 3 + "a" + SPACE,
    "Ġhello Ċ",
    "##ing @@ </w>",
    # Long
    "a" * 300,
    "ab" * 150,
    "é" * 120,
    "中" * 120,
    "😀" * 40,
    "x." * 100,
    "Donaudampfschifffahrtsgesellschaftskapitän" * 4,
    # Special tokens as text
    "<s>",
    "</s>",
    "a<s>b</s>c",
    " <s> </s> ",
    "<|im_start|>user\nhi<|im_end|>",
    "<|endoftext|><|endoftext|>",
    "<|user|>\n\n x <|end|>\n\n y",
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>",
    "[INST] x [/INST]",
    "[CLS] a [SEP] [MASK]b[PAD]",
    "<bos><start_of_turn>user<end_of_turn>",
    "<|IM_END|> <|im_end| > < |im_end|>",
    "<unk><pad>",
    "<|im_<|im_end|>end|>",
    "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>",
    "<tool_call>x</tool_call>",
    "<think>\n\n</think>",
]

# Rare characters are in the vocabularies too: an unknown token would hide how they were split.
TRAINING = [*CORPUS * 4, *(text for text in TEXTS if len(text) < 100 and "<" not in text and "\x00" not in text)]

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
_O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = _O200K.replace(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace(r"\p{N}{1,3}", r"\p{N}")


def _special(text: str, **flags: bool) -> AddedToken:
    return AddedToken(text, normalized=False, special=True, **flags)


def _byte_level(
    specials: Sequence[str | AddedToken],
    before: Sequence[Any] = (),
    *,
    pattern: str | None = None,
    use_regex: bool = False,
    normalizer: Any = None,
    whole_words: bool = False,
    added: Sequence[AddedToken] = (),
    start: str | None = None,
) -> Tokenizer:
    """BPE over bytes. `pattern` splits before; `before` are other steps before the bytes."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=whole_words))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    steps = list(before)
    if pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(pattern), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    tokenizer.add_special_tokens(list(specials))
    if added:
        tokenizer.add_tokens(list(added))
    if start is not None:
        template = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, tokenizer.token_to_id(start))]
        )
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return tokenizer


def _falcon() -> Tokenizer:
    tokenizer = _byte_level(["<|endoftext|>", ">>TITLE<<"], use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Punctuation("contiguous"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            pre_tokenizers.Digits(individual_digits=False),
            pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
        ]
    )
    return tokenizer


def _sentencepiece(
    specials: Sequence[str | AddedToken],
    *,
    prefix: str,
    added: Sequence[AddedToken] = (),
    start: str | None = "<s>",
) -> Tokenizer:
    """BPE of SentencePiece with bytes for what is missing. `prefix`: how a space comes before the text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    spaces = normalizers.Replace(" ", SPACE)
    if prefix == "legacy":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces])
    elif prefix == "none":
        tokenizer.normalizer = spaces
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme=prefix, split=False)
    controls = ["<unk>", "<s>", "</s>"] if prefix != "none" else ["<pad>", "<eos>", "<bos>", "<unk>"]
    names = [*controls, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=750, special_tokens=names, limit_alphabet=200, show_progress=False)
    tokenizer.train_from_iterator([part for line in TRAINING for part in line.split("\n")], trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = state["added_tokens"][: len(controls)]  # the bytes are ordinary tokens
    tokenizer = Tokenizer.from_str(json.dumps(state))
    parts = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix != "none":
        parts.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(parts)
    tokenizer.add_special_tokens(list(specials))
    if added:
        tokenizer.add_tokens(list(added))
    if start is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, tokenizer.token_to_id(start))]
        )
    return tokenizer


def _unigram(*, byte_fallback: bool) -> Tokenizer:
    """T5's and XLM-RoBERTa's kind, with NFKC for their table of replacements. The pieces are those of a BPE, because
    trained ones are others each time; their scores are parts of 1024, so that sums are exact and equal ones are."""
    names = ["<pad>", "</s>", "<unk>", *([f"<0x{byte:02X}>" for byte in range(256)] if byte_fallback else [])]
    pieces = Tokenizer(models.BPE())
    metaspace = pre_tokenizers.Metaspace(SPACE, prepend_scheme="always")
    pieces.normalizer = normalizers.NFKC()
    pieces.pre_tokenizer = metaspace
    pieces.train_from_iterator(TRAINING, trainers.BpeTrainer(vocab_size=700, show_progress=False))
    found = sorted(pieces.get_vocab(), key=pieces.token_to_id)
    scored = [(piece, -round(1024 * (3 + len(found) ** 0.3 + index**0.3)) / 1024) for index, piece in enumerate(found)]
    vocabulary = [*((name, 0.0) for name in names), *scored]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=byte_fallback))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = metaspace
    tokenizer.add_special_tokens(names[:3])
    back = decoders.Metaspace(SPACE, prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), back] if byte_fallback else [back])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    return tokenizer


def _word_piece(*, lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=900, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(TRAINING, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", tokenizer.token_to_id("[CLS]")), ("[SEP]", tokenizer.token_to_id("[SEP]"))],
    )
    return tokenizer


_CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_NEOX_SPACES = [AddedToken(" " * count, normalized=True, special=False) for count in range(24, 1, -1)]
_PHI3 = ["<|assistant|>", "<|system|>", "<|end|>", "<|user|>"]
_RSTRIP = {name: _special(name, rstrip=True) for name in _PHI3}

FAMILY_TOKENIZERS: Mapping[str, Callable[[], Tokenizer]] = {
    "gpt2": lambda: _byte_level(["<|endoftext|>"], use_regex=True),
    "opt": lambda: _byte_level(["<s>", "<pad>", "</s>", "<unk>"], use_regex=True, start="</s>"),
    "gpt-neox": lambda: _byte_level(
        ["<|endoftext|>", "<|padding|>"], use_regex=True, normalizer=normalizers.NFC(), added=_NEOX_SPACES
    ),
    "llama3": lambda: _byte_level(
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        pattern=_LLAMA3, whole_words=True, start="<|begin_of_text|>",
    ),
    "qwen2": lambda: _byte_level(
        _CHATML, pattern=_QWEN2, normalizer=normalizers.NFC(),
        added=[AddedToken(text, normalized=False) for text in ("<tool_call>", "</tool_call>", "<think>")],
    ),
    "smollm2": lambda: _byte_level(_CHATML, [pre_tokenizers.Digits(individual_digits=True)], use_regex=True),
    "cohere": lambda: _byte_level(
        ["<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>",
         "<|SYSTEM_TOKEN|>"],
        [pre_tokenizers.Digits(individual_digits=True)], use_regex=True, normalizer=normalizers.NFC(),
        start="<BOS_TOKEN>",
    ),
    "falcon": _falcon,
    "phi4": lambda: _byte_level(
        [_special(name, lstrip=True, rstrip=True) for name in ("<|im_start|>", "<|im_sep|>", "<|im_end|>")],
        pattern=_CL100K,
    ),
    "o200k": lambda: _byte_level(["<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>"], pattern=_O200K),
    "tekken": lambda: _byte_level(["<unk>", "<s>", "</s>", "[INST]", "[/INST]"], pattern=_TEKKEN, start="<s>"),
    "llama2": lambda: _sentencepiece([], prefix="legacy"),
    "mistral": lambda: _sentencepiece(["[INST]", "[/INST]"], prefix="first"),
    "phi3": lambda: _sentencepiece(
        ["<|endoftext|>", *_RSTRIP.values()], prefix="legacy", start=None,
        added=[AddedToken("</s>", rstrip=True, normalized=False)],
    ),
    "metaspace-always": lambda: _sentencepiece(["<|im_start|>", "<|im_end|>"], prefix="always"),
    "gemma": lambda: _sentencepiece(
        ["<start_of_turn>", "<end_of_turn>"], prefix="none", start="<bos>",
        added=[AddedToken("\n" * count, normalized=False, special=False) for count in range(2, 8)],
    ),
    "t5": lambda: _unigram(byte_fallback=False),
    "unigram-bytes": lambda: _unigram(byte_fallback=True),
    "bert": lambda: _word_piece(lowercase=True),
    "bert-cased": lambda: _word_piece(lowercase=False),
}  # fmt: skip

_ALPHABET = (
    "aAbzZéßİıǅ019.,'!?-_/<>|\n\r\t  \u00a0\u3000\u0085\u2028\x00\x07\ufffd▁Ġ"
    "中文かな한أبжẞשָ\u0301\u0308\u0327\u200d\ufe0f😀👩🇫🇷½²ﬁ"
)


def random_texts(count: int, seed: int = 0) -> list[str]:
    choose = random.Random(seed)
    words = ["<|im_end|>", "<s>", "</s>", " the", "hello", "<|end|>", "  ", "\n\n", "[INST]", "<0x0A>"]
    return [
        "".join(choose.choice(words) if choose.random() < 0.1 else choose.choice(_ALPHABET) for _ in range(size))
        for size in (choose.randint(1, 40) for _ in range(count))
    ]
