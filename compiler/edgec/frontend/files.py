"""Reading a model folder's small files, and the hash that names a source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
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
    """`relative` as a path in `folder`; symbolic links may point out (hub caches do), names may not.

    Raises `UnsafePathError` for absolute paths and paths with `..`.
    """
    path = Path(relative)
    if not relative or path.is_absolute() or ".." in path.parts or "\\" in relative or "\0" in relative:
        raise UnsafePathError(f"`{named_by}` names the file `{relative}`, which is not inside the model's folder")
    return folder / path


def source_sha256(paths: Iterable[Path]) -> str:
    """SHA-256 over the bytes of the files in file-name order."""
    digest = hashlib.sha256()
    for path in sorted(set(paths), key=lambda p: p.name):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
