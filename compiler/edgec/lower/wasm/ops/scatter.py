"""Writing at computed places, and GatherND, which reads at such."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.graph_context import GraphContext
from edgec.lower.wasm.graph_values import TensorView, dtype_of
from edgec.lower.wasm.kernels.builder import Expr, bind
from edgec.lower.wasm.kernels.elementwise_operators import OPERATORS
from edgec.lower.wasm.kernels.generic import Body, Tensor, each, inside, wrapped
from edgec.passes.shape_context import axis_of

_REDUCTIONS = {"add": "Add", "max": "Max", "min": "Min", "mul": "Mul"}


def scatter_elements(context: GraphContext, node: ir.Node) -> None:
    axis = axis_of(node.attributes.get_int("axis", 0), len(context.shape(node.outputs[0])))
    _scatter(context, node, "scatter_elements", lambda reduction: _elements(axis, reduction), axis)


def scatter_nd(context: GraphContext, node: ir.Node) -> None:
    _scatter(context, node, "scatter_nd", _nd, 0)


def _scatter(
    context: GraphContext, node: ir.Node, name: str, body: Callable[[str | None], Body], attribute: int
) -> None:
    data, indices, updates = node.inputs[0], node.inputs[1], node.inputs[2]
    assert data is not None and indices is not None and updates is not None
    reduction = _REDUCTIONS.get(node.attributes.get_string("reduction", "none"))
    target = _copy(context, data, node.outputs[0])
    operands = [context.view(indices), context.view(updates)]
    context.generic(name, (attribute, reduction), operands, [target], body(reduction))
    context.define(node.outputs[0], target)


def _copy(context: GraphContext, data: ir.Value, output: ir.Value) -> TensorView:
    shape = context.shape(output)
    target = context.allocate(output.name or "scatter", dtype_of(output), shape, value=output)
    context.compute_into(context.operand(data, shape), target)
    return target


def _store(target: Tensor, index: list[Expr], value: Expr, reduction: str | None) -> None:
    """Outside of the tensor nothing is written."""
    valid = tirx.const(True, "bool")
    for place, size in zip(index, target.shape, strict=True):
        valid = tirx.And(valid, inside(place, size))
    with T.If(valid), T.Then():
        value = value if reduction is None else OPERATORS[reduction]({}, target.dtype, [target[index], value])
        target[index] = value


def _elements(axis: int, reduction: str | None) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        (indices, updates), (target,) = inputs, outputs
        with each(indices.shape, parallel=False) as index:
            place = list(index)
            place[axis] = wrapped(indices[index], target.shape[axis])
            _store(target, place, updates[index], reduction)

    return body


def _nd(reduction: str | None) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        (indices, updates), (target,) = inputs, outputs
        depth = indices.layout.shape[-1]
        assert isinstance(depth, int)
        updates_rank = indices.rank - 1
        with each(updates.shape, parallel=False) as index:
            place = [wrapped(indices[[*index[:updates_rank], T.int32(i)]], target.shape[i]) for i in range(depth)]
            _store(target, [*place, *index[updates_rank:]], updates[index], reduction)

    return body


def gather_nd(context: GraphContext, node: ir.Node) -> None:
    data, indices, output = node.inputs[0], node.inputs[1], node.outputs[0]
    assert data is not None and indices is not None
    batch = node.attributes.get_int("batch_dims", 0)
    target = context.allocate(output.name or "gather", dtype_of(output), context.shape(output), value=output)
    context.generic("gather_nd", batch, [context.view(data), context.view(indices)], [target], _gather(batch))
    context.define(output, target)


def _gather(batch: int) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        (data, indices), (target,) = inputs, outputs
        depth = indices.layout.shape[-1]
        assert isinstance(depth, int)
        outer = indices.rank - 1
        with each(target.shape) as index:
            place = [wrapped(indices[[*index[:outer], T.int32(i)]], data.shape[batch + i]) for i in range(depth)]
            target[index] = data[[*index[:batch], *place, *index[outer:]]]

    return body


def tensor_scatter(context: GraphContext, node: ir.Node) -> None:
    """A part of a cache is replaced, from a position per batch entry on, round its end if it is circular."""
    past, update, output = node.inputs[0], node.inputs[1], node.outputs[0]
    assert past is not None and update is not None
    starts = node.inputs[2] if len(node.inputs) > 2 else None
    shape = context.shape(output)
    axis = axis_of(node.attributes.get_int("axis", -2), len(shape))
    circular = node.attributes.get_string("mode", "linear") == "circular"
    target = _copy(context, past, output)
    operands = [context.view(update), *([context.view(starts)] if starts is not None else [])]
    context.generic("tensor_scatter", (axis, circular), operands, [target], _cache(axis, circular))
    context.define(output, target)


def _cache(axis: int, circular: bool) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        update, target = inputs[0], outputs[0]
        with each(update.shape, parallel=False) as index:
            start = T.Cast("int32", inputs[1][[index[0]]]) if len(inputs) > 1 else T.int32(0)
            place = bind(start + index[axis])
            if circular:
                place = bind(tirx.truncmod(place, target.shape[axis]))
            _store(target, [*index[:axis], place, *index[axis + 1 :]], update[index], None)

    return body


OPS: dict[str, Callable[[GraphContext, ir.Node], None]] = {
    "GatherND": gather_nd,
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "TensorScatter": tensor_scatter,
}
