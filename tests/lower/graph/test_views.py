"""Views of memory: what numpy's strided views say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.errors import UnsupportedError
from edgec.lower.wasm.graph_dims import to_scalar, upper_bound
from edgec.lower.wasm.graph_values import TensorView
from edgec.lower.wasm.program import Storage


def elements(view: TensorView) -> np.ndarray:
    """The positions that the view reads."""
    total = 1 + sum((int(n) - 1) * int(s) for n, s in zip(view.shape, view.strides, strict=True) if int(n) > 0)
    memory = np.arange(int(view.offset) + max(total, 1))
    strides = [int(s) * memory.itemsize for s in view.strides]
    shape = [int(n) for n in view.shape]
    return np.lib.stride_tricks.as_strided(memory[int(view.offset) :], shape, strides)


@st.composite
def views(draw: Any) -> tuple[TensorView, np.ndarray]:
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    view = TensorView.whole(Storage("s", 4 * math.prod(shape), "workspace"), "float32", shape)
    array = np.arange(math.prod(shape)).reshape(shape)
    order = draw(st.permutations(range(len(shape))))
    view, array = view.transposed(order), array.transpose(order)
    axis = draw(st.integers(0, len(shape) - 1))
    start = draw(st.integers(0, array.shape[axis] - 1))
    step = draw(st.integers(1, 2))
    picked = array.take(range(start, array.shape[axis], step), axis=axis)
    return view.sliced(axis, start, step, picked.shape[axis]), picked


@given(views())
def test_transposed_slices(case: tuple[TensorView, np.ndarray]) -> None:
    view, array = case
    np.testing.assert_array_equal(elements(view), array)


@given(views(), st.data())
def test_reshapes_are_right_or_refused(case: tuple[TensorView, np.ndarray], data: st.DataObject) -> None:
    view, array = case
    left, shape = array.size, []
    for _ in range(data.draw(st.integers(0, 3))):
        shape.append(data.draw(st.sampled_from([n for n in range(1, left + 1) if left % n == 0])))
        left //= shape[-1]
    shape.append(left)
    reshaped = view.reshaped(shape)
    if view.contiguous:
        assert reshaped is not None
    if reshaped is not None:
        np.testing.assert_array_equal(elements(reshaped), array.reshape(shape))


@given(views(), st.integers(1, 3))
def test_broadcasts(case: tuple[TensorView, np.ndarray], extra: int) -> None:
    view, array = case
    shape = [extra, *(3 if n == 1 else n for n in array.shape)]
    np.testing.assert_array_equal(elements(view.broadcast(shape)), np.broadcast_to(array, shape))


def test_symbolic_shapes() -> None:
    batch, length = ir.SymbolicDim("batch"), ir.SymbolicDim("length")
    view = TensorView.whole(Storage("s", 4096, "workspace"), "float32", [batch, length, 12])
    heads = view.reshaped([batch, length, 3, 4])
    assert heads is not None and heads.strides[2:] == (4, 1)
    moved = heads.transposed([0, 2, 1, 3])
    assert not moved.contiguous
    assert moved.reshaped([batch, 3, length * 4]) is None
    part = view.sliced(2, 4, 1, 8)
    flat = part.reshaped([batch * length, 8])
    assert flat is not None and flat.strides == (12, 1) and flat.offset == 4


def test_dimensions_as_numbers_and_scalars() -> None:
    dim = ir.SymbolicDim("2*n + 1") // 3
    assert upper_bound(dim, {"n": 10}) == 7
    operator, _, right = to_scalar(dim)  # type: ignore[misc]
    assert operator == "//" and right == 3
    with pytest.raises(UnsupportedError, match="`n` has no upper bound"):
        upper_bound(dim, {})
