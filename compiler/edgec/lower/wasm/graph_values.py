"""What a tensor of the graph is while kernels are chosen for it: a view of memory, or still an expression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgec.errors import UnsupportedError
from edgec.lower.wasm.program import Storage
from edgec.passes import dims as d
from edgec.passes.dims import Dim

_SMALL_FLOATS = {
    ir.DataType.FLOAT16: "float16",
    ir.DataType.BFLOAT16: "bfloat16",
    ir.DataType.FLOAT8E4M3FN: "float8_e4m3fn",
    ir.DataType.FLOAT8E4M3FNUZ: "float8_e4m3fnuz",
    ir.DataType.FLOAT8E5M2: "float8_e5m2",
    ir.DataType.FLOAT8E5M2FNUZ: "float8_e5m2fnuz",
    ir.DataType.FLOAT4E2M1: "float4_e2m1fn",
}
_SMALL_INTEGERS = {
    ir.DataType.INT4: ("int4", 4),
    ir.DataType.UINT4: ("uint4", 4),
    ir.DataType.INT2: ("int2", 2),
    ir.DataType.UINT2: ("uint2", 2),
}
_DTYPES = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.DOUBLE: "float64",
    ir.DataType.INT64: "int64",
    ir.DataType.INT32: "int32",
    ir.DataType.INT16: "int16",
    ir.DataType.INT8: "int8",
    ir.DataType.UINT64: "uint64",
    ir.DataType.UINT32: "uint32",
    ir.DataType.UINT16: "uint16",
    ir.DataType.UINT8: "uint8",
    ir.DataType.BOOL: "bool",
    **dict.fromkeys(_SMALL_FLOATS, "float32"),
    **{small: "uint8" if name.startswith("u") else "int8" for small, (name, _) in _SMALL_INTEGERS.items()},
}
ITEM_BYTES = {
    "float32": 4,
    "float64": 8,
    "int32": 4,
    "int64": 8,
    "uint32": 4,
    "uint64": 8,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
    "int16": 2,
    "uint16": 2,
}


def small_float(value: ir.Value) -> str | None:
    """The name of a float of less than 32 bits, which the graph computes in float32."""
    return _SMALL_FLOATS.get(value.dtype) if value.dtype is not None else None


def small_integer_bits(value: ir.Value) -> int | None:
    """The width of an integer of less than 8 bits, which has a byte in memory."""
    return _SMALL_INTEGERS[value.dtype][1] if value.dtype in _SMALL_INTEGERS else None


def slot_dtype(value: ir.Value) -> str:
    """What a graph's input or output is for its caller."""
    if value.dtype in _SMALL_INTEGERS:
        return _SMALL_INTEGERS[value.dtype][0]
    return small_float(value) or dtype_of(value)


def dtype_of(value: ir.Value) -> str:
    """The dtype in memory; smaller floats are float32, a bool is a byte of 0 or 1."""
    found = _DTYPES.get(value.dtype) if value.dtype is not None else None
    if found is None:
        raise UnsupportedError(f"tensor `{value.name}` has element type {value.dtype}, which no kernel handles")
    return found


def memory_dtype(dtype: str) -> str:
    """The dtype of the elements that a kernel's buffer has."""
    return "uint8" if dtype == "bool" else dtype


def contiguous_strides(shape: Sequence[Dim]) -> tuple[Dim, ...]:
    strides: list[Dim] = []
    step: Dim = 1
    for dim in reversed(shape):
        strides.append(step)
        step = d.multiply(step, dim)
    return tuple(reversed(strides))


