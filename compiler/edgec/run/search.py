"""Pictures, and frames of videos, that fit a text, by a model of texts and images.

Vectors are kept in a file, by the SHA-256 of what they were made of: a picture is embedded once, whatever its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgec.errors import MissingDependencyError, UsageError
from edgec.pictures import frames_of
from edgec.run import videos
from edgec.run.tasks import similarity

if TYPE_CHECKING:
    from edgec.run.model import Model

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
FRAMES = 8  # of an animation
LEAST_STEP = 0.01  # seconds between frames of a video
Progress = Callable[[int, int], None]
_Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Match:
    """A picture, a frame of an animation (its number), or one of a video (its time)."""

    path: Path
    frame: int | None
    score: float  # the model's logit, larger fits better
    seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        where = {"frame": self.frame} if self.seconds is None else {"seconds": self.seconds}
        return {"path": str(self.path), **where, "score": self.score}


@dataclass(frozen=True)
class Index:
    """Vectors of pictures; `skipped` says which files are none, and why."""

    task: Mapping[str, Any]
    places: tuple[tuple[Path, int | None], ...]  # None: a still picture; of videos milliseconds
    vectors: _Vector  # [places, width]
    skipped: Mapping[Path, str] = field(default_factory=dict)
    embedded: int = 0  # how many vectors were not in the cache

    def search(self, text: _Vector, *, top_k: int = 10, each_frame: bool = False) -> list[Match]:
        """The best matches for a text's vector `[1, width]`, best first; of a file the best frame, or `each_frame`."""
        scores = similarity.compare(self.task, text, self.vectors)[0] if self.places else np.zeros(0, np.float32)
        found: dict[Any, Match] = {}
        for index in np.argsort(-scores, kind="stable"):
            path, frame = self.places[index]
            match = Match(path, frame, float(scores[index]))
            if frame is not None and _is_video(path):
                match = Match(path, None, match.score, frame / 1000)
            found.setdefault((path, frame) if each_frame else path, match)
        return list(found.values())[:top_k]


def index_folder(
    model: Model,
    folder: Path | str,
    *,
    every: float = 1.0,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Index:
    """Embed every picture below `folder`, in the order of their paths, but for those that the file `cache` knows.

    Of videos it is a frame every so many seconds. `folder` may be one picture or video, too. `progress(done, total)`
    counts files. What was embedded is in the cache even if this is interrupted. Raises `UsageError` when there is no
    folder, or not one picture in it, and `MissingDependencyError` when videos are all there is and PyAV is missing.
    """
    root, task = Path(folder), model.similarity_task()
    if not every >= LEAST_STEP:
        raise UsageError(f"frames of a video cannot be {every:g} seconds apart", hint=f"at least {LEAST_STEP} seconds")
    if not root.exists():
        raise UsageError(
            f"`{root}` is not a folder or a file", hint="name a folder with pictures and videos, or one of them"
        )
    known = SUFFIXES | videos.SUFFIXES
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in known and path.is_file())
    if root.is_file():
        files = [root]
    if not files:
        raise UsageError(f"there are no pictures in `{root}`", hint=f"looked for {', '.join(sorted(known))}")
    store = _Store(cache, model)
    places: list[tuple[Path, int | None]] = []
    vectors: list[_Vector] = []
    failures: dict[Path, UsageError | MissingDependencyError] = {}
    try:
        for done, path in enumerate(files):
            if progress is not None:
                progress(done, len(files))
            try:
                for frame, vector in _vectors(model, path, store, every):
                    places.append((path, frame))
                    vectors.append(vector)
            except (UsageError, MissingDependencyError) as error:
                failures[path] = error
    finally:
        store.save()
    if progress is not None:
        progress(len(files), len(files))
    if not places:
        first = next(iter(failures.values()), None)
        if first is None:
            raise UsageError(f"the video `{root}` has no frame")
        if root.is_file() or isinstance(first, MissingDependencyError):
            raise first
        raise UsageError(f"no picture in `{root}` can be read: {first.message}")
    skipped = {path: _why(path, error) for path, error in failures.items()}
    return Index(task, tuple(places), np.stack(vectors), skipped, store.added)


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in videos.SUFFIXES


