"""Text to pictures: which files are looked at, what is kept, what is said about the rest."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgec.bundle.manifest import GraphInfo, Slot
from edgec.errors import MissingDependencyError, UnsupportedError, UsageError
from edgec.run import Model
from edgec.run.search import FRAMES, default_cache, index_folder
from tests.run.tasks.test_images import SPEC
from tests.videos import write_video

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
TASK = {
    "type": "text-image-similarity", "text": {"max_length": 8}, "image": SPEC, "scale": 10.0, "bias": -1.0,
    "scores": "softmax", "normalize": False,
}  # fmt: skip


@pytest.fixture
def asked(graph: Model, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The fake graph as a model whose vectors are mean colours; a list of the pictures it was asked for."""
    pictures: list[Any] = []

    def embed_image(image: Any) -> np.ndarray:
        pictures.append(image)
        mean = np.asarray(image.convert("RGB"), np.float32).mean(axis=(0, 1)) / 255
        return mean[np.newaxis]

    def embed_text(text: str) -> np.ndarray:
        return np.array([COLORS[text]], np.float32) / 255

    slot = Slot("x", "float32", (1, 3, 4, 8), 0, 0)
    manifest = dataclasses.replace(graph.manifest, task=TASK, inputs=(slot,), graphs={"image": GraphInfo(("x",), ())})
    monkeypatch.setattr(graph, "manifest", manifest)
    monkeypatch.setattr(graph, "embed_image", embed_image)
    monkeypatch.setattr(graph, "embed_text", embed_text)
    return pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photos = tmp_path / "photos"
    (photos / "more").mkdir(parents=True)
    Image.new("RGB", (8, 8), (250, 5, 5)).save(photos / "a.png")
    Image.new("RGB", (8, 8), (10, 240, 10)).save(photos / "more" / "b.JPG")
    (photos / "notes.txt").write_text("no picture")
    frames = [Image.new("RGB", (8, 8), (0, 0, 20 * i)) for i in range(12)]
    frames[0].save(photos / "c.gif", save_all=True, append_images=frames[1:], duration=50)
    return photos


def test_the_best_pictures_and_frames(graph: Model, asked: list[Any], folder: Path) -> None:
    for text, name in (("red", "a.png"), ("green", "b.JPG"), ("blue", "c.gif")):
        best = graph.search(folder, text)
        assert best[0].path.name == name and len(best) == 3
        assert best[0].score == max(match.score for match in best)
        assert best[0].frame == (11 if text == "blue" else None)
    assert len(graph.search(folder, "red", top_k=1)) == 1
    index = index_folder(graph, folder)
    assert [path.name for path, frame in index.places if not frame] == ["a.png", "c.gif", "b.JPG"]
    assert len([frame for _, frame in index.places if frame is not None]) == FRAMES


