"""Which frontend reads a source."""

from __future__ import annotations

from pathlib import Path

from edgec.errors import ModelError, UnsupportedError
from edgec.frontend import hf
from edgec.frontend.files import read_json
from edgec.frontend.problems import Problem
from edgec.ir.model import ModelIR


def load(source: str | Path, *, task: str | None = None, name: str | None = None) -> ModelIR:
    """Reads a model.

    `source` is a Hugging Face directory. `name` overrides the model's name. Raises
    `UnsupportedError` when `check` finds problems and `ModelError` when the source makes no sense,
    both before any weight is read.
    """
    folder = _folder(source)
    return hf.load(folder, name=name)


def check(source: str | Path) -> list[Problem]:
    """Every unsupported config field, op or tensor type of a source; empty when it can be loaded."""
    return hf.check(_folder(source))


def _folder(source: str | Path) -> Path:
    path = Path(source)
    if not path.exists():
        raise ModelError(f"`{source}` does not exist")
    if not (path / "config.json").is_file() or not hf.is_decoder(read_json(path / "config.json")):
        raise UnsupportedError(f"`{source}` is no model that edgec knows")
    return path
