"""Training that was interrupted, in a folder: tensors as safetensors, and what they belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from edgec.errors import OutputError, UsageError
from edgec.whole_file import whole_file

_FILE = "heal.safetensors"
Arrays = dict[str, np.ndarray[Any, Any]]


def save(folder: Path, state: Mapping[str, Any], arrays: Arrays) -> None:
    """Replace the folder's checkpoint. Raises `OutputError`; the old one is then still whole."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / _FILE) as partial:
            save_file(arrays, partial, metadata={"edgec": json.dumps(state, sort_keys=True)})
    except OSError as error:
        raise OutputError(f"the checkpoint in `{folder}` cannot be written ({error.strerror or error})") from error


def load(folder: Path, fingerprint: str) -> tuple[dict[str, Any], Arrays] | None:
    """(state, arrays), None where nothing was saved yet. Raises `UsageError` for a checkpoint of something else."""
    file = folder / _FILE
    if not file.exists():
        return None
    try:
        with safe_open(file, framework="np") as archive:
            state = json.loads((archive.metadata() or {})["edgec"])
            arrays = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"the checkpoint `{file}` cannot be read ({error})", hint="remove it, to begin anew"
        ) from error
    if not isinstance(state, dict) or state.get("fingerprint") != fingerprint:
        raise UsageError(
            f"the checkpoint `{file}` is of another model, plan or text",
            hint="give another folder with `--heal-dir`, or remove it",
        )
    return state, arrays


__all__ = ["load", "save"]
