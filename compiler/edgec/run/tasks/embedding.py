"""Texts to vectors with an encoder graph (docs/tasks.md, "Embedding")."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.run.tasks.runner import FLOATS, GraphRunner, first_float_output
from edgec.run.tasks.texts import text_length, text_outputs
from edgec.run.tokenizer import Encoded, Tokenizer


def embed(
    runner: GraphRunner, tokenizer: Tokenizer, task: Mapping[str, Any], texts: Sequence[str], *, pad_token_id: int = 0
) -> npt.NDArray[np.float32]:
    """float32 [texts, width], one row per text."""
    rows = [_embed(runner, tokenizer, task, text, pad_token_id) for text in texts]
    return np.stack(rows) if rows else np.zeros((0, 0), np.float32)


def _embed(
    runner: GraphRunner, tokenizer: Tokenizer, task: Mapping[str, Any], text: str, pad_token_id: int
) -> npt.NDArray[np.float32]:
    fixed, limit = text_length(runner, int(task["max_length"]))
    ids = tokenizer.encode_plain(text, add_special_tokens=True, max_length=limit)
    outputs = text_outputs(runner, Encoded(ids, [0] * len(ids)), fixed, pad_token_id)
    return _pool(outputs, len(ids), task)


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
