"""Kernels of operators that are computed one element at a time, on tensors with indices instead of addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.graph_dims import symbols, to_tir
from edgec.lower.wasm.kernels.builder import Buffer, Expr, KernelBuilder, PrimFunc, Registers, bind, store
from edgec.lower.wasm.kernels.elementwise import buffer_dtype, dot, product, unravel, write
from edgec.passes.dims import Dim

Index = Sequence[Expr]


@dataclass(frozen=True)
class Layout:
    """How a tensor lies in its buffer: element `offset + sum(index[i] * strides[i])`."""

    dtype: str
    shape: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    offset: Dim = 0

    def dims(self) -> list[Dim]:
        return [*self.shape, *self.strides, self.offset]


class Tensor:
    """A tensor inside a kernel. `shape` are its extents as expressions."""

    def __init__(self, buffer: Buffer, layout: Layout, variables: dict[str, Expr]) -> None:
        self._buffer = buffer
        self.layout = layout
        self.dtype = layout.dtype
        self.rank = len(layout.shape)
        self.shape = [to_tir(dim, variables) for dim in layout.shape]
        self._strides = [to_tir(stride, variables) for stride in layout.strides]
        self._offset = to_tir(layout.offset, variables)

    def strides(self) -> list[Expr]:
        """In elements."""
        return self._strides

    def _position(self, index: Index) -> Expr:
        return self._offset + dot(list(index), self._strides)

    def __getitem__(self, index: Index) -> Expr:
        value = self._buffer[self._position(index)]
        return value != T.uint8(0) if self.dtype == "bool" else value

    def __setitem__(self, index: Index, value: Expr) -> None:
        write(self._buffer, self.dtype, self._position(index), value, 1)

    def get(self, index: Index, dtype: str) -> Expr:
        """An element, converted."""
        value = self[index]
        return value if self.dtype == dtype else T.Cast(dtype, value)

    def put(self, index: Index, value: Expr) -> None:
        """Store `value`, converted."""
        self[index] = value if str(value.ty.dtype) == self.dtype else T.Cast(self.dtype, value)


Body = Callable[[Sequence[Tensor], Sequence[Tensor]], None]


def generic(inputs: Sequence[Layout], outputs: Sequence[Layout], body: Body) -> PrimFunc:
    """Parameters: a buffer per input and output, then `dimensions(inputs, outputs)`."""
    with KernelBuilder() as k:
        buffers = [k.buffer(f"input{i}", buffer_dtype(layout.dtype)) for i, layout in enumerate(inputs)]
        targets = [k.buffer(f"output{i}", buffer_dtype(layout.dtype)) for i, layout in enumerate(outputs)]
        variables = {name: k.scalar(name) for name in dimensions(inputs, outputs)}
        body(
            [Tensor(buffer, layout, variables) for buffer, layout in zip(buffers, inputs, strict=True)],
            [Tensor(buffer, layout, variables) for buffer, layout in zip(targets, outputs, strict=True)],
        )
    return k.func


def dimensions(inputs: Sequence[Layout], outputs: Sequence[Layout]) -> list[str]:
    """The symbolic dimensions that the kernel takes, in the order of its parameters."""
    return symbols([dim for layout in (*inputs, *outputs) for dim in layout.dims()])


@contextmanager
def each(extents: Sequence[Expr], *, parallel: bool = True) -> Iterator[list[Expr]]:
    """A loop over all indices in row-major order; iterations of a parallel one must not depend on each other."""
    if not extents:
        with (T.parallel if parallel else T.serial)(0, T.int32(1)):
            yield []
        return
    if any(isinstance(extent, tirx.IntImm) and int(extent) == 0 for extent in extents):
        with T.serial(0, T.int32(0)):
            yield [T.int32(0)] * len(extents)
        return
    with (T.parallel if parallel else T.serial)(0, product(extents)) as position:
        yield unravel(position, extents)


def wrapped(index: Expr, size: Expr) -> Expr:
    """int32 of an index that may count from the end."""
    index = bind(T.Cast("int32", index))
    return bind(tirx.Select(index < 0, index + size, index))


class Sum:
    """An accumulator."""

    def __init__(self, dtype: str, start: float | Expr = 0) -> None:
        self._value = Registers(1, dtype)
        self.set(tirx.const(start, dtype) if isinstance(start, (int, float)) else start)

    @property
    def value(self) -> Expr:
        return self._value[0]

    def set(self, value: Expr) -> None:
        self._value[0] = value

    def add(self, value: Expr) -> None:
        self._value[0] = self._value[0] + value


def inside(index: Expr, size: Expr) -> Expr:
    return tirx.And(index >= 0, index < size)


__all__ = ["Body", "Layout", "Sum", "Tensor", "dimensions", "each", "generic", "inside", "store", "wrapped"]
