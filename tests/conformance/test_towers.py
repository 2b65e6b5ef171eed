"""CLIP and SigLIP from a folder to similarities: what transformers computes, the same numbers on every engine."""

from __future__ import annotations

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
from edgec.pictures import fit, read_image, to_tensor
from tests.conformance.runtimes import Runtime, image_job, in_javascript
from tests.towers import LENGTH, save_clip, save_siglip

TEXTS = ["a cat", "A dog on the beach.", "a cat " * 20, "dog", ""]
PADDING = {"clip": True, "siglip": "max_length"}
SAVE: dict[str, Callable[[Path], Any]] = {"clip": save_clip, "siglip": save_siglip}
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Pair:
    family: str
    reference: Any
    folder: Path
    bundle: Path  # float32
    quantized: Path


@pytest.fixture(scope="module", params=["clip", "siglip"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp(request.param)
    source = folder / request.param
    source.mkdir()
    reference = SAVE[request.param](source)
    exact = edgec.compile(source, "laptop-8gb", folder / "float.edgec", edgec.CompileOptions(precision="float32"))
    small = edgec.compile(source, "laptop-8gb", folder / "small.edgec")
    return Pair(request.param, reference, source, exact.path, small.path)


def pictures() -> list[npt.NDArray[np.uint8]]:
    """Smooth noise: wide, high and of the right size."""
    random = np.random.default_rng(0)
    coarse = [Image.fromarray(random.integers(0, 256, (6, 7, 3), dtype=np.uint8)) for _ in range(3)]
    sizes = [(70, 41), (33, 90), (32, 32)]
    return [np.asarray(image.resize(size)) for image, size in zip(coarse, sizes, strict=True)]


def expected(pair: Pair) -> Any:
    tokenizer = transformers.AutoTokenizer.from_pretrained(pair.folder)
    encoded = tokenizer(TEXTS, padding=PADDING[pair.family], truncation=True, max_length=LENGTH, return_tensors="pt")
    if pair.family == "siglip":
        del encoded["attention_mask"]
    encoded.pop("token_type_ids", None)
    with edgec.load(pair.bundle, threads=1) as model:
        spec = (model.manifest.task or {})["image"]
    pixels = [to_tensor(fit(read_image(picture), spec)[0], spec, raw=False) for picture in pictures()]
    with torch.no_grad():
        return pair.reference(pixel_values=torch.from_numpy(np.concatenate(pixels)), **encoded)


def test_as_transformers_computes_them(pair: Pair) -> None:
    wanted = expected(pair)
    with edgec.load(pair.bundle) as model:
        assert sorted(model.manifest.graphs) == ["image", "text"]
        np.testing.assert_allclose(model.embed_text(TEXTS), wanted.text_embeds.numpy(), atol=1e-5)
        np.testing.assert_allclose(model.embed_image(pictures()), wanted.image_embeds.numpy(), atol=1e-5)
        logits = model.similarity(TEXTS, pictures())
        np.testing.assert_allclose(logits, wanted.logits_per_text.numpy(), atol=2e-4)
        [row] = wanted.logits_per_image.numpy()[:1].astype(np.float64)
        scores = 1 / (1 + np.exp(-row)) if pair.family == "siglip" else np.exp(row) / np.exp(row).sum()
        found = model.classify(pictures()[0], labels=TEXTS, top_k=len(TEXTS))
        assert [entry.index for entry in found] == np.argsort(-scores, kind="stable").tolist()
        np.testing.assert_allclose([entry.score for entry in found], np.sort(scores)[::-1], atol=1e-4)


def test_quantized_vectors_point_the_same_way(pair: Pair) -> None:
    wanted = expected(pair)
    with edgec.load(pair.quantized) as model:
        assert any(tensor["bits"] < 32 for tensor in model.manifest.accuracy["tensors"].values())
        cosines = (model.embed_text(TEXTS) * wanted.text_embeds.numpy()).sum(axis=1)
        assert cosines.min() > 0.99, cosines
        cosines = (model.embed_image(pictures()) * wanted.image_embeds.numpy()).sum(axis=1)
        assert cosines.min() > 0.99, cosines


@pytest.mark.node
@pytest.mark.parametrize(
    "runtime",
    [
        Runtime("node", "simd128", 1),
        Runtime("node", "simd128-threads", 2),
        pytest.param(Runtime("chromium", "relaxed-threads", 2), marks=pytest.mark.browser),
        pytest.param(Runtime("firefox", "relaxed", 1), marks=pytest.mark.browser),
    ],
    ids=str,
)
def test_the_same_numbers_in_javascript(pair: Pair, runtime: Runtime) -> None:
    jobs = [
        {"similarity": {"texts": TEXTS, "images": [image_job(picture) for picture in pictures()]}},
        {"classify": image_job(pictures()[1]), "labels": TEXTS},
    ]
    vectors, choice = in_javascript(runtime, pair.quantized, jobs)
    with edgec.load(pair.quantized, threads=1) as model:
        for name, ours in (
            ("texts", model.embed_text(TEXTS)),
            ("images", model.embed_image(pictures())),
            ("logits", model.similarity(TEXTS, pictures())),
        ):
            np.testing.assert_array_equal(np.array(vectors[name], np.float32), ours)
        assert choice["labels"] == [entry.to_json() for entry in model.classify(pictures()[1], labels=TEXTS)]
