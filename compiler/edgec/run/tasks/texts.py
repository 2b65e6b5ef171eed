"""Texts as inputs of an encoder graph (docs/tasks.md, "Texts")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.bundle.manifest import Slot
from edgec.errors import UnsupportedError
from edgec.run.tasks.runner import GraphRunner
from edgec.run.tokenizer import Encoded


def text_length(runner: GraphRunner, max_length: int) -> tuple[int | None, int]:
    """The graph's own sequence length, if it is fixed, and the most ids that fit."""
    slot = next((slot for slot in runner.inputs if slot.name == "input_ids"), None)
    if slot is None or len(slot.shape) != 2:
        raise UnsupportedError("the model has no input `input_ids` of two dimensions")
    length = slot.shape[1]
    if isinstance(length, int):
        return length, min(length, max_length)
    return None, min(runner.dims.get(length, max_length), max_length)


def text_outputs(
    runner: GraphRunner, encoded: Encoded, fixed: int | None, pad_token_id: int
) -> Mapping[str, npt.NDArray[Any]]:
    """What the graph gives for ids that fit, filled up to a `fixed` length."""
    length = fixed or len(encoded.ids)
    return runner.run({slot.name: _input(slot, encoded, length, pad_token_id) for slot in runner.inputs})


def _input(slot: Slot, encoded: Encoded, length: int, pad_token_id: int) -> npt.NDArray[Any]:
    count = len(encoded.ids)
    rows: dict[str, Sequence[int]] = {
        "input_ids": [*encoded.ids, *[pad_token_id] * (length - count)],
        "attention_mask": [1] * count + [0] * (length - count),
        "token_type_ids": [*encoded.types, *[0] * (length - count)],
    }
    if slot.name not in rows:
        raise UnsupportedError(f"the model has the input `{slot.name}`, which is not known for texts")
    return np.array([rows[slot.name]], slot.dtype)
