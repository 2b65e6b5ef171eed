"""`edgec compile` and `edgec run` with models of texts and pictures, and with text readers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Edgec
from tests.conformance.test_ocr import page
from tests.frontend.test_towers import save
from tests.ocr_models import save_reader
from tests.run.fake_module import make_tokenizer


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a two-tower graph, its tokenizer and the settings of its pictures."""
    folder = tmp_path_factory.mktemp("models") / "pair"
    folder.mkdir()
    save(folder, vocabulary=300)
    (folder / "tokenizer.json").write_bytes(make_tokenizer())
    config = {"model_type": "clip", "text_config": {"vocab_size": 300, "max_position_embeddings": 12}}
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["CLIPModel"]}))
    (folder / "preprocessor_config.json").write_text('{"size": {"height": 4, "width": 4}, "resample": 2}')
    return folder


@pytest.fixture
def photos(working_folder: Path) -> Path:
    folder = working_folder / "photos"
    folder.mkdir()
    for name, color in (("red.png", (255, 0, 0)), ("green.png", (0, 255, 0)), ("blue.png", (0, 0, 255))):
        Image.new("RGB", (9, 7), color).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8")
    return folder


def test_texts_and_pictures(
    edgec: Edgec, pair: Path, photos: Path, working_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(working_folder / "cache"))
    one = ("--max-dim", "texts=1", "--max-dim", "images=1")
    assert edgec("compile", pair, "--profile", "laptop-8gb", *one, "--output", "pair.edgec").code == 0
    search = ("run", "pair.edgec", "--threads", "1", "--search", "photos")

    first = json.loads(edgec(*search, "a cat", "dog", "--json", "--top", "2").stdout)
    assert (first["pictures"], first["embedded"]) == (3, 3)
    assert list(first["skipped"]) == ["photos/broken.jpg"]
    assert {text: len(found) for text, found in first["matches"].items()} == {"a cat": 2, "dog": 2}
    again = json.loads(edgec(*search, "a cat", "--json", "--top", "2").stdout)
    assert again["embedded"] == 0 and again["matches"]["a cat"] == first["matches"]["a cat"]
    assert len(list((working_folder / "cache" / "edgec").iterdir())) == 1

    shown = edgec(*search, "a cat", "--no-cache")
    best = first["matches"]["a cat"][0]
    assert shown.code == 0 and shown.stdout.splitlines()[0].split() == [f"{best['score']:.3f}", best["path"]]
    assert "skipped: the picture `photos/broken.jpg` cannot be read" in shown.stderr

    chosen = edgec("run", "pair.edgec", "--image", "photos/red.png", "a cat", "dog", "--json")
    labels = json.loads(chosen.stdout)["photos/red.png"]
    assert sorted(entry["label"] for entry in labels) == ["a cat", "dog"]
    compared = json.loads(edgec("run", "pair.edgec", "a cat", "dog", "--json").stdout)
    assert len(compared["embeddings"]) == 2

    timed = json.loads(edgec("bench", "pair.edgec", "--engine", "wasmtime", "--graph", "image", "--json").stdout)
    assert timed["results"][0]["run_seconds"] > 0
    for arguments in ((), ("--graph", "sound")):
        refused = edgec("bench", "pair.edgec", "--engine", "wasmtime", *arguments)
        assert refused.code == 2 and "`image`, `text`" in refused.stderr

    for arguments, problem in (
        (("--search", "photos"), "there is no text to search for"),
        (("--search", "nowhere", "a cat"), "`nowhere` is not a folder"),
        (("--image", "photos/red.png"), "there is no text to compare with"),
        ((), "has several graphs"),
    ):
        refused = edgec("run", "pair.edgec", *arguments)
        assert refused.code == 2 and problem in refused.stderr, refused.stderr


def test_text_in_pictures(edgec: Edgec, working_folder: Path) -> None:
    (working_folder / "reader").mkdir()
    save_reader(working_folder / "reader")
    Image.fromarray(page()).save("page.png")
    assert "--task ocr" in edgec("compile", "reader", "--profile", "laptop-8gb").stderr
    small = ("--max-dim", "det_rows=8", "--max-dim", "det_columns=8", "--max-dim", "rec_columns=60")
    assert edgec("compile", "reader", "--task", "ocr", "--profile", "laptop-8gb", *small, "-o", "r.edgec").code == 0
    lines = json.loads(edgec("run", "r.edgec", "--image", "page.png", "--json").stdout)["page.png"]
    assert all(line["score"] >= 0.5 and len(line["corners"]) == 4 for line in lines)