def _why(path: Path, error: UsageError | MissingDependencyError) -> str:
    return error.message if isinstance(error, UsageError) else f"`{path}`: {error.message}"


def _vectors(model: Model, path: Path, store: _Store, every: float) -> Iterator[tuple[int | None, _Vector]]:
    if _is_video(path):
        yield from _video_vectors(model, path, store, every)
        return
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"the picture `{path}` cannot be read ({error.strerror})") from error
    digest = hashlib.sha256(content).hexdigest()
    known = store.frames(digest)
    if known is not None:
        yield from known
        return
    made = [(frame, model.embed_image(image)[0]) for frame, image in frames_of(path, content, FRAMES)]
    store.add(digest, made)
    yield from made


def _video_vectors(model: Model, path: Path, store: _Store, every: float) -> Iterator[tuple[int | None, _Vector]]:
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"the video `{path}` cannot be read ({error.strerror})") from error
    key = f"{digest}@{every:g}"
    known = store.frames(key)
    if known is None:
        known = [(time, model.embed_image(image)[0]) for time, image in videos.frames_of_video(path, every)]
        store.add(key, known)
    yield from known


class _Store:
    """`<sha256>` or `<sha256>#<frame>` -> vector, in one `.npz` per model. A damaged file counts as empty.

    Videos have `<sha256>@<every>#<milliseconds>`.
    """

    def __init__(self, file: Path | None, model: Model) -> None:
        self._file = file
        self._identity = _identity(model)
        self._frames: dict[str, list[tuple[int | None, _Vector]]] = {}
        self.added = 0
        if file is not None:
            with _writing(file):  # before the work, not after it
                file.parent.mkdir(parents=True, exist_ok=True)
            if file.is_file():
                self._load(file)

    def _load(self, file: Path) -> None:
        try:
            with np.load(file, allow_pickle=False) as stored:
                identity, keys, vectors = str(stored["model"]), stored["keys"].tolist(), stored["vectors"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return
        if identity != self._identity or vectors.dtype != np.float32 or vectors.shape[:1] != (len(keys),):
            return
        for key, vector in zip(keys, vectors, strict=True):
            digest, _, frame = str(key).partition("#")
            self._frames.setdefault(digest, []).append((int(frame) if frame else None, vector))

    def frames(self, digest: str) -> list[tuple[int | None, _Vector]] | None:
        return self._frames.get(digest)

    def add(self, digest: str, frames: list[tuple[int | None, _Vector]]) -> None:
        self._frames[digest] = frames
        self.added += len(frames)

    def save(self) -> None:
        if self._file is None or not self.added:
            return
        entries = [
            (digest if frame is None else f"{digest}#{frame}", vector)
            for digest, frames in self._frames.items()
            for frame, vector in frames
        ]
        temporary = self._file.with_name(f".{self._file.name}.{os.getpid()}.tmp.npz")
        try:
            with _writing(self._file):
                np.savez(
                    temporary,
                    model=np.array(self._identity),
                    keys=np.array([key for key, _ in entries]),
                    vectors=np.stack([vector for _, vector in entries]),
                )
                temporary.replace(self._file)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "choose another file for them, or none"
        raise UsageError(f"vectors cannot be kept in `{file}` ({error.strerror})", hint=hint) from error


def _identity(model: Model) -> str:
    """What the vectors depend on: weights, module and how pictures become its input."""
    manifest = model.manifest
    made_by = {name: info.sha256 for name, info in manifest.files.items() if name.endswith((".wasm", ".bin"))}
    return hashlib.sha256(json.dumps([made_by, manifest.task], sort_keys=True).encode()).hexdigest()


def default_cache(model: Model) -> Path:
    """A file in the user's cache folder, one per model."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "edgec" / f"images-{_identity(model)[:16]}.npz"


__all__ = ["Index", "Match", "default_cache", "index_folder"]