def test_vectors_are_kept_by_content(graph: Model, asked: list[Any], folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "kept" / "vectors.npz"
    first = index_folder(graph, folder, cache=cache)
    assert len(asked) == first.embedded == 2 + FRAMES
    (folder / "a.png").rename(folder / "z.png")
    Image.new("RGB", (8, 8), (1, 2, 3)).save(folder / "new.png")
    asked.clear()
    second = index_folder(graph, folder, cache=cache)
    assert len(asked) == second.embedded == 1
    places = {
        (path.name, frame): vector.tolist() for (path, frame), vector in zip(second.places, second.vectors, strict=True)
    }
    for (path, frame), vector in zip(first.places, first.vectors, strict=True):
        assert places["z.png" if path.name == "a.png" else path.name, frame] == vector.tolist()
    assert [file.name for file in cache.parent.iterdir()] == [cache.name]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04broken", None])
def test_a_cache_that_is_of_no_use(
    damage: bytes | None, graph: Model, asked: list[Any], folder: Path, tmp_path: Path
) -> None:
    """Damaged, or of another model."""
    cache = tmp_path / "vectors.npz"
    index_folder(graph, folder, cache=cache)
    if damage is None:
        graph.manifest = dataclasses.replace(graph.manifest, task={**TASK, "image": {**SPEC, "mean": [1, 1, 1]}})
    else:
        cache.write_bytes(damage)
    asked.clear()
    assert index_folder(graph, folder, cache=cache).embedded == len(asked) == 2 + FRAMES


def test_what_was_embedded_is_kept_when_it_breaks_off(
    graph: Model, asked: list[Any], folder: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "vectors.npz"

    def interrupt(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_folder(graph, folder, cache=cache, progress=interrupt)
    assert index_folder(graph, folder, cache=cache).embedded == 1 + FRAMES


def test_pictures_that_cannot_be_read_are_named(graph: Model, asked: list[Any], folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"not a picture")
    index = index_folder(graph, folder)
    [(path, reason)] = index.skipped.items()
    assert path.name == "broken.png" and "cannot be read" in reason and len(index.places) == 2 + FRAMES


def test_no_folder_no_pictures_no_place_for_vectors(
    graph: Model, asked: list[Any], folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        graph.search(tmp_path / "nowhere", "red")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="there are no pictures"):
        graph.search(tmp_path / "empty", "red")
    (tmp_path / "empty" / "x.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"no picture in .* can be read"):
        graph.search(tmp_path / "empty", "red")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="vectors cannot be kept"):
        graph.search(folder, "red", cache=tmp_path / "file" / "vectors.npz")


def test_other_models(graph: Model, folder: Path) -> None:
    with pytest.raises(UnsupportedError, match="was not compiled for the task `text-image-similarity`"):
        graph.search(folder, "red")


def test_the_default_cache_is_the_user_s(graph: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(os.environ, "XDG_CACHE_HOME", str(tmp_path))
    assert default_cache(graph).parent == tmp_path / "edgec"


@pytest.fixture(params=["libvpx .webm", "mpeg4 .mp4"])
def film(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Red for two seconds, then green, then blue."""
    codec, suffix = request.param.split()
    path = tmp_path / f"film{suffix}"
    write_video(path, list(COLORS), seconds=2, codec=codec)
    return path


def test_the_best_moments_of_a_video(graph: Model, asked: list[Any], film: Path) -> None:
    for number, text in enumerate(COLORS):
        best = graph.search(film, text, top_k=2)
        assert sorted(match.seconds or 0 for match in best) == [2.0 * number, 2.0 * number + 1]
        assert best[0].frame is None and best[0].to_json() == {
            "path": str(film), "seconds": best[0].seconds, "score": best[0].score,
        }  # fmt: skip
    assert [frame for _, frame in index_folder(graph, film, every=0.5).places] == list(range(0, 6000, 500))
    assert [frame for _, frame in index_folder(graph, film, every=2.5).places] == [0, 2500, 5000]
    assert [frame for _, frame in index_folder(graph, film, every=60).places] == [0]
    with pytest.raises(UsageError, match="0 seconds apart"):
        index_folder(graph, film, every=0)


def test_videos_beside_pictures(graph: Model, asked: list[Any], film: Path, folder: Path, tmp_path: Path) -> None:
    film.rename(folder / film.name)
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "none.mkv").write_bytes(b"")
    cache = tmp_path / "vectors.npz"
    index = index_folder(graph, folder, cache=cache)
    assert sorted(path.name for path in index.skipped) == ["broken.mp4", "none.mkv"]
    assert all("cannot be read" in reason for reason in index.skipped.values())
    found = index.search(graph.embed_text("blue"))
    assert found[0].path.name == film.name and found[0].seconds in (4.0, 5.0)
    assert len({match.path for match in found}) == len(found) == 4
    asked.clear()
    assert index_folder(graph, folder, cache=cache).embedded == len(asked) == 0
    assert index_folder(graph, folder, cache=cache, every=3).embedded == 2


def test_without_pyav(
    graph: Model, asked: list[Any], film: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependencyError, match="videos need PyAV") as caught:
        index_folder(graph, film)
    assert "edgec[video]" in str(caught.value.hint)
    film.rename(folder / film.name)
    assert "videos need PyAV" in index_folder(graph, folder).skipped[folder / film.name]
