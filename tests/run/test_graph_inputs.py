"""Inputs in other types than the graph's are converted where no value changes by more than rounding."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from edgec.bundle.manifest import ITEM_BYTES, Slot
from edgec.errors import UsageError
from edgec.run.engine import numpy_dtype
from edgec.run.graph import _converted


def slot(dtype: str) -> Slot:
    return Slot("x", dtype, (3,), 0, 24)


@pytest.mark.parametrize("dtype", sorted(ITEM_BYTES))
def test_every_type_of_the_format_is_one_of_numpy_or_ml_dtypes(dtype: str) -> None:
    assert numpy_dtype(slot(dtype)).itemsize == ITEM_BYTES[dtype]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "float8_e4m3fn"])
def test_floats_become_other_floats(dtype: str) -> None:
    got = _converted(slot(dtype), np.array([1.0, -0.5, 2.0], np.float32))
    assert got.dtype.name == dtype
    assert got.astype(np.float32).tolist() == [1.0, -0.5, 2.0]


@pytest.mark.parametrize(
    ("dtype", "largest"), [("int4", 7), ("uint4", 15), ("int2", 1), ("int16", 32767), ("uint8", 255)]
)
def test_integers_keep_their_value(dtype: str, largest: int) -> None:
    assert _converted(slot(dtype), np.array([0, 1, largest])).astype(np.int64).tolist() == [0, 1, largest]
    with pytest.raises(UsageError, match="values outside"):
        _converted(slot(dtype), np.array([0, 1, largest + 1]))


def test_floats_are_no_integers() -> None:
    with pytest.raises(UsageError, match="is float32"):
        _converted(slot("int8"), np.zeros(3, np.float32))
    with pytest.raises(UsageError, match="is bfloat16"):
        _converted(slot("int32"), np.zeros(3, ml_dtypes.bfloat16))
