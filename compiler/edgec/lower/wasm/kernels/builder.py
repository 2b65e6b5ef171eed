"""A thin layer over TVM's IRBuilder, in which kernels are written as plain Python.

Values are TIR expressions; a Python loop unrolls, `T.serial` makes a loop, `T.parallel` a loop
whose iterations are shared between threads. Buffers are flat and their sizes nominal: a kernel is
called with raw pointers, so one kernel serves any number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

Expr = Any  # tvm's Python classes carry no types
Buffer = Any
PrimFunc = Any

NOMINAL = 1 << 20  # size written in a buffer's type where the real one varies


class KernelBuilder:
    """`with KernelBuilder() as k: ...` declares parameters in order, then emits the body."""

    def __init__(self) -> None:
        self._builder = IRBuilder()
        self._frame: Any = None

    def __enter__(self) -> KernelBuilder:
        self._builder.__enter__()
        self._frame = T.prim_func(s_tir=True)
        self._frame.__enter__()
        T.func_attr({"tirx.noalias": True})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._frame.__exit__(kind, error, trace)
        self._builder.__exit__(kind, error, trace)

    @property
    def func(self) -> PrimFunc:
        return self._builder.get()

    def buffer(self, name: str, dtype: str, size: int = NOMINAL) -> Buffer:
        return T.arg(name, T.Buffer((size,), dtype, layout=None))

    def scalar(self, name: str) -> Expr:
        return T.arg(name, T.int32())


class Registers:
    """An array of scalar or vector variables that LLVM keeps in registers (or on the stack)."""

    def __init__(self, count: int, dtype: str) -> None:
        # On the stack at any size (abi.py has a limit); TVM would take 1 KiB and more from a heap.
        self._buffer = T.alloc_buffer((count,), dtype, layout=None, annotations={"disable_lower_builtin": True})
        self.dtype = dtype

    def __getitem__(self, index: Expr) -> Expr:
        return self._buffer[index]

    def __setitem__(self, index: Expr, value: Expr) -> None:
        T.buffer_store(self._buffer, value, [index])

    def fill(self, count: int, value: float) -> None:
        for index in range(count):
            self[index] = splat(value, self.dtype)


class _Lanes(Registers):
    """A small array on the stack, read and written as scalars or as vectors of 4."""

    def vector(self, index: Expr, width: int = 4) -> Expr:
        return self._buffer[T.Ramp(index, 1, width)]

    def set_vector(self, index: Expr, value: Expr, width: int = 4) -> None:
        T.buffer_store(self._buffer, value, [T.Ramp(index, 1, width)])

    def window(self, start: Expr) -> Buffer:
        """As `window` of a buffer."""
        return window(self._buffer, start)


class Floats(_Lanes):
    def __init__(self, count: int) -> None:
        super().__init__(count, "float32")

    def part(self, start: Expr) -> Floats:
        """The same floats from `start` on."""
        return _Part(self, start)


class _Part(Floats):
    def __init__(self, whole: Floats, start: Expr) -> None:
        self._buffer, self.dtype, self._start = whole._buffer, whole.dtype, start

    def __getitem__(self, index: Expr) -> Expr:
        return super().__getitem__(self._start + index)

    def __setitem__(self, index: Expr, value: Expr) -> None:
        super().__setitem__(self._start + index, value)

    def vector(self, index: Expr, width: int = 4) -> Expr:
        return super().vector(self._start + index, width)

    def set_vector(self, index: Expr, value: Expr, width: int = 4) -> None:
        super().set_vector(self._start + index, value, width)


class Integers(_Lanes):
    def __init__(self, count: int) -> None:
        super().__init__(count, "int32")


def splat(value: float | Expr, dtype: str) -> Expr:
    """`value` (a number or a scalar expression) in all lanes of `dtype`."""
    scalar, _, width = dtype.partition("x")
    if isinstance(value, (int, float)):
        value = tirx.const(value, scalar)
    return T.Broadcast(value, int(width)) if width else value


def wide(value: float | Expr, lanes: int, dtype: str = "float32") -> Expr:
    """`value` in `lanes` lanes; one lane is a scalar."""
    return splat(value, f"{dtype}x{lanes}" if lanes > 1 else dtype)


def load(buffer: Buffer, index: Expr, width: int = 4) -> Expr:
    return buffer[T.Ramp(index, 1, width)]


def store(buffer: Buffer, index: Expr, value: Expr, width: int = 4) -> None:
    T.buffer_store(buffer, value, [T.Ramp(index, 1, width)] if width > 1 else [index])


def window(buffer: Buffer, start: Expr, dtype: str | None = None) -> Buffer:
    """`buffer` from element `start` on. Constant indices into a window cost no instruction."""
    pointer = bind(T.address_of(buffer[start]))
    return T.decl_buffer((NOMINAL,), dtype or buffer.dtype, data=pointer, layout=None)


def bind(value: Expr) -> Expr:
    """Evaluate once; the expression would otherwise be written out at each use."""
    return T.bind(value)


def tree_sum(values: Sequence[Expr]) -> Expr:
    """Pairwise sum in a fixed shape."""
    items = list(values)
    while len(items) > 1:
        pairs = [items[i] + items[i + 1] for i in range(0, len(items) - 1, 2)]
        items = pairs + items[len(pairs) * 2 :]
    return items[0]


def tree_max(values: Sequence[Expr]) -> Expr:
    items = list(values)
    while len(items) > 1:
        pairs = [tirx.max(items[i], items[i + 1]) for i in range(0, len(items) - 1, 2)]
        items = pairs + items[len(pairs) * 2 :]
    return items[0]


def largest_lane(vector: Expr) -> Expr:
    """The largest of four lanes. In vectors: V8 makes branches of choices between scalars."""
    return _first_lane(_across(vector, tirx.max))


def largest_lanes(vectors: Sequence[Expr]) -> Expr:
    """The largest lane of each of four vectors."""

    def pick(a: Expr, b: Expr, lanes: Sequence[int]) -> Expr:
        return tirx.Shuffle([a, b], [tirx.const(lane, "int32") for lane in lanes])

    def both(a: Expr, b: Expr) -> Expr:
        a, b = bind(a), bind(b)
        return bind(tirx.max(pick(a, b, (0, 4, 1, 5)), pick(a, b, (2, 6, 3, 7))))

    first, second = both(*vectors[:2]), both(*vectors[2:])
    return bind(tirx.max(pick(first, second, (0, 1, 4, 5)), pick(first, second, (2, 3, 6, 7))))


def sum_of_lanes(vector: Expr) -> Expr:
    """`(v[0] + v[1]) + (v[2] + v[3])`."""
    return _first_lane(_across(vector, lambda left, right: left + right))


def _across(vector: Expr, combine: Callable[[Expr, Expr], Expr]) -> Expr:
    for order in ((1, 0, 3, 2), (2, 3, 0, 1)):
        vector = bind(vector)
        vector = combine(vector, tirx.Shuffle([vector], [tirx.const(i, "int32") for i in order]))
    return bind(vector)


def _first_lane(vector: Expr) -> Expr:
    return bind(tirx.Shuffle([vector], [tirx.const(0, "int32")]))
