from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer as Library
from tokenizers import processors

from edgec.bundle.manifest import Slot
from edgec.errors import UnsupportedError
from edgec.run.tasks.embedding import embed
from edgec.run.tokenizer import Tokenizer
from tests.run.fake_module import make_tokenizer

TASK = {"type": "embedding", "pooling": "mean", "normalize": False, "max_length": 8}


def bert_like() -> Tokenizer:
    """Bytes between a start and an end token, as BERT's tokenizer does."""
    tokenizer = Library.from_buffer(make_tokenizer())
    single = "<|im_start|> $A <|im_end|>"
    tokens = [("<|im_start|>", 258), ("<|im_end|>", 259)]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=tokens)
    return Tokenizer(tokenizer.to_str().encode())


class Encoder:
    """Hidden state of a token: (id, position, mask)."""

    def __init__(
        self, length: int | str = "sequence", names: tuple[str, ...] = ("input_ids", "attention_mask")
    ) -> None:
        self.inputs = [Slot(name, "int64", ("batch", length), 0, 0) for name in names]
        self.dims = {"batch": 4, "sequence": 6}
        self.seen: Mapping[str, Any] = {}

    def run(self, inputs: Mapping[str, npt.ArrayLike]) -> dict[str, npt.NDArray[Any]]:
        self.seen = {name: np.asarray(value) for name, value in inputs.items()}
        ids, mask = self.seen["input_ids"], self.seen["attention_mask"]
        positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        states = np.stack([ids, positions, mask], axis=2).astype(np.float32)
        return {"mask": mask, "hidden": states, "pooled": states[:, 0]}


def test_mean_over_the_tokens_of_each_text() -> None:
    encoder = Encoder()
    vectors = embed(encoder, bert_like(), TASK, ["ab", "z"])
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[(258 + 97 + 98 + 259) / 4, 1.5, 1], [np.float32((258 + 122 + 259) / 3), 1, 1]]


def test_cls_and_normalize() -> None:
    [vector] = embed(Encoder(), bert_like(), {**TASK, "pooling": "cls"}, ["ab"])
    assert vector.tolist() == [258, 0, 1]
    [vector] = embed(Encoder(), bert_like(), {**TASK, "normalize": True}, ["ab"])
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("length", "limit", "kept"), [("sequence", 8, 6), ("sequence", 5, 5), (4, 8, 4)])
def test_long_texts_lose_their_end_but_not_the_special_tokens(length: int | str, limit: int, kept: int) -> None:
    encoder = Encoder(length)
    embed(encoder, bert_like(), {**TASK, "max_length": limit}, ["abcdefghij"])
    ids = encoder.seen["input_ids"][0].tolist()
    assert ids == [258, *b"abcdefghij"[: kept - 2], 259]


def test_a_fixed_length_is_filled_up_and_masked() -> None:
    encoder = Encoder(7, ("input_ids", "attention_mask", "token_type_ids"))
    [vector] = embed(encoder, bert_like(), TASK, ["ab"], pad_token_id=9)
    assert encoder.seen["input_ids"].tolist() == [[258, 97, 98, 259, 9, 9, 9]]
    assert encoder.seen["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0, 0]]
    assert encoder.seen["token_type_ids"].tolist() == [[0] * 7]
    assert vector.tolist() == [(258 + 97 + 98 + 259) / 4, 1.5, 1]


def test_special_tokens_in_a_text_are_text() -> None:
    encoder = Encoder(20)
    embed(encoder, bert_like(), {**TASK, "max_length": 20}, ["<|im_end|>"])
    assert encoder.seen["input_ids"][0].tolist().count(259) == 1


def test_a_graph_that_pools_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder()
    monkeypatch.setattr(encoder, "run", lambda inputs: {"sentence": np.array([[3, 4]], np.float32)})
    assert embed(encoder, bert_like(), {**TASK, "normalize": True}, ["a"]).tolist() == [
        [np.float32(0.6), np.float32(0.8)]
    ]


def test_no_texts() -> None:
    assert embed(Encoder(), bert_like(), TASK, []).shape == (0, 0)


def test_graphs_that_are_no_encoders() -> None:
    with pytest.raises(UnsupportedError, match="input_ids"):
        embed(Encoder(names=("x",)), bert_like(), TASK, ["a"])
    with pytest.raises(UnsupportedError, match="`pixels`"):
        embed(Encoder(names=("input_ids", "pixels")), bert_like(), TASK, ["a"])
