"""Texts and pictures to labels: what transformers' pipelines give, the same on every engine."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers
from PIL import Image

import edgec
from edgec.cli import invoke
from edgec.errors import UnsupportedError, UsageError
from tests.conformance.runtimes import Runtime, image_job, in_javascript
from tests.text_models import save_ner, save_nli, save_reranker, save_segformer

pytestmark = pytest.mark.slow
TEXTS = ["What do cats eat?", "Ada Lovelace was born in London.", "", "東京 😀 naïve [SEP] x" * 9, "café"]
PAIRS = [
    ("Cats eat mice.", "What do cats eat?"),
    ("London " * 20, "Ada"),
    ("in", "Hamburg, " * 30),
    ("mice " * 30,) * 2,
]
DOCUMENTS = ["Cats eat mice.", "Cars burn petrol.", "Ada Lovelace was born in London. " * 5, ""]
NAMES = [*TEXTS, "Angela Merkel, Ada\u00a0Lovelace and e\u0301 in  Hamburg. " * 4, "  \ud800 x"]
SAVE: dict[str, Callable[[Path], Any]] = {
    "nli": save_nli, "reranker": save_reranker, "ner": save_ner, "segformer": save_segformer,
}  # fmt: skip
JAVASCRIPT = [  # what is compiled in float32 has no relaxed modules
    Runtime("node", "simd128-threads", 2),
    pytest.param(Runtime("chromium", "simd128-threads", 2), marks=pytest.mark.browser),
    pytest.param(Runtime("firefox", "simd128", 1), marks=pytest.mark.browser),
]


@dataclass(frozen=True)
class Made:
    reference: Any
    folder: Path
    bundle: Path  # float32

    def pipeline(self, task: str, **options: Any) -> Any:
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder)
        return transformers.pipeline(task, model=self.reference, tokenizer=tokenizer, device="cpu", **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    known: dict[str, Made] = {}

    def make(name: str) -> Made:
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            source = folder / name
            source.mkdir()
            torch.manual_seed(0)
            reference = SAVE[name](source)
            options = edgec.CompileOptions(precision="float32")
            known[name] = Made(
                reference, source, edgec.compile(source, "laptop-8gb", folder / "out.edgec", options).path
            )
        return known[name]

    return make


def picture() -> npt.NDArray[np.uint8]:
    coarse = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((70, 41)))


def _flat(result: Any) -> Any:
    """A pipeline wraps what it says of a text, but not of a pair."""
    return result[0] if isinstance(result[0], list) else result


def test_classes_of_texts_and_pairs(made: Callable[[str], Made]) -> None:
    nli = made("nli")
    pipeline = nli.pipeline("text-classification", top_k=None)
    with edgec.load(nli.bundle) as model:
        assert (model.manifest.task or {})["scores"] == "softmax"
        for given in [*(text for text in TEXTS if "[SEP]" not in text), *PAIRS]:  # a text holds no control tokens here
            asked = given if isinstance(given, str) else {"text": given[0], "text_pair": given[1]}
            wanted = {entry["label"]: entry["score"] for entry in _flat(pipeline(asked, truncation=True))}
            found = model.classify(given)
            assert [entry.score for entry in found] == sorted((entry.score for entry in found), reverse=True)
            assert {entry.label: entry.score for entry in found} == pytest.approx(wanted, abs=2e-5)
        for wrong in (["a", "b", "c"], 3, ("a", None)):
            with pytest.raises(UsageError, match="a text, or two as a pair"):
                model.classify(wrong)
        with pytest.raises(UnsupportedError, match="3 classes to a query"):
            model.rerank("a", ["b"])


def test_ranking(made: Callable[[str], Made]) -> None:
    reranker = made("reranker")
    pipeline = reranker.pipeline("text-classification", top_k=None)
    query = "What do cats eat?"
    with edgec.load(reranker.bundle) as model:
        ranked = model.rerank(query, DOCUMENTS)
        pairs = [{"text": query, "text_pair": text} for text in DOCUMENTS]
        wanted = [_flat(pipeline(pair, truncation=True))[0]["score"] for pair in pairs]
        assert sorted(entry.index for entry in ranked) == list(range(len(DOCUMENTS)))
        assert [entry.score for entry in ranked] == sorted((entry.score for entry in ranked), reverse=True)
        scores = [entry.score for entry in sorted(ranked, key=lambda entry: entry.index)]
        assert scores[:-1] == pytest.approx(wanted[:-1], abs=2e-5)  # transformers drops an empty text of a pair
        assert [entry.text for entry in ranked] == [DOCUMENTS[entry.index] for entry in ranked]
        assert model.rerank(query, []) == []


def test_names(made: Callable[[str], Made]) -> None:
    ner = made("ner")
    pipeline = ner.pipeline("token-classification", aggregation_strategy="simple")
    seen = 0
    with edgec.load(ner.bundle) as model:
        for text in NAMES[:5]:
            found = model.tokens(text)
            assert all(entity.text == text[entity.start : entity.end] for entity in found)
            if len(text) < 40:  # transformers cuts where we go on
                wanted = [
                    (e["entity_group"], e["start"], e["end"], pytest.approx(e["score"], abs=2e-5))
                    for e in pipeline(text)
                ]
                assert [(e.label, e.start, e.end, e.score) for e in found] == wanted
                seen += len(wanted)
        assert seen > 3
        long = model.tokens("Ada " * 200)
        assert long and long[-1].end > 700


def test_segments(made: Callable[[str], Made]) -> None:
    segformer = made("segformer")
    processor = transformers.SegformerImageProcessor.from_pretrained(segformer.folder)
    image = picture()
    with torch.no_grad():
        outputs = segformer.reference(**processor(Image.fromarray(image), return_tensors="pt"))
    [wanted] = processor.post_process_semantic_segmentation(outputs, target_sizes=[image.shape[:2]])
    with edgec.load(segformer.bundle) as model:
        found = model.segment(image)
    assert found.classes.shape == image.shape[:2] and found.classes.dtype == np.uint16
    assert (found.classes == wanted.numpy()).mean() > 0.999
    assert sum(entry.pixels for entry in found.segments) == image.shape[0] * image.shape[1]
    assert [entry.pixels for entry in found.segments] == sorted((e.pixels for e in found.segments), reverse=True)
    assert {entry.label for entry in found.segments} <= {"road", "sky", "tree", "car"}
    assert found.overlay(image).size == (70, 41)


@pytest.mark.node
@pytest.mark.parametrize("runtime", JAVASCRIPT, ids=str)
def test_the_same_in_javascript(made: Callable[[str], Made], runtime: Runtime) -> None:
    [got] = in_javascript(runtime, made("nli").bundle, [{"pairs": [*TEXTS, *PAIRS]}])
    with edgec.load(made("nli").bundle, threads=1) as model:
        assert got["classes"] == [[entry.to_json() for entry in model.classify(text)] for text in [*TEXTS, *PAIRS]]
    [got] = in_javascript(runtime, made("reranker").bundle, [{"rerank": {"query": "Cats?", "documents": DOCUMENTS}}])
    with edgec.load(made("reranker").bundle, threads=1) as model:
        assert got["ranked"] == [entry.to_json() for entry in model.rerank("Cats?", DOCUMENTS)]
    [got] = in_javascript(runtime, made("ner").bundle, [{"tokens": NAMES}])
    with edgec.load(made("ner").bundle, threads=1) as model:
        assert got["entities"] == [[_utf16(text, e.to_json()) for e in model.tokens(text)] for text in NAMES]
    [got] = in_javascript(runtime, made("segformer").bundle, [{"segment": image_job(picture())}])
    with edgec.load(made("segformer").bundle, threads=1) as model:
        found = model.segment(picture())
        assert base64.b64decode(got["classes"]) == found.classes.tobytes()
        assert got["segments"] == [entry.to_json() for entry in found.segments]


def _utf16(text: str, entity: dict[str, Any]) -> dict[str, Any]:
    """JavaScript counts the halves of surrogate pairs."""
    places = {end: len(text[: entity[end]].encode("utf-16-le", "surrogatepass")) // 2 for end in ("start", "end")}
    return {**entity, **places}


def test_on_the_command_line(made: Callable[[str], Made], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> str:
        code = invoke(["run", *arguments])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        return printed.out

    assert "%  yes" in run(str(made("nli").bundle), "Cats eat mice.")
    [entry] = json.loads(run(str(made("nli").bundle), "--pair", "Cats eat mice.", "Cats eat.", "--json"))
    assert entry["text"] == ["Cats eat mice.", "Cats eat."] and len(entry["classes"]) == 3
    lines = run(str(made("reranker").bundle), "--query", "What?", "Cats eat mice.", "Cars burn petrol.").splitlines()
    assert sorted(line[10:] for line in lines) == ["Cars burn petrol.", "Cats eat mice."]
    [document] = json.loads(run(str(made("ner").bundle), "Ada in London", "--json"))
    assert document["text"] == "Ada in London"
    path, over = tmp_path / "in.png", tmp_path / "out.png"
    Image.fromarray(picture()).save(path)
    assert "share" in run(str(made("segformer").bundle), "--image", str(path), "-o", str(over))
    assert Image.open(over).size == (70, 41)
    document = json.loads(run(str(made("segformer").bundle), "--image", str(path), "--json"))
    assert document[str(path)]["width"] == 70
