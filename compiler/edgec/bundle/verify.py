"""`edgec verify`: is this directory a sound bundle? Standard library only, so it runs anywhere."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgec.bundle.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, Manifest
from edgec.bundle.parse import parse_manifest
from edgec.errors import BundleError

Code = Literal[
    "manifest-invalid", "version-unsupported", "file-missing", "file-unexpected", "length-mismatch", "hash-mismatch"
]
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Finding:
    """One thing wrong with a bundle."""

    code: Code
    file: str
    message: str  # one sentence, no final period


def verify(path: Path | str, *, progress: Callable[[int], None] | None = None) -> list[Finding]:
    """Everything wrong with the bundle at `path`, worst first; an empty list means it is sound.

    `progress` is called with the number of bytes hashed since the last call.
    """
    root = Path(path)
    try:
        manifest = read_manifest(root)
    except BundleError as error:
        if error.finding is None:
            raise
        return [Finding(error.finding, MANIFEST_FILE, error.message)]  # type: ignore[arg-type]
    findings = list(structure_findings(root, manifest))
    damaged = {finding.file for finding in findings}
    for name, info in sorted(manifest.files.items()):
        if name not in damaged and (digest := file_sha256(root / name, progress)) != info.sha256:
            message = f"`{name}` has the SHA-256 {digest[:16]}…, the manifest says {info.sha256[:16]}…"
            findings.append(Finding("hash-mismatch", name, message))
    return findings


def check(path: Path | str) -> None:
    """Raises `BundleError` with the first finding of `verify`."""
    raise_first(verify(path))


def raise_first(findings: list[Finding]) -> None:
    if findings:
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        hint = "copy or compile the bundle again; `edgec verify` lists all findings"
        raise BundleError(findings[0].message + more, hint=hint, finding=findings[0].code)


def read_manifest(root: Path) -> Manifest:
    """Raises `BundleError`, without a finding when there is no directory at all."""
    if not root.is_dir():
        raise BundleError(f"`{root}` is not a directory", hint="a bundle is the directory that `edgec compile` wrote")
    file = root / MANIFEST_FILE
    try:
        status = file.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"`{MANIFEST_FILE}` is not a plain file", finding="file-unexpected")
        if status.st_size > MAX_MANIFEST_BYTES:
            message = f"the manifest is invalid: it has {status.st_size} bytes, more than {MAX_MANIFEST_BYTES}"
            raise BundleError(message, finding="manifest-invalid")
        data = file.read_bytes()
    except FileNotFoundError:
        raise BundleError(f"`{root}` has no `{MANIFEST_FILE}`", finding="file-missing") from None
    except OSError as error:
        raise BundleError(f"`{file}` cannot be read ({error.strerror})") from error
    return parse_manifest(data)


def structure_findings(root: Path, manifest: Manifest) -> Iterator[Finding]:
    """Names and lengths, without reading any file."""
    try:
        present = dict(_walk(root))
    except OSError as error:
        raise BundleError(f"`{root}` cannot be read ({error.strerror})") from error
    wanted = manifest.files
    for name in sorted(present.keys() - wanted.keys() - {MANIFEST_FILE}):
        yield Finding("file-unexpected", name, f"`{name}` does not belong in the bundle")
    for name in sorted(wanted.keys() - present.keys()):
        yield Finding("file-missing", name, f"`{name}` is missing")
    for name in sorted(wanted.keys() & present.keys()):
        if present[name] is None:
            yield Finding("file-unexpected", name, f"`{name}` is not a plain file")
    yield from _length_findings(present, wanted_lengths={name: info.bytes for name, info in wanted.items()})


def _length_findings(present: Mapping[str, int | None], wanted_lengths: Mapping[str, int]) -> Iterator[Finding]:
    for name, expected in sorted(wanted_lengths.items()):
        length = present.get(name)
        if length is not None and length != expected:
            yield Finding("length-mismatch", name, f"`{name}` has {length} bytes, the manifest says {expected}")


def _walk(root: Path) -> Iterator[tuple[str, int | None]]:
    """(name, length) of all that is there; None for what is no plain file. Links are not followed."""
    pending = [""]
    while pending:
        folder = pending.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    if name == "weights":
                        pending.append(name)
                    else:
                        yield name, None
                elif entry.is_file(follow_symlinks=False):
                    yield name, entry.stat(follow_symlinks=False).st_size
                else:
                    yield name, None


def file_sha256(file: Path, progress: Callable[[int], None] | None = None) -> str:
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while block := stream.read(_READ_BYTES):
                digest.update(block)
                if progress:
                    progress(len(block))
    except OSError as error:
        raise BundleError(f"`{file.name}` cannot be read ({error.strerror})") from error
    return digest.hexdigest()
