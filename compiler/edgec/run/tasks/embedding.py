"""Texts to vectors with an encoder graph (docs/tasks.md, "Embedding")."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.bundle.manifest import Slot
from edgec.errors import UnsupportedError
from edgec.run.tasks.runner import FLOATS, GraphRunner, first_float_output
from edgec.run.tokenizer import Tokenizer


def embed(
    runner: GraphRunner, tokenizer: Tokenizer, task: Mapping[str, Any], texts: Sequence[str], *, pad_token_id: int = 0
) -> npt.NDArray[np.float32]:
    """float32 [texts, width], one row per text."""
    rows = [_embed(runner, tokenizer, task, text, pad_token_id) for text in texts]
    return np.stack(rows) if rows else np.zeros((0, 0), np.float32)


def _embed(
    runner: GraphRunner, tokenizer: Tokenizer, task: Mapping[str, Any], text: str, pad_token_id: int
) -> npt.NDArray[np.float32]:
    fixed, limit = _length(runner, int(task["max_length"]))
    ids = tokenizer.encode_plain(text, add_special_tokens=True, max_length=limit)
    length = fixed or len(ids)
    inputs = {slot.name: _input(slot, ids, length, pad_token_id) for slot in runner.inputs}
    outputs = runner.run(inputs)
    return _pool(outputs, len(ids), task)


def _length(runner: GraphRunner, max_length: int) -> tuple[int | None, int]:
    """The graph's own sequence length, if it is fixed, and the most ids that fit."""
    slot = next((slot for slot in runner.inputs if slot.name == "input_ids"), None)
    if slot is None or len(slot.shape) != 2:
        raise UnsupportedError("the model has no input `input_ids` of two dimensions")
    length = slot.shape[1]
    if isinstance(length, int):
        return length, min(length, max_length)
    return None, min(runner.dims.get(length, max_length), max_length)


def _input(slot: Slot, ids: Sequence[int], length: int, pad_token_id: int) -> npt.NDArray[Any]:
    padding = length - len(ids)
    rows = {
        "input_ids": [*ids, *[pad_token_id] * padding],
        "attention_mask": [1] * len(ids) + [0] * padding,
        "token_type_ids": [0] * length,
    }
    if slot.name not in rows:
        raise UnsupportedError(f"the model has the input `{slot.name}`, which is not known for embeddings")
    return np.array([rows[slot.name]], slot.dtype)


def _pool(outputs: Mapping[str, npt.NDArray[Any]], count: int, task: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    if any(array.ndim == 3 and array.dtype.name in FLOATS for array in outputs.values()):
        states = first_float_output(outputs, 3)[0].astype(np.float64)
        vector = states[0] if task["pooling"] == "cls" else states[:count].sum(axis=0) / count
    else:
        vector = first_float_output(outputs, 2)[0].astype(np.float64)
    return normalized(vector) if task["normalize"] else np.asarray(vector, np.float32)


def normalized(vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The vector at length 1."""
    squares = float(np.cumsum(vector * vector)[-1])  # one after the other, as the other runtimes add
    return np.asarray(vector / max(math.sqrt(squares), 1e-12), np.float32)
