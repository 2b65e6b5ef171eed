"""Lowering of a general ONNX graph: one pass over its nodes, each emits kernel calls over placed buffers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence

import onnx_ir as ir

from edgec.errors import ModelError, UnsupportedError
from edgec.ir.compressed import CompressedModel
from edgec.ir.lowered import Dimension
from edgec.lower.wasm.graph_context import GraphConstants, GraphContext, label
from edgec.lower.wasm.graph_dims import fold, symbols, upper_bound
from edgec.lower.wasm.graph_fusion import Group, find_groups
from edgec.lower.wasm.graph_operands import check_operands, computes_shape
from edgec.lower.wasm.graph_parts import kept_values, needed_nodes, states_of
from edgec.lower.wasm.graph_values import (
    ITEM_BYTES,
    TensorView,
    contiguous_strides,
    dtype_of,
    slot_dtype,
    small_float,
    small_integer_bits,
)
from edgec.lower.wasm.kernels.small_floats import FORMATS
from edgec.lower.wasm.ops import (
    algebra,
    attention,
    computed,
    computed_axes,
    computed_selection,
    conv,
    cumulative,
    elementwise,
    fourier,
    gather,
    matmul,
    movement,
    normalization,
    pool,
    quantization,
    recurrent,
    reduce,
    resize,
    sampling,
    scatter,
    selection,
    statistics,
    suppression,
    unique,
    windows,
)
from edgec.lower.wasm.ops.elementwise import float_decoded, float_encoded, integer_wrapped
from edgec.lower.wasm.program import Program
from edgec.passes import dims as d
from edgec.passes.base import is_read
from edgec.passes.dims import Dim
from edgec.passes.infer_shapes import infer

Emitter = Callable[[GraphContext, ir.Node], None]

EMITTERS: Mapping[str, Emitter] = {
    **dict.fromkeys(elementwise.OPS, elementwise.lower),
    **movement.OPS,
    **reduce.OPS,
    **normalization.OPS,
    **gather.OPS,
    **algebra.OPS,
    **cumulative.OPS,
    **fourier.OPS,
    **statistics.OPS,
    **quantization.OPS,
    **recurrent.OPS,
    **sampling.OPS,
    **scatter.OPS,
    **selection.OPS,
    **windows.OPS,
    "Attention": attention.lower,
    "AveragePool": pool.lower,
    "MatMul": matmul.lower,
    "MaxPool": pool.lower,
    "Resize": resize.lower,
}

# For nodes whose shape or form follows from values.
COMPUTING: Mapping[str, Emitter] = {
    **computed.OPS,
    **computed_axes.OPS,
    **computed_selection.OPS,
    **suppression.OPS,
    **unique.OPS,
}

GROUP_EMITTERS: Mapping[str, Callable[[GraphContext, Group], None]] = {
    "Conv": conv.lower_group,
    "MatMul": matmul.lower_group,
}

# Some are gone after `simplify`, or known while compiling.
SUPPORTED_OPS = (
    frozenset(EMITTERS)
    | frozenset(COMPUTING)
    | {
        "Constant",
        "Gemm",
        "MelWeightMatrix",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "Shape",
        "Size",
        "Upsample",
    }
)


def lower_graph(compressed: CompressedModel) -> Program:
    """The program of a graph, an entry point `name(*dims)` for each of its parts; `Program.build` places and links it.

    Raises `UnsupportedError` for an operator, element type or dimension that no kernel handles.
    """
    graph = compressed.model.model.graph
    infer(graph)
    check_operands(graph, COMPUTING.keys())
    unsupported = {n.op_type: label(n) for n in graph if n.op_type not in SUPPORTED_OPS or n.domain != ""}
    if unsupported:
        raise UnsupportedError("no kernels for " + ", ".join(unsupported[name] for name in sorted(unsupported)))
    check_shapes(graph)
    plan = compressed.plan
    bounds = {name: plan.dims[name] for name in _symbols(graph.inputs) if name in plan.dims}
    program = Program("graph", max_threads=plan.max_threads, dims=bounds)
    constants = GraphConstants(program, compressed)
    slots = _Slots(program, {**plan.dims, **bounds})
    groups = find_groups(graph)
    parts = compressed.model.graph_parts()
    kept = {name: kept_values(graph, groups, parts, name) for name in parts}
    for name, part in parts.items():
        inputs = [value for value in graph.inputs if value.name in part.inputs]
        outputs = [value for value in graph.outputs if value.name in part.outputs]
        states = states_of(graph, part)
        before = parts[part.follows].inputs if part.follows is not None else ()
        reached = [value for value in graph.inputs if value.name in (*part.inputs, *part.state.values(), *before)]
        entry = program.entry(name, *_symbols(reached))
        entry.inputs, entry.outputs = part.inputs, part.outputs
        context = GraphContext(constants, entry)
        for value in kept[name]:
            context.define(value, slots.kept(value))
        for value, following in states:
            context.define(value, slots.state(value, following, is_input=True))
            context.outputs[following] = slots.state(value, following, is_input=False)
        handed_on = [value for other, after in parts.items() if after.follows == name for value in kept[other]]
        context.outputs |= {value: slots.kept(value) for value in handed_on}
        wanted = [*outputs, *(following for _, following in states), *handed_on]
        _lower_part(context, graph, groups, slots, inputs, outputs, needed_nodes(graph, wanted, kept[name]))
    return program


def _symbols(values: Sequence[ir.Value]) -> list[str]:
    return symbols([dim for value in values if value.shape is not None for dim in value.shape.dims])


class _Slots:
    """Persistent memory of graph inputs and outputs, each declared once however many parts have it."""

    def __init__(self, program: Program, bounds: Mapping[str, int]) -> None:
        self._program, self._bounds = program, bounds
        self._views: dict[tuple[ir.Value, bool], TensorView] = {}

    def get(self, value: ir.Value, dtype: str, *, is_input: bool) -> TensorView:
        """Memory of the element type `dtype`."""
        if (value, is_input) not in self._views:
            self._views[value, is_input] = self._declare(value, dtype, is_input)
        return self._views[value, is_input]

    def kept(self, value: ir.Value) -> TensorView:
        """Memory between parts for what one computes and the next reads."""
        if value.is_graph_output() and small_float(value) is None:
            return self.get(value, dtype_of(value), is_input=False)
        if (value, False) not in self._views:
            assert value.shape is not None
            shape, dtype = tuple(value.shape.dims), dtype_of(value)
            size = upper_bound(d.product(shape), self._bounds) * ITEM_BYTES[dtype]
            storage = self._program.workspace(value.name or "", size, persistent=True)
            self._views[value, False] = TensorView.whole(storage, dtype, shape)
        return self._views[value, False]

    def state(self, value: ir.Value, following: ir.Value, *, is_input: bool) -> TensorView:
        """One memory for the input `value` and the output `following`, with room for the longest."""
        key = (value, True)
        if key not in self._views:
            assert value.shape is not None and following.shape is not None
            room = [upper_bound(dim, self._bounds) for dim in following.shape.dims]
            dtype = dtype_of(value)
            storage = self._program.workspace(value.name or "", math.prod(room) * ITEM_BYTES[dtype], persistent=True)
            self._views[key] = TensorView(storage, dtype, tuple(value.shape.dims), contiguous_strides(room))
        view = self._views[key]
        assert following.shape is not None
        return view if is_input else dataclasses.replace(view, shape=tuple(following.shape.dims))

    def _declare(self, value: ir.Value, dtype: str, is_input: bool) -> TensorView:
        assert value.shape is not None
        shape = tuple(value.shape.dims)
        size = upper_bound(d.product(shape), self._bounds) * ITEM_BYTES[dtype]
        target = TensorView.whole(self._program.workspace(value.name or "", size, persistent=True), dtype, shape)
        declare = self._program.input if is_input else self._program.output
        declare(value.name or "", slot_dtype(value), tuple(_dimension(dim) for dim in shape), target.storage)
        return target


def _lower_part(
    context: GraphContext,
    graph: ir.Graph,
    groups: Mapping[ir.Node, Group],
    slots: _Slots,
    inputs: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
    nodes: Collection[ir.Node],
) -> None:
    for value in inputs:
        _define_input(context, slots, value)
    encoded: dict[ir.Value, TensorView] = {}  # outputs that are rounded to a small float at the end
    for value in outputs:
        small = small_float(value)
        if small is None:
            context.outputs[value] = slots.get(value, dtype_of(value), is_input=False)
        else:
            encoded[value] = slots.get(value, FORMATS[small].memory, is_input=False)
    _emit(context, graph, groups, nodes)
    for value, target in context.outputs.items():
        _finish(context, value, target)
    for value, target in encoded.items():
        expression = context.operand(value, target.shape)
        context.compute_into(float_encoded(small_float(value) or "", expression), target)


def _emit(context: GraphContext, graph: ir.Graph, groups: Mapping[ir.Node, Group], needed: Collection[ir.Node]) -> None:
    absorbed = {node for group in groups.values() for node in group.nodes}
    last = {group.nodes[-1]: group for group in groups.values()}
    for node in graph:
        if node not in needed:
            continue
        if all(0 in context.shape(value) for value in node.outputs if is_read(value)):
            for value in node.outputs:
                if is_read(value):
                    context.define(value, _empty(context, value))
        elif node in last:
            group = last[node]
            GROUP_EMITTERS[group.anchor.op_type](context, group)
        elif node not in absorbed:
            emitter = (COMPUTING if computes_shape(node) else EMITTERS).get(node.op_type)
            if emitter is None:
                raise UnsupportedError(
                    f"{label(node)} has no kernel in this form",
                    hint="`simplify` the model before it is lowered",
                )
            emitter(context, node)


def _empty(context: GraphContext, value: ir.Value) -> TensorView:
    """A tensor without elements; nothing computes it."""
    return context.allocate(value.name or "empty", dtype_of(value), context.shape(value), value=value)


def check_shapes(graph: ir.Graph) -> None:
    """Raises `UnsupportedError` for a node of whose output not even the number of dimensions is known."""
    for node in graph:
        for value in node.outputs:
            if value.shape is None and (value.uses() or value.is_graph_output()):
                raise UnsupportedError(
                    f"the output shape of {label(node)} depends on the input's content",
                    hint="export the model with fixed shapes there",
                )


def _define_input(context: GraphContext, slots: _Slots, value: ir.Value) -> None:
    small = small_float(value)
    bits = small_integer_bits(value)
    slot = slots.get(value, dtype_of(value) if small is None else FORMATS[small].memory, is_input=True)
    if bits is not None:  # callers may leave the rest of a byte as they like
        context.define(value, context.computed(integer_wrapped(bits, slot)))
    elif small is not None:
        context.define(value, context.computed(float_decoded(small, slot)))
    else:
        context.define(value, slot)


def _dimension(dim: Dim) -> Dimension:
    """A number, or an expression as docs/bundle-format.md writes them."""
    if isinstance(dim, int):
        return dim
    text = str(dim)
    if "floor" not in text:
        return text
    result: str = fold(dim, str, str, lambda operator, left, right: f"({left} {operator} {right})")
    return result.removeprefix("(").removesuffix(")")


def _finish(context: GraphContext, value: ir.Value, target: TensorView) -> None:
    """The value in the output's memory."""
    if value.producer() is None and not value.is_graph_input():
        raise ModelError(f"graph output `{value.name}` has no producer")
    view = context.view(value)
    if view != target:
        context.compute_into(context.operand(value, target.shape), target)
