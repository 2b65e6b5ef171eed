"""Lowering of a general ONNX graph: one pass over its nodes, each emits kernel calls over placed buffers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from edgec.errors import ModelError, UnsupportedError
from edgec.ir.compressed import CompressedModel
from edgec.ir.lowered import Dimension
from edgec.lower.wasm.graph_context import GraphConstants, GraphContext, label
from edgec.lower.wasm.graph_dims import symbols, upper_bound
from edgec.lower.wasm.graph_fusion import Group, find_groups, weight_of_matmul
from edgec.lower.wasm.graph_operands import DECIDING, check_operands
from edgec.lower.wasm.graph_values import ITEM_BYTES, TensorView, dtype_of, slot_dtype, small_float, small_integer_bits
from edgec.lower.wasm.kernels.small_floats import FORMATS
from edgec.lower.wasm.ops import (
    algebra,
    attention,
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
    windows,
)
from edgec.lower.wasm.ops.elementwise import float_decoded, float_encoded, integer_wrapped
from edgec.lower.wasm.program import Program
from edgec.passes import dims as d
from edgec.passes.base import is_read
from edgec.passes.dims import Dim
from edgec.passes.infer_shapes import content_of, infer

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

GROUP_EMITTERS: Mapping[str, Callable[[GraphContext, Group], None]] = {
    "Conv": conv.lower_group,
    "MatMul": matmul.lower_group,
}

# Some are gone after `simplify`, or known while compiling.
SUPPORTED_OPS = frozenset(EMITTERS) | {
    "Constant",
    "Gemm",
    "MelWeightMatrix",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Shape",
    "Size",
    "Upsample",
}


def lower_graph(compressed: CompressedModel) -> Program:
    """The program of a graph, an entry point `name(*dims)` for each of its parts; `Program.build` places and links it.

    Raises `UnsupportedError` for an operator, element type or dimension that no kernel handles.
    """
    graph = compressed.model.model.graph
    infer(graph)
    check_operands(graph)
    unsupported = {n.op_type: label(n) for n in graph if n.op_type not in SUPPORTED_OPS or n.domain != ""}
    if unsupported:
        raise UnsupportedError("no kernels for " + ", ".join(unsupported[name] for name in sorted(unsupported)))
    _check_shapes(graph)
    plan = compressed.plan
    bounds = {name: plan.dims[name] for name in _symbols(graph.inputs) if name in plan.dims}
    program = Program("graph", max_threads=plan.max_threads, dims=bounds)
    constants = GraphConstants(program, compressed)
    slots = _Slots(program, bounds)
    groups = find_groups(graph)
    for name, part in compressed.model.graph_parts().items():
        inputs = [value for value in graph.inputs if value.name in part.inputs]
        outputs = [value for value in graph.outputs if value.name in part.outputs]
        entry = program.entry(name, *_symbols(inputs))
        entry.inputs, entry.outputs = part.inputs, part.outputs
        _lower_part(GraphContext(constants, entry), graph, groups, slots, inputs, outputs)
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
    _emit(context, graph, groups, outputs)
    for value, target in context.outputs.items():
        _finish(context, value, target)
    for value, target in encoded.items():
        expression = context.operand(value, target.shape)
        context.compute_into(float_encoded(small_float(value) or "", expression), target)


def _emit(context: GraphContext, graph: ir.Graph, groups: Mapping[ir.Node, Group], outputs: Sequence[ir.Value]) -> None:
    absorbed = {node for group in groups.values() for node in group.nodes}
    last = {group.nodes[-1]: group for group in groups.values()}
    needed = _needed(outputs)
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
            emitter = EMITTERS.get(node.op_type)
            if emitter is None:
                raise UnsupportedError(
                    f"{label(node)} has no kernel in this form",
                    hint="`simplify` the model before it is lowered",
                )
            emitter(context, node)


def _empty(context: GraphContext, value: ir.Value) -> TensorView:
    """A tensor without elements; nothing computes it."""
    return context.allocate(value.name or "empty", dtype_of(value), context.shape(value), value=value)


def _check_shapes(graph: ir.Graph) -> None:
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
    return dim if isinstance(dim, int) else str(dim)


def _needed(outputs: Sequence[ir.Value]) -> set[ir.Node]:
    """Nodes whose results are read as tensors; shapes that are known while compiling need none."""
    needed: set[ir.Node] = set()
    wanted = list(outputs)
    while wanted:
        value = wanted.pop()
        node = value.producer()
        if node is None or node in needed or content_of(value) is not None:
            continue
        needed.add(node)
        wanted += [
            source for index, source in enumerate(node.inputs) if source is not None and not _is_shape(node, index)
        ]
    return needed


def _is_shape(node: ir.Node, index: int) -> bool:
    """Also weights of linear layers, which `ops/linear.py` brings into another order."""
    if node.op_type == "MatMul" and index == 1:
        return weight_of_matmul(node) is not None
    return any(index == deciding for deciding, _ in DECIDING.get(node.op_type, ()))


def _finish(context: GraphContext, value: ir.Value, target: TensorView) -> None:
    """The value in the output's memory."""
    if value.producer() is None and not value.is_graph_input():
        raise ModelError(f"graph output `{value.name}` has no producer")
    view = context.view(value)
    if view != target:
        context.compute_into(context.operand(value, target.shape), target)
