"""A folder with finished work of earlier compilations, for the next one and for one that was killed.

An entry is a file `<key>` of

    SHA-256 over the key and all that follows (32 bytes), length of the header (8, little-endian),
    header (JSON: name, dtype and shape of each array), the arrays' bytes one after the other

written beside its place and renamed. A file that was cut short, damaged or swapped does not have its
hash, is removed and counts as missing. Keys begin with what every result depends on: edgec's code, the
versions of the libraries that compute, and the kind of processor.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import secrets
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import threadpoolctl

from edgec.errors import UsageError
from edgec.ir.store import Arrays, key_of
from edgec.profiles.units import parse_size

DEFAULT_LIMIT = 4 << 30  # bytes
_ABANDONED = 3600.0  # seconds after which a temporary file belongs to nobody
_LIBRARIES = ("apache-tvm", "gguf", "ml-dtypes", "numpy", "onnx", "onnx-ir", "onnxruntime", "safetensors", "tokenizers")
_OPTIONAL = ("optimum", "optimum-onnx", "torch", "transformers")


def default_folder() -> Path:
    """`EDGEC_CACHE_DIR`, else `edgec` in the user's folder for caches."""
    chosen = os.environ.get("EDGEC_CACHE_DIR")
    if chosen:
        return Path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "edgec"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgec"


def limit_bytes() -> int:
    """`EDGEC_CACHE_SIZE`, for example `4 GiB`, which is also the default."""
    text = os.environ.get("EDGEC_CACHE_SIZE")
    if not text:
        return DEFAULT_LIMIT
    try:
        return parse_size(text)
    except ValueError:
        raise UsageError(f"`EDGEC_CACHE_SIZE` is `{text}`", hint="give a size such as `4 GiB`") from None


@dataclass
class Counts:
    """What a compilation had of its cache."""

    reused: int = 0
    missing: int = 0
    saved: int = 0
    damaged: int = 0  # entries that were found out and removed


class Cache:
    """A `Store` in `folder`, at most `limit` bytes of it after `prune()`. Several processes may share the folder."""

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self.folder = folder
        self.limit = limit_bytes() if limit is None else limit
        self.counts = Counts()
        self.problem: str | None = None  # why nothing can be kept here
        self._identity = identity()

    def load(self, key: str) -> Arrays | None:
        name = self._name(key)
        path = self._path(name)
        try:
            data = path.read_bytes()
        except OSError:
            self.counts.missing += 1
            return None
        try:
            arrays = _decode(name, data)
        except ValueError:
            self._remove_damaged(path)
            return None
        self.counts.reused += 1
        with _unless_gone():
            os.utime(path)  # the oldest go first
        return arrays

    def save(self, key: str, arrays: Arrays) -> None:
        """A folder that cannot be written to costs the reuse, not the compilation; `problem` then says why."""
        if self.problem is not None:
            return
        name = self._name(key)
        path = self._path(name)
        temporary = path.with_name(f".{name}.{secrets.token_hex(4)}.tmp")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as stream:
                    for part in _encode(name, arrays):
                        stream.write(part)
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        except OSError as error:
            self.problem = error.strerror or str(error)
            return
        self.counts.saved += 1

    def refuse(self, key: str) -> None:
        self.counts.reused -= 1
        self._remove_damaged(self._path(self._name(key)))

    def prune(self) -> None:
        """Remove what was not used for longest until the rest is within the limit, and what killed processes left."""
        entries = []
        now = time.time()
        for path in self._files():
            with _unless_gone():
                facts = path.stat()
                if path.suffix != ".tmp":
                    entries.append((facts.st_mtime, facts.st_size, path))
                elif now - facts.st_mtime > _ABANDONED:
                    path.unlink()
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.limit:
                break
            with _unless_gone():
                path.unlink()
            total -= size

    def _files(self) -> Iterator[Path]:
        for folder in self.folder.glob("[0-9a-f][0-9a-f]"):
            yield from folder.iterdir()

    def _name(self, key: str) -> str:
        return key_of(self._identity, key)

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name

    def _remove_damaged(self, path: Path) -> None:
        self.counts.damaged += 1
        self.counts.missing += 1
        with _unless_gone():
            path.unlink()


# Another process may remove or replace any entry at any time.
_unless_gone = functools.partial(contextlib.suppress, OSError)


def _encode(name: str, arrays: Arrays) -> Iterator[bytes]:
    contents = {label: np.ascontiguousarray(array) for label, array in arrays.items()}
    header = json.dumps([[label, array.dtype.str, array.shape] for label, array in contents.items()]).encode()
    parts = [len(header).to_bytes(8, "little"), header, *(array.tobytes() for array in contents.values())]
    digest = hashlib.sha256(name.encode())
    for part in parts:
        digest.update(part)
    yield digest.digest()
    yield from parts


def _decode(name: str, data: bytes) -> dict[str, npt.NDArray[Any]]:
    """Raises `ValueError` for anything that `_encode` did not write under this name."""
    digest = hashlib.sha256(name.encode())
    digest.update(memoryview(data)[32:])
    if digest.digest() != data[:32]:
        raise ValueError("the entry does not have its hash")
    at = 40 + int.from_bytes(data[32:40], "little")
    arrays: dict[str, npt.NDArray[Any]] = {}
    for label, kind, shape in json.loads(data[40:at]):
        dtype = np.dtype(kind)
        if dtype.kind not in "biuf":
            raise ValueError(f"the entry has an array of `{kind}`")
        count = int(np.prod(shape, dtype=np.int64))
        arrays[label] = np.frombuffer(data, dtype, count, at).reshape(shape)
        at += count * dtype.itemsize
    return arrays


@functools.cache
def identity() -> str:
    """Names what the same input needs to give the same bytes."""
    package = Path(__file__).parent
    code = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        relative = file.relative_to(package).as_posix()
        if not relative.startswith("cli/"):  # which only asks and shows
            code.update(f"{relative}\0".encode() + file.read_bytes() + b"\0")
    libraries = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    libraries |= {name: _version(name) for name in _OPTIONAL}
    blas = sorted(str(library.get("architecture")) for library in threadpoolctl.threadpool_info())
    return key_of(code.hexdigest(), libraries, platform.python_version(), platform.machine(), sorted(set(blas)))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


__all__ = ["DEFAULT_LIMIT", "Cache", "Counts", "default_folder", "identity", "limit_bytes"]
