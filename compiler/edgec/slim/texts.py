"""The texts that slimming and healing work with: the user's, in pieces, or what a decoder writes itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from edgec.compress import generated_samples
from edgec.errors import UsageError
from edgec.ir.model import ModelIR
from edgec.ir.store import Store

PIECE = 640  # characters of a decoder's text, some 150 tokens
LONGEST = 8 << 20  # characters that are looked at
TOKENS = 2048  # of a decoder's own text to slim with
TRAINING_TOKENS = 16384  # to heal with
_LARGE = 64 << 20  # weights
_FEW = 4
_SOME = 16  # pieces from which statistics are taken, or by which a model is judged


def read_texts(model: ModelIR, file: Path) -> list[str]:
    """The lines of an encoder's text, or pieces of a decoder's. Raises `UsageError` for what is no text."""
    try:
        text = file.read_text(encoding="utf-8")[:LONGEST]
    except OSError as error:
        raise UsageError(f"`{file}` cannot be read ({error.strerror})") from error
    except UnicodeDecodeError:
        raise UsageError(f"`{file}` is not a text in UTF-8") from None
    pieces = [line for line in text.splitlines() if line.strip()] if model.decoder is None else _pieces(model, text)
    if len(pieces) < 2:
        raise UsageError(f"the text `{file}` is too short", hint="give some pages")
    return pieces


def own_texts(
    model: ModelIR,
    *,
    tokens: int = TOKENS,
    store: Store | None = None,
    source_key: str = "",
    progress: Callable[[str, int, int], None] | None = None,
) -> list[str]:
    """What a decoder with a tokenizer writes; see `edgec.compress.generated_samples`."""
    assert model.tokenizer is not None
    tokenizer = Tokenizer.from_buffer(model.tokenizer.tokenizer_json)
    samples = generated_samples(model, tokens=tokens, store=store, source_key=source_key, progress=progress)
    texts = [tokenizer.decode(sample["input_ids"][0].tolist()) for sample in samples]
    return [piece for text in texts for piece in _pieces(model, text)]


def parted(texts: Sequence[str], model: ModelIR) -> tuple[list[str], list[str]]:
    """(those to learn from, some from all over to be judged by: fewer for a large model)."""
    count = min(_SOME if model.facts.parameters <= _LARGE else _FEW, len(texts) // 2)
    judged = {round((index + 0.5) * len(texts) / count - 0.5) for index in range(count)}
    return [t for i, t in enumerate(texts) if i not in judged], [t for i, t in enumerate(texts) if i in judged]


def some(texts: Sequence[str]) -> list[str]:
    """A few from all over."""
    step = max(1, len(texts) // _SOME)
    return list(texts[::step][:_SOME])


def _pieces(model: ModelIR, text: str) -> list[str]:
    """Of equal length, or shorter where the context is: a piece may become a token per character."""
    assert model.decoder is not None
    size = min(PIECE, max(16, model.decoder.context_length // 2))
    cut = [text[start : start + size] for start in range(0, len(text), size)]
    return [piece for piece in cut if piece.strip()]


__all__ = ["TOKENS", "TRAINING_TOKENS", "own_texts", "parted", "read_texts", "some"]