@dataclass(frozen=True)
class TensorView:
    """Elements of a storage: `offset + sum(index[i] * strides[i])`, all in elements."""

    storage: Storage
    dtype: str
    shape: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    offset: Dim = 0

    @classmethod
    def whole(cls, storage: Storage, dtype: str, shape: Sequence[Dim]) -> TensorView:
        return cls(storage, dtype, tuple(shape), contiguous_strides(shape))

    @property
    def contiguous(self) -> bool:
        expected = contiguous_strides(self.shape)
        return all(
            dim == 1 or d.same(stride, want)
            for dim, stride, want in zip(self.shape, self.strides, expected, strict=True)
        )

    def reshaped(self, shape: Sequence[Dim]) -> TensorView | None:
        """The same elements in another shape, `None` where strides cannot say that."""
        if self.contiguous:
            return TensorView(self.storage, self.dtype, tuple(shape), contiguous_strides(shape), self.offset)
        strides = _reshaped_strides(self.shape, self.strides, shape)
        return None if strides is None else TensorView(self.storage, self.dtype, tuple(shape), strides, self.offset)

    def transposed(self, permutation: Sequence[int]) -> TensorView:
        shape = tuple(self.shape[i] for i in permutation)
        return TensorView(self.storage, self.dtype, shape, tuple(self.strides[i] for i in permutation), self.offset)

    def sliced(self, axis: int, start: Dim, step: Dim, length: Dim) -> TensorView:
        shape, strides = list(self.shape), list(self.strides)
        offset = d.add(self.offset, d.multiply(start, strides[axis]))
        shape[axis], strides[axis] = length, d.multiply(strides[axis], step)
        return TensorView(self.storage, self.dtype, tuple(shape), tuple(strides), offset)

    def broadcast(self, shape: Sequence[Dim]) -> TensorView:
        extra = len(shape) - len(self.shape)
        strides: list[Dim] = [0] * extra
        for dim, stride, wanted in zip(self.shape, self.strides, shape[extra:], strict=True):
            if dim == 1 and wanted != 1:
                strides.append(0)
            elif d.computed(dim) and not d.same(dim, wanted):  # it may be 1 while running
                strides.append(d.multiply(stride, d.minimum(d.subtract(dim, 1), 1)))
            else:
                strides.append(stride)
        return TensorView(self.storage, self.dtype, tuple(shape), tuple(strides), self.offset)


def _reshaped_strides(before: Sequence[Dim], strides: Sequence[Dim], after: Sequence[Dim]) -> tuple[Dim, ...] | None:
    """Strides after a reshape that only splits axes and merges axes that lie contiguously."""
    source = [(dim, stride) for dim, stride in zip(before, strides, strict=True) if dim != 1]
    result: list[Dim] = []
    position = 0
    left: Dim = 1  # what is still to be split off the current run of source axes
    stride: Dim = 0
    for dim in after:
        if dim == 1:
            result.append(0)
            continue
        if left == 1:
            if position == len(source):
                return None
            left, stride = source[position]
            position += 1
        while not _divides(dim, left):
            if position == len(source):
                return None
            size, inner = source[position]
            if not d.same(stride, d.multiply(size, inner)):
                return None
            left, stride = d.multiply(left, size), inner
            position += 1
        left = d.quotient([left], [dim])
        result.append(d.multiply(stride, left))
    return tuple(result) if left == 1 and position == len(source) else None


def _divides(part: Dim, whole: Dim) -> bool:
    if isinstance(part, int) and isinstance(whole, int):
        return whole % part == 0
    return d.same(d.multiply(d.quotient([whole], [part]), part), whole)


Tree = tuple[Any, ...]  # ("leaf", index) | ("number", value, dtype) | (operator, attributes, dtype, children)


@dataclass(frozen=True)
class Lazy:
    """An elementwise expression that is not computed yet; leaves broadcast to `shape`."""

    tree: Tree
    leaves: tuple[TensorView, ...]
    dtype: str
    shape: tuple[Dim, ...]


@dataclass(frozen=True)
class Constant:
    """An initializer, which becomes a weight in memory only when a kernel reads it there."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    tensor: ir.TensorProtocol

    @property
    def number(self) -> float | int | None:
        """The value of a tensor of one element."""
        if self.tensor.size != 1:
            return None
        element = self.tensor.numpy().reshape(-1)[0]
        return float(element) if self.dtype.startswith("float") else int(element)

    def array(self) -> npt.NDArray[Any]:
        return np.ascontiguousarray(self.tensor.numpy().astype(memory_dtype(self.dtype)))
