"""Which frontend reads a source."""

from __future__ import annotations

from pathlib import Path

from edgec.errors import ModelError, UnsupportedError
from edgec.frontend import gguf, hf
from edgec.frontend.files import read_json
from edgec.frontend.problems import Problem
from edgec.ir.model import ModelIR


def load(source: str | Path, *, task: str | None = None, name: str | None = None) -> ModelIR:
    """Reads a model.

    `source` is a Hugging Face directory or a `*.gguf` file. `name` overrides the model's name.
    Raises `UnsupportedError` when `check` finds problems and `ModelError` when the source makes no
    sense, both before any weight is read.
    """
    path = _existing(source)
    if path.suffix == ".gguf":
        return gguf.load(path, name=name)
    return hf.load(_folder(path), name=name)


def check(source: str | Path) -> list[Problem]:
    """Every unsupported config field, op or tensor type of a source; empty when it can be loaded."""
    path = _existing(source)
    if path.suffix == ".gguf":
        return gguf.check(path)
    return hf.check(_folder(path))


def _existing(source: str | Path) -> Path:
    path = Path(source)
    if not path.exists():
        raise ModelError(f"`{source}` does not exist")
    return path


def _folder(path: Path) -> Path:
    if not (path / "config.json").is_file() or not hf.is_decoder(read_json(path / "config.json")):
        raise UnsupportedError(f"`{path}` is no model that edgec knows")
    return path
