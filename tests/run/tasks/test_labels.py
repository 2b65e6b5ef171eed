"""Texts, tokens and pixels to labels, with graphs that are written down here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer as Library
from tokenizers import processors

from edgec.bundle.manifest import Slot
from edgec.errors import RunError, UnsupportedError, UsageError
from edgec.pictures import Placement
from edgec.run.tasks.places import places_of
from edgec.run.tasks.segmentation import Segmentation, best_classes, segment
from edgec.run.tasks.text_classification import TextClassifier
from edgec.run.tasks.token_classification import entities
from edgec.run.tokenizer import Tokenizer
from tests.browser import fixtures
from tests.run.fake_module import make_tokenizer

START, END = 258, 259
LABELS = ["O", "B-PER", "I-PER", "LOC"]
Outputs = dict[str, npt.NDArray[Any]]


def bytes_with_ends() -> Tokenizer:
    """A token per byte; pairs as BERT has them."""
    tokenizer = Library.from_buffer(make_tokenizer())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A <|im_end|>",
        pair="<|im_start|> $A <|im_end|> $B:1 <|im_end|>:1",
        special_tokens=[("<|im_start|>", START), ("<|im_end|>", END)],
    )
    return Tokenizer(tokenizer.to_str().encode())


class Graph:
    def __init__(self, answer: Callable[[list[int]], Outputs], length: int | str = "sequence") -> None:
        names = ("input_ids", "attention_mask", "token_type_ids")
        self.inputs = [Slot(name, "int64", (1, length), 0, 0) for name in names]
        self.dims = {"sequence": 12}
        self.answer, self.seen = answer, list[dict[str, list[int]]]()

    def run(self, inputs: Mapping[str, npt.ArrayLike]) -> Outputs:
        self.seen.append({name: np.asarray(value)[0].tolist() for name, value in inputs.items()})
        return self.answer(self.seen[-1].get("input_ids", []))


def classifier(scores: str, logits: list[float], length: int | str = "sequence") -> tuple[TextClassifier, Graph]:
    graph = Graph(lambda ids: {"logits": np.array([logits], np.float32)}, length)
    task = {"type": "text-classification", "labels": ["no", "yes"], "scores": scores, "max_length": 10}
    return TextClassifier(graph, bytes_with_ends(), task, 0), graph


class TestTexts:
    def test_scores(self) -> None:
        assert [(e.label, e.score) for e in classifier("logits", [-1.5, 2])[0].classify("a", 2)] == [
            ("yes", 2),
            ("no", -1.5),
        ]
        [best] = classifier("softmax", [0, np.log(3)])[0].classify("a", 1)
        assert (best.label, best.score) == ("yes", pytest.approx(0.75))
        assert [e.score for e in classifier("sigmoid", [0, 1])[0].classify("a", 2)] == pytest.approx([0.731059, 0.5])

    def test_a_pair_has_types(self) -> None:
        model, graph = classifier("softmax", [0, 0], 10)
        model.classify(("ab", "c"), 2)
        assert graph.seen == [
            {
                "input_ids": [START, 97, 98, END, 99, END, 0, 0, 0, 0],
                "attention_mask": [1] * 6 + [0] * 4,
                "token_type_ids": [0, 0, 0, 0, 1, 1, 0, 0, 0, 0],
            }
        ]

    @pytest.mark.parametrize(
        ("first", "second", "kept"), [(9, 9, (3, 4)), (9, 2, (5, 2)), (1, 9, (1, 6)), (8, 9, (3, 4))]
    )
    def test_the_longer_text_is_cut(self, first: int, second: int, kept: tuple[int, int]) -> None:
        model, graph = classifier("softmax", [0, 0])
        model.classify(["a" * first, "b" * second], 2)
        ids = graph.seen[0]["input_ids"]
        assert (ids.count(97), ids.count(98), len(ids)) == (*kept, 10)

    def test_ranking(self) -> None:
        graph = Graph(lambda ids: {"score": np.array([[ids.count(120) - 2.0]], np.float32)})
        task = {"type": "text-classification", "labels": None, "scores": "sigmoid", "max_length": 12}
        ranked = TextClassifier(graph, bytes_with_ends(), task, 0).rerank("q", ["a", "xx", "x", "b"])
        assert [(entry.index, entry.text) for entry in ranked] == [(1, "xx"), (2, "x"), (0, "a"), (3, "b")]
        assert ranked[0].score == 0.5

    def test_what_is_no_text(self) -> None:
        for wrong in (3, ["a"], ("a", "b", "c"), ("a", None)):
            with pytest.raises(UsageError, match="a text, or two as a pair"):
                classifier("softmax", [0, 0])[0].classify(wrong, 1)
        with pytest.raises(UnsupportedError, match="2 classes to a query"):
            classifier("softmax", [0, 0])[0].rerank("a", ["b"])
        with pytest.raises(UnsupportedError, match="holds 3 tokens"):
            classifier("softmax", [0, 0], 3)[0].classify(("a", "b"), 1)


def find(text: str, kinds: dict[str, int], max_length: int = 12) -> list[tuple[str, str, int, int]]:
    """Each byte has the label that its character has in `kinds`, and 0 otherwise."""
    numbers = {ord(char): label for char, label in kinds.items()}

    def answer(ids: list[int]) -> Outputs:
        return {"logits": np.eye(len(LABELS), dtype=np.float32)[[[numbers.get(id, 0) for id in ids]]] * 9}

    task = {"type": "token-classification", "labels": LABELS, "max_length": max_length}
    found = entities(Graph(answer), bytes_with_ends(), task, text, pad_token_id=0)
    assert all(0.99 < entity.score < 1 for entity in found)
    return [(entity.label, entity.text, entity.start, entity.end) for entity in found]


class TestTokens:
    def test_groups(self) -> None:
        assert find("xBiiLLo", {"B": 1, "i": 2, "L": 3}) == [("PER", "Bii", 1, 4), ("LOC", "LL", 4, 6)]
        assert find("BiBiix", {"B": 1, "i": 2}) == [("PER", "Bi", 0, 2), ("PER", "Bii", 2, 5)]
        assert find("ii xL", {"i": 2, "L": 3}) == [("PER", "ii", 0, 2), ("LOC", "L", 4, 5)]

    def test_windows_of_a_long_text(self) -> None:
        text = "x" * 8 + "LLLL" + "x" * 20 + "L"
        assert find(text, {"L": 3}) == [("LOC", "LLLL", 8, 12), ("LOC", "L", 32, 33)]
        assert find("", {}) == []

    def test_no_room(self) -> None:
        with pytest.raises(UnsupportedError, match="no room for a text"):
            find("ab", {}, max_length=2)


@pytest.mark.parametrize("make", [fixtures.byte_level, fixtures.metaspace, fixtures.word_piece])
def test_places_are_those_of_tokenizers(make: Callable[[], Library]) -> None:
    """But for blanks, accents that stand alone and words that are unknown."""
    library = make()
    tokenizer = Tokenizer(library.to_str().encode())
    for text in [*fixtures.CORPUS[:4], "Ada Lovelace (London), isn't it? 12.5%"]:
        encoded = library.encode(text, add_special_tokens=False)
        places = places_of(text, [tokenizer.surface(id) for id in encoded.ids])
        for (start, end), place in zip(encoded.offsets, places, strict=True):
            if place.start < place.end:
                assert text[start:end].strip() == text[place.start : place.end], text


def test_unknown_words_share_what_is_between() -> None:
    tokenizer = Tokenizer(fixtures.word_piece().to_str().encode())
    ids = tokenizer.encode_plain("the 龍 ⴰⴱⴳ dog")
    places = places_of("the 龍 ⴰⴱⴳ dog", [tokenizer.surface(id) for id in ids])
    assert [(place.start, place.end) for place in places] == [(0, 3), (4, 5), (6, 9), (10, 13)]


class TestPixels:
    IMAGE: ClassVar[Any] = {
        "width": 4, "height": 2, "layout": "NCHW", "channels": "RGB", "fit": "stretch", "interpolation": "bilinear",
        "mean": [0, 0, 0], "std": [1, 1, 1],
    }  # fmt: skip

    def graph(self, logits: npt.NDArray[np.float32]) -> Any:
        graph = Graph(lambda ids: {"flat": np.zeros((1, 2), np.float32), "logits": logits})
        graph.inputs = [Slot("pixels", "float32", (1, 3, 2, 4), 0, 0)]
        return graph

    def segment(self, logits: npt.NDArray[np.float32], **image: Any) -> Segmentation:
        task = {"type": "semantic-segmentation", "image": {**self.IMAGE, **image}, "labels": ["road", "sky"]}
        return segment(self.graph(logits), task, np.zeros((4, 8, 3), np.uint8))

    def test_the_larger_logit_between_four(self) -> None:
        logits = np.zeros((1, 2, 1, 2), np.float32)
        logits[0, 1, 0] = [-1, 2]
        found = self.segment(logits)
        assert found.classes.shape == (4, 8) and found.classes.dtype == np.uint16
        assert found.classes.tolist() == [[0, 0, 0, 1, 1, 1, 1, 1]] * 4  # -1, -1, -0.625, 0.125, ...
        assert [(s.label, s.pixels, s.share) for s in found.segments] == [("sky", 20, 0.625), ("road", 12, 0.375)]

    def test_the_lowest_class_on_ties(self) -> None:
        assert [s.index for s in self.segment(np.ones((1, 3, 2, 2), np.float32)).segments] == [0]

    def test_channels_last(self) -> None:
        logits = np.zeros((1, 1, 2, 5), np.float32)
        logits[..., 4] = 1
        [only] = self.segment(logits, layout="NHWC").segments
        assert (only.index, only.label, only.pixels) == (4, "4", 32)

    def test_letterbox(self) -> None:
        """A high picture lies at the left of the input, the rest of the map is not looked at."""
        logits = np.zeros((2, 4, 8), np.float32)
        logits[1, :, 5:] = 9  # the fourth column has the edge between the two in it
        placement = Placement(0.5, 0.5, 0, 0, 8, 8)  # 8 x 8 at the left half of 8 x 4
        assert not best_classes(logits, placement, 8, 4).any()

    def test_what_is_no_map(self) -> None:
        with pytest.raises(UnsupportedError, match="4 dimensions"):
            self.segment(np.zeros((1, 2, 3), np.float32))
        with pytest.raises(RunError, match=r"shape \[1, 1, 2, 2\]"):
            self.segment(np.zeros((1, 1, 2, 2), np.float32))
