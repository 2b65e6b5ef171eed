"""`Bundle`: an opened bundle directory. Files are checked against the manifest when they are read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from edgec.bundle.manifest import Manifest
from edgec.bundle.verify import Finding, raise_first, read_manifest, structure_findings
from edgec.errors import BundleError


@dataclass(frozen=True)
class Bundle:
    """`manifest` is valid, and all files were there with the right lengths when it was opened."""

    path: Path
    manifest: Manifest

    def file_bytes(self, name: str) -> bytes:
        """The bytes of a file of the bundle; raises `BundleError` if they are not the manifest's."""
        info = self.manifest.files[name]
        try:
            data = (self.path / name).read_bytes()
        except OSError as error:
            raise BundleError(f"`{name}` cannot be read ({error.strerror})", finding="file-missing") from error
        if len(data) != info.bytes:
            message = f"`{name}` has {len(data)} bytes, the manifest says {info.bytes}"
            raise_first([Finding("length-mismatch", name, message)])
        if hashlib.sha256(data).hexdigest() != info.sha256:
            raise_first([Finding("hash-mismatch", name, f"`{name}` does not have the SHA-256 of the manifest")])
        return data

    def module(self, variant: str) -> bytes:
        """The wasm of a variant in `manifest.modules`."""
        return self.file_bytes(self.manifest.modules[variant])

    def tokenizer_json(self) -> bytes | None:
        tokenizer = self.manifest.tokenizer
        return self.file_bytes(tokenizer.file) if tokenizer else None


def read(path: Path | str) -> Bundle:
    """Open a bundle: manifest, names and lengths are checked now, hashes when a file is read.

    Raises `BundleError` whose `finding` is a code of docs/bundle-format.md.
    """
    root = Path(path)
    manifest = read_manifest(root)
    raise_first(list(structure_findings(root, manifest)))
    return Bundle(root, manifest)
