"""Reading a model folder's small files, and the hash that names a source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from edgec.errors import CorruptFileError, ModelError, UnsafePathError

_MAX_JSON = 256 << 20


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `ModelError` when the file is missing, `CorruptFileError` when it is damaged."""
    if not path.is_file():
        raise ModelError(f"`{path.name}` is missing in `{path.parent}`", hint="download the model again")
    if path.stat().st_size > _MAX_JSON:
        raise CorruptFileError(f"`{path.name}` has {path.stat().st_size} bytes, too many for a configuration")
    try:
        value = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"`{path.name}` is not valid JSON: {error}", hint="download the file again") from error
    if not isinstance(value, dict):
        raise CorruptFileError(f"`{path.name}` is not a JSON object", hint="download the file again")
    return value


def inside(folder: Path, relative: str, *, named_by: str) -> Path:
    """`relative` as a path in `folder`.

    Raises `UnsafePathError` for absolute paths, paths with `..` and symbolic links that lead out,
    except into the blobs of the hub cache that the folder is a snapshot of.
    """
    path = Path(relative)
    safe = bool(relative) and not path.is_absolute() and ".." not in path.parts and not set("\\\0") & set(relative)
    if safe:
        target = (folder / path).resolve()
        safe = any(target.is_relative_to(root) for root in _roots(folder))
    if not safe:
        raise UnsafePathError(
            f"`{named_by}` names the file `{relative}`, which is not inside the model's folder",
            hint="a model must come with all its files in one folder; do not trust this one",
        )
    return folder / path


def _roots(folder: Path) -> list[Path]:
    """Where files of a model may really be: `cache/snapshots/<revision>` links to `cache/blobs`."""
    absolute = folder.absolute()
    snapshots = [parent for parent in absolute.parents if parent.name == "snapshots"]
    return [folder.resolve(), *((parent.parent / "blobs").resolve() for parent in snapshots[:1])]


_hashing = ContextVar("_hashing", default=True)


@contextmanager
def without_hashes() -> Iterator[None]:
    """Inside, `source_sha256` reads nothing and gives zeros: for those who only look at a model."""
    token = _hashing.set(False)
    try:
        yield
    finally:
        _hashing.reset(token)


def hashing() -> bool:
    """Whether a model is loaded to be compiled, not only looked at."""
    return _hashing.get()


def source_sha256(paths: Iterable[Path]) -> str:
    """SHA-256 over the bytes of the files in file-name order."""
    if not _hashing.get():
        return "0" * 64
    digest = hashlib.sha256()
    for path in sorted(set(paths), key=lambda p: (p.name, p.as_posix())):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def model_card_license(folder: Path) -> str | None:
    """The `license:` of the model card's front matter."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    for line in lines[1:]:
        if line.strip() == "---":
            break
        if line.startswith("license:"):
            return line.removeprefix("license:").strip().strip("'\"") or None
    return None
