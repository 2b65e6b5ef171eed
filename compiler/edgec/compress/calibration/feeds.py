"""Inputs of a model's graph as arrays by name, from ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.errors import UsageError
from edgec.ir.model import ModelIR


def decoder_feeds(model: ModelIR, ids: Sequence[int]) -> dict[str, npt.NDArray[Any]]:
    """`ids` from an empty cache."""
    assert model.decoder is not None
    empty = np.zeros((1, model.decoder.kv_heads, 0, model.decoder.head_dim), np.float32)
    feeds: dict[str, npt.NDArray[Any]] = {
        "input_ids": np.array([ids], np.int64),
        "position_ids": np.arange(len(ids), dtype=np.int64)[None],
    }
    names = [value.name for value in model.model.graph.inputs if value.name is not None]
    return feeds | {name: empty for name in names if name not in feeds}


def encoder_feeds(model: ModelIR, ids: Sequence[int]) -> dict[str, npt.NDArray[Any]]:
    """One text for a graph that reads `input_ids` and perhaps `attention_mask` and `token_type_ids`."""
    feeds: dict[str, npt.NDArray[Any]] = {}
    for value in model.model.graph.inputs:
        assert value.name is not None and value.dtype is not None
        dims = [] if value.shape is None else list(value.shape.dims)
        if value.name not in ("input_ids", "attention_mask", "token_type_ids") or len(dims) != 2:
            raise UsageError(
                f"`{model.facts.name}` has the input `{value.name}`, a text does not tell what it is",
                hint="give calibration data as an .npz file with an array for each input",
            )
        length = dims[1] if isinstance(dims[1], int) else len(ids)
        some = list(ids[:length])
        fill = {"input_ids": some, "attention_mask": [1] * len(some), "token_type_ids": [0] * len(some)}[value.name]
        feeds[value.name] = np.array([fill + [0] * (length - len(some))], value.dtype.numpy())
    return feeds


__all__ = ["decoder_feeds", "encoder_feeds"]
