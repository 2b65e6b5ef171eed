"""What the JavaScript tests compare with, made by the Python side, `tokenizers` and Pillow.

`python -m tests.browser.fixtures` rewrites `runtime_wasm/test/fixtures/`; a test says when that is due.
"""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import edgec
from edgec.bundle import Bundle
from edgec.run.tasks.audio import read_audio
from edgec.run.tasks.places import places_of
from edgec.run.tokenizer import Tokenizer as TextIds
from tests.run.fake_module import SAMPLE_RATE, write_fake_bundle
from tests.run.tasks.waves import WAVES, wav_bytes

FOLDER = Path(__file__).resolve().parents[2] / "runtime_wasm" / "test" / "fixtures"
CORPUS = [
    "the quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "Once upon a time there was a little girl named Lily. She loved to play outside in the sun.",
    "Mary's 12 apples cost 345 euros; isn't that too much? Ich weiß es nicht, aber schön wäre es.",
    "def main():\n    print('hello world')\n\treturn 0\n",
    "naïve café, 東京 and Москва, 😀 and 👩‍👩‍👧",
]
TEXTS = [
    *CORPUS,
    "",
    " ",
    "  two  spaces ",
    "line\n\nbreaks\r\nand\ttabs",
    "<s>special</s> in <|im_start|>text<|im_end|> [CLS] and [MASK]",
    "don't we'll I'm they've 1234567 3.14 x² ½",
    "\u00e9 e\u0301 \u1e9b\u0323 ﬁ Å",
    "混合 text と 絵文字 🏳️‍🌈!",
    "ALL CAPS and MixedCase",
    "zero\u200bwidth\u00a0space\ufeff",
]


def byte_level() -> Tokenizer:
    """As GPT-2 and SmolLM2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def metaspace() -> Tokenizer:
    """As Llama 2: spaces as U+2581, bytes for what is missing, a token at the start."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=specials, limit_alphabet=60, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = state["added_tokens"][:3]  # the bytes are ordinary tokens
    tokenizer = Tokenizer.from_str(json.dumps(state))
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def word_piece() -> Tokenizer:
    """As BERT."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken("fox jumps", normalized=False), AddedToken("lily", normalized=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", tokenizer.token_to_id("[CLS]")), ("[SEP]", tokenizer.token_to_id("[SEP]"))],
    )
    return tokenizer


def tokenizer_cases(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Ids and text of each text, places (in characters) of its ids, and the pairs with the text before it."""
    cases = []
    ours = TextIds(tokenizer.to_str().encode())
    for index, text in enumerate(TEXTS):
        tokenizer.encode_special_tokens = False
        raw = tokenizer.encode(text).ids
        tokenizer.encode_special_tokens = True
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        decoded = tokenizer.decode(raw, skip_special_tokens=True)
        places = [[place.start, place.end] for place in places_of(text, [ours.surface(id) for id in plain])]
        pairs = []
        for length in (9, 30, 500):
            pair = ours.encode_pair(text, TEXTS[index - 1], length)
            pairs.append({"length": length, "ids": list(pair.ids), "types": list(pair.types)})
        case = {"text": text, "raw": raw, "plain": plain, "decoded": decoded, "places": places, "pairs": pairs}
        cases.append(case)
    return cases


def make_tokenizers() -> dict[str, Any]:
    made = {"byte-level": byte_level(), "metaspace": metaspace(), "word-piece": word_piece()}
    return {
        name: {"tokenizer": json.loads(tokenizer.to_str()), "cases": tokenizer_cases(tokenizer)}
        for name, tokenizer in made.items()
    }


def make_resizes() -> list[dict[str, Any]]:
    """Random pixels, resized by Pillow, horizontally first."""
    random = np.random.default_rng(0)
    sizes = [(7, 5, 3, 4), (5, 7, 12, 9), (16, 16, 16, 7), (31, 9, 8, 9), (40, 30, 13, 11), (3, 3, 1, 1), (1, 1, 4, 4)]
    sizes += [(9, 40, 4, 11)]  # Pillow by itself takes the other order
    cases = []
    for width, height, to_width, to_height in sizes:
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        case = {"width": width, "height": height, "pixels": _base64(pixels), "to": [to_width, to_height]}
        for name, kind in (("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)):
            narrow = Image.fromarray(pixels).resize((to_width, height), kind)
            case[name] = _base64(np.asarray(narrow.resize((to_width, to_height), kind)))
        cases.append(case)
    return cases


def make_audio() -> dict[str, Any]:
    """Sounds in every WAV format and rate, as the Python runtime reads them, and what the fake model hears."""
    random = np.random.default_rng(1)
    cases = []
    for kind, channels, rate in WAVES:
        data = wav_bytes(random.uniform(-1, 1, (700, channels)), kind, rate)
        cases.append({"wav": base64.b64encode(data).decode(), "samples": _base64(read_audio(data, SAMPLE_RATE))})
    long = (random.normal(0, 0.1, 3 * SAMPLE_RATE) * np.linspace(0, 1, 3 * SAMPLE_RATE)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        speech = write_fake_bundle(Path(folder) / "speech", kind="speech")
        detector = write_fake_bundle(Path(folder) / "detector", kind="detector")
        return {"waves": cases, **_heard(speech, detector, random, long)}


def _heard(speech: Bundle, detector: Bundle, random: np.random.Generator, long: Any) -> dict[str, Any]:
    with edgec.load(speech, threads=1) as model:
        transcription = model.transcribe(long)
        text = transcription.text()
    segments = [segment.to_json() for segment in transcription.segments]
    loud = (long * np.repeat(random.integers(0, 2, 30), SAMPLE_RATE // 10) * 8).astype(np.float32)[:-33]
    with edgec.load(detector, threads=1) as model:
        detected = [segment.to_json() for segment in model.detect_speech(loud)]
    return {
        "loud": {"samples": _base64(loud), "segments": detected},
        "long": {"samples": _base64(long), "text": text, "segments": segments},
    }


def _base64(array: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()


def write(folder: Path) -> None:
    """Replaces `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for kind in ("decoder", "graph", "graphs", "speech", "detector"):
        write_fake_bundle(folder / kind, kind=kind)
    _dump(folder / "tokenizers.json", make_tokenizers())
    _dump(folder / "resizes.json", make_resizes())
    _dump(folder / "audio.json", make_audio())


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(FOLDER)
    print(f"written with tokenizers {tokenizers.__version__} and Pillow {Image.__version__}")
