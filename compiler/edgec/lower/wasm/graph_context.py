"""The state of lowering one graph: what each tensor is, and the kernel calls so far."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy.typing as npt
import onnx_ir as ir
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.ir.compressed import CompressedModel, PackedTensor
from edgec.ir.work import Amount
from edgec.lower.wasm.abi import PrimFunc
from edgec.lower.wasm.graph_dims import to_amount, upper_bound
from edgec.lower.wasm.graph_values import (
    ITEM_BYTES,
    Constant,
    Lazy,
    TensorView,
    dtype_of,
    memory_dtype,
)
from edgec.lower.wasm.kernels.elementwise import Operand, dimension, dimensions, elementwise, smooth_operators
from edgec.lower.wasm.kernels.generic import Body, Layout, Tensor, generic
from edgec.lower.wasm.kernels.generic import dimensions as generic_dimensions
from edgec.lower.wasm.program import Entry, Program, Storage, View
from edgec.lower.wasm.program import Operand as CallOperand
from edgec.lower.wasm.target import Isa
from edgec.lower.wasm.weights import WeightStore
from edgec.lower.wasm.work import Work, plus, times
from edgec.passes import dims as d
from edgec.passes.base import static_shape
from edgec.passes.computed_dims import Names
from edgec.passes.dims import Dim
from edgec.passes.infer_shapes import content_of
from edgec.passes.shape_context import Content, Context

Numbers = Callable[[Sequence[Tensor]], Sequence[Any]]
_FAR = 2**31 - 1

Handle = TensorView | Lazy | Constant


class GraphConstants:
    """Weights of a graph, each once in the program however many parts read it."""

    def __init__(self, program: Program, compressed: CompressedModel) -> None:
        self.program = program
        self.compressed = compressed
        self._store = WeightStore(program, compressed)
        self._plain: dict[str, Storage] = {}
        self._packed: dict[str, tuple[Storage, ...]] = {}

    def plain(self, name: str, data: Callable[[], npt.NDArray[Any]], columns: int = 0) -> Storage:
        """A constant array; `data` is asked once per name."""
        if name not in self._plain:
            self._plain[name] = self.program.weight(name, data(), columns=columns)
        return self._plain[name]

    def packed(self, tensor: PackedTensor) -> tuple[Storage, ...]:
        """Codes, scales and zeros of a quantized matrix."""
        if tensor.name not in self._packed:
            self._packed[tensor.name] = self._store.packed(tensor).storages
        return self._packed[tensor.name]


class GraphContext:
    """One part of a graph, an entry point. Emitters read with `view` and `handle`, and `define` their outputs."""

    def __init__(self, constants: GraphConstants, entry: Entry) -> None:
        self.constants = constants
        self.program = constants.program
        self.entry = entry
        self.bounds: dict[str, int] = {**constants.compressed.plan.dims, **self.program.dims}
        self.outputs: dict[ir.Value, TensorView] = {}
        self._handles: dict[ir.Value, Handle] = {}
        self._names = Names()
        self._numbers: set[str] = set()
        self._cache: dict[Hashable, Any] = {}

    # What tensors are

    def shape(self, value: ir.Value) -> tuple[Dim, ...]:
        assert value.shape is not None
        return tuple(value.shape.dims)

    def content(self, value: ir.Value | None) -> Content | None:
        """The elements of a small integer tensor that are known while compiling."""
        return content_of(value)

    def node_context(self, node: ir.Node) -> Context:
        """The node as the rules of shape inference see it."""
        shapes = [None if v is None or v.shape is None else list(v.shape.dims) for v in node.inputs]
        return Context(node, shapes, [content_of(value) for value in node.inputs])

    @property
    def quantized(self) -> bool:
        """Whether there are matrices in codes. Beside 8 bits nobody sees what 12 or more cost."""
        return bool(self.constants.compressed.packed)

    def packed(self, value: ir.Value | None) -> PackedTensor | None:
        return self.constants.compressed.packed.get(value.name or "") if value is not None else None

    def handle(self, value: ir.Value) -> Handle:
        found = self._handles.get(value)
        if found is not None:
            return found
        if value.const_value is not None:
            found = Constant(value.name or "", dtype_of(value), static_shape(value.const_value), value.const_value)
        else:
            content = content_of(value)
            assert content is not None, f"`{value.name}` has no value"
            found = self._shape_tensor(value, content)
        self._handles[value] = found
        return found

    def define(self, value: ir.Value, handle: Handle) -> None:
        """A lazy expression is computed now unless exactly one operator reads it."""
        if isinstance(handle, Lazy) and (value in self.outputs or len(value.uses()) != 1):
            handle = self.computed(handle, value)
        self._handles[value] = handle

    def view(self, value: ir.Value) -> TensorView:
        """The tensor in memory."""
        handle = self.handle(value)
        if isinstance(handle, TensorView):
            return handle
        view = self.weight_of(handle) if isinstance(handle, Constant) else self.computed(handle, value)
        self._handles[value] = view
        return view

    def dense(self, value: ir.Value) -> TensorView:
        """The tensor in memory, contiguous and at an offset known while compiling."""
        view = self.view(value)
        return view if view.contiguous and isinstance(view.offset, int) else self.copied(view)

    def operand(self, value: ir.Value, shape: Sequence[Dim]) -> Lazy:
        """The tensor as a (part of an) expression over `shape`."""
        handle = self.handle(value)
        if isinstance(handle, Constant) and handle.number is not None:
            return Lazy(("number", handle.number, handle.dtype), (), handle.dtype, tuple(shape))
        if isinstance(handle, Lazy) and self._worth_inlining(handle, shape):
            return handle
        view = self.view(value)
        return Lazy(("leaf", 0), (view,), view.dtype, view.shape)

    def _worth_inlining(self, lazy: Lazy, shape: Sequence[Dim]) -> bool:
        same = len(lazy.shape) == len(shape) and all(d.same(a, b) for a, b in zip(lazy.shape, shape, strict=True))
        return same or lazy.tree[0] in ("leaf", "number")

    # Memory

    def allocate(self, name: str, dtype: str, shape: Sequence[Dim], *, value: ir.Value | None = None) -> TensorView:
        """A new dense tensor; the output's memory when it is graph output `value`."""
        if value is not None and value in self.outputs:
            return self.outputs[value]
        size = upper_bound(d.product(shape), self.bounds) * ITEM_BYTES[dtype]
        return TensorView.whole(self.program.workspace(name, size), dtype, shape)

    def scratch(self, name: str, dtype: str, elements: Dim) -> TensorView:
        return self.allocate(name, dtype, [elements])

    def weight(self, name: str, data: Callable[[], npt.NDArray[Any]], columns: int = 0) -> Storage:
        """A constant in the weights region; `data` is asked once per name, `columns` is that of `WeightPlacement`."""
        return self.constants.plain(name, data, columns)

    def weight_of(self, constant: Constant) -> TensorView:
        storage = self.weight(constant.name, constant.array)
        return TensorView.whole(storage, constant.dtype, constant.shape)

    def computed(self, lazy: Lazy, value: ir.Value | None = None) -> TensorView:
        """A lazy expression, calculated into new memory."""
        name = (value.name if value is not None else None) or "expression"
        target = self.allocate(name, lazy.dtype, lazy.shape, value=value)
        self.compute_into(lazy, target)
        return target

    def copied(self, view: TensorView, value: ir.Value | None = None) -> TensorView:
        return self.computed(Lazy(("leaf", 0), (view,), view.dtype, view.shape), value)

    def compute_into(self, lazy: Lazy, target: TensorView) -> None:
        """The kernel call that evaluates `lazy`, broadcast to the target's shape."""
        if 0 in target.shape:
            return
        leaves = [self.broadcast(leaf, target.shape) for leaf in lazy.leaves]
        operands = [Operand(leaf.dtype, leaf.strides, symbolic(leaf.offset)) for leaf in leaves]
        output = Operand(target.dtype, target.strides, symbolic(target.offset))
        shape = target.shape
        self.call(
            ("elementwise", lazy.tree, tuple(operands), output, shape),
            lambda isa: elementwise(lazy.tree, operands, output, shape),
            [*leaves, target],
            dimensions([*operands, output], shape),
            work=Work(
                activations=activation_bytes([*leaves, target]),
                functions=times(_elements(target), smooth_operators(lazy.tree)),
                shape=_shape(target),
            ),
        )

    def _shape_tensor(self, value: ir.Value, content: Content) -> Handle:
        """A small integer tensor of symbolic dimensions, written by one kernel call per element."""
        target = self.allocate(value.name or "shape", dtype_of(value), self.shape(value), value=value)
        for index, dim in enumerate(content):
            self._write_dimension(target, memory_dtype(target.dtype), index, dim)
        return target

    def _write_dimension(self, target: TensorView, dtype: str, index: int, dim: Dim) -> None:
        names = dimensions([], [dim])
        self.call(("dimension", dim, dtype, index), lambda isa: dimension(dim, dtype, index), [target], names)

    # Calls

    def call(
        self,
        key: tuple[Hashable, ...],
        make: Callable[[Isa], PrimFunc],
        buffers: Sequence[TensorView | Storage],
        scalars: Sequence[Any] = (),
        *,
        work: Work | None = None,
    ) -> None:
        """Call the kernel that `make` makes; equal keys share one. `work` None: every buffer read or written once."""
        operands: list[CallOperand] = [address(buffer) for buffer in buffers]
        work = work or Work(activations=activation_bytes(buffers), shape=_shape(buffers[-1]))
        self.entry.call(self.program.kernel(key, make), *operands, *scalars, work=work)

    def generic(
        self,
        name: str,
        attributes: Hashable,
        inputs: Sequence[TensorView],
        outputs: Sequence[TensorView],
        body: Body,
        work: Work | None = None,
    ) -> None:
        """Call the generic kernel that `body` writes; it may depend on `attributes` and the tensors' layouts alone."""
        if all(0 in view.shape for view in outputs):
            return
        layouts = [[Layout(v.dtype, v.shape, v.strides, symbolic(v.offset)) for v in vs] for vs in (inputs, outputs)]
        self.call(
            (name, attributes, *map(tuple, layouts)),
            lambda isa: generic(layouts[0], layouts[1], body),
            [*inputs, *outputs],
            generic_dimensions(layouts[0], layouts[1]),
            work=work,
        )

    def numbers(
        self,
        kind: str,
        attributes: Hashable,
        bounds: Mapping[str, int | None],
        inputs: Sequence[TensorView],
        body: Numbers,
    ) -> None:
        """Computes int32 numbers that dimensions, strides and offsets may name from then on.

        `body(tensors)` gives their values in the order of `bounds`, as int64 expressions. A bound of None lets a number
        be anything; the others end the run when they are negative or too large.
        """
        layouts = [Layout(v.dtype, v.shape, v.strides, symbolic(v.offset)) for v in inputs]
        words = Layout("int32", (len(bounds),), (1,))

        def write(tensors: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
            for index, (value, bound) in enumerate(zip(body(tensors), bounds.values(), strict=True)):
                least = -_FAR if bound is None else -1
                outputs[0][[T.int32(index)]] = T.Cast("int32", tirx.max(T.int64(least), tirx.min(value, T.int64(_FAR))))

        unbounded = tuple(bound is None for bound in bounds.values())
        kernel = self.program.kernel(
            (f"{kind}_numbers", attributes, *layouts, unbounded), lambda isa: generic(layouts, [words], write)
        )
        operands: list[CallOperand] = [*(address(view) for view in inputs), self.program.number_words(bounds)]
        work = Work(activations=activation_bytes(inputs))
        names = generic_dimensions(layouts, [words])
        self.entry.call(kernel, *operands, *names, work=work, numbers=tuple(bounds))
        self._numbers.update(bounds)
        self.bounds |= {name: bound for name, bound in bounds.items() if bound is not None}

    def number_base(self, value: ir.Value) -> str:
        """The first part of the names of a value's own numbers."""
        return self._names.of(value)

    def bound(self, name: Dim, most: Dim) -> None:
        """Says that a number of one node's own is at most as large as `most` can be."""
        self.bounds[str(name)] = max(1, upper_bound(most, self.bounds))

    def has_number(self, dim: Dim) -> bool:
        """Whether the dimension has been computed already."""
        return str(dim) in self._numbers

    def bounded(self, *dims: Dim) -> dict[str, int | None]:
        """New computed dimensions, with the bounds of the plan."""
        return {str(dim): upper_bound(dim, self.bounds) for dim in dims}

    def broadcast(self, view: TensorView, shape: Sequence[Dim]) -> TensorView:
        """The view in a larger shape; that a computed dimension is 1 or what it must be is checked while running."""
        for dim, wanted in zip(view.shape, shape[len(shape) - len(view.shape) :], strict=True):
            if (d.computed(dim) or d.computed(wanted)) and dim != 1 and not d.same(dim, wanted):
                self.once(("match", dim, wanted), functools.partial(self._check_match, dim, wanted))
        return view.broadcast(shape)

    def require_same(self, one: Dim, other: Dim) -> None:
        """Two dimensions that must be equal are compared while running if one of them is computed."""
        if (d.computed(one) or d.computed(other)) and not d.same(one, other):
            self.once(("equal", one, other), functools.partial(self._check_match, one, other, or_one=False))

    def _check_match(self, dim: Dim, wanted: Dim, *, or_one: bool = True) -> None:
        """Dimensions travel into the kernel as the shape of a tensor that it does not read."""
        shapes = TensorView.whole(self.program.workspace("nothing", 0), "uint8", [dim, wanted])

        def body(tensors: Sequence[Tensor]) -> Sequence[Any]:
            own, other = tensors[0].shape
            fits = tirx.EQ(own, other)
            if or_one:
                fits = tirx.Or(fits, tirx.EQ(own, T.int32(1)))
            return [tirx.Select(fits, T.int64(0), T.int64(-1))]

        name = f"shapes.fit{len(self.program.numbers)}"
        self.numbers("match", or_one, {name: 0}, [shapes], body)

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """`make()` the first time, the same result afterwards."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]


def activation_bytes(buffers: Sequence[TensorView | Storage]) -> Amount:
    """Bytes of the tensors among `buffers` that are no weights; elements that are repeated count once."""
    views = [view for view in buffers if isinstance(view, TensorView) and view.storage.region != "weights"]
    return plus(0, *(times(_elements(view), ITEM_BYTES[view.dtype]) for view in views))


def _shape(buffer: TensorView | Storage) -> str:
    return "x".join(str(dim) for dim in buffer.shape) if isinstance(buffer, TensorView) else ""


def _elements(view: TensorView) -> Amount:
    return to_amount(*(dim for dim, stride in zip(view.shape, view.strides, strict=True) if stride != 0))


def label(node: ir.Node) -> str:
    """The node in a message."""
    return f"`{node.op_type}` ({node.name or node.outputs[0].name})"


def symbolic(offset: Dim) -> Dim:
    """The part of an offset that the kernel adds; a number goes into the address."""
    return 0 if isinstance(offset, int) else offset


def address(buffer: TensorView | Storage) -> Storage | View:
    if isinstance(buffer, Storage):
        return buffer
    if isinstance(buffer.offset, int) and buffer.offset:
        return buffer.storage.at(buffer.offset * ITEM_BYTES[buffer.dtype])
    return buffer.storage
