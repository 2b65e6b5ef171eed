"""Reductions, also of expressions that nothing else reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from edgec.lower.wasm.graph_context import GraphContext, symbolic
from edgec.lower.wasm.graph_values import Lazy, TensorView, dtype_of
from edgec.lower.wasm.kernels.elementwise import Operand, dimensions
from edgec.lower.wasm.kernels.reduction import REDUCTIONS, arg_extreme, reduction
from edgec.lower.wasm.ops.elementwise import combine
from edgec.passes.dims import Dim
from edgec.passes.shape_context import axis_of

_KINDS = {
    "ReduceL1": "sum",
    "ReduceL2": "sum",
    "ReduceLogSum": "sum",
    "ReduceMax": "max",
    "ReduceMean": "mean",
    "ReduceMin": "min",
    "ReduceProd": "prod",
    "ReduceSum": "sum",
    "ReduceSumSquare": "sum",
}


def reduce(context: GraphContext, node: ir.Node) -> None:
    source = node.inputs[0]
    assert source is not None
    shape = context.shape(source)
    reduce_expression(context, node, context.operand(source, shape), _axes(context, node, len(shape)))


def reduce_expression(context: GraphContext, node: ir.Node, source: Lazy | TensorView, axes: Sequence[int]) -> None:
    """What the node computes of `source`, over axes of it."""
    output = node.outputs[0]
    expression = source if isinstance(source, Lazy) else _leaf(source)
    if expression.dtype == "bool":
        as_number = reduced(context, _KINDS[node.op_type], _cast("uint8", expression), axes, context.shape(output))
        context.define(output, _cast("bool", _leaf(as_number)))
        return
    if node.op_type == "ReduceL1":
        expression = _applied("Abs", expression)
    elif node.op_type in ("ReduceL2", "ReduceSumSquare"):
        expression = _squared(context, expression)
    elif node.op_type == "ReduceLogSumExp":
        context.define(output, _log_sum_exp(context, expression, axes, context.shape(output)))
        return
    result = reduced(context, _KINDS[node.op_type], expression, axes, context.shape(output), output)
    after = {"ReduceL2": "Sqrt", "ReduceLogSum": "Log"}.get(node.op_type)
    if after is None:
        context.define(output, result)
    else:
        context.define(output, _applied(after, _leaf(result)))


def _axes(context: GraphContext, node: ir.Node, rank: int) -> list[int]:
    content = context.content(node.inputs[1]) if len(node.inputs) > 1 else None
    axes = [int(axis) for axis in content or () if isinstance(axis, int)] or list(
        node.attributes.get_ints("axes") or []
    )
    if not axes and node.attributes.get_int("noop_with_empty_axes", 0) != 0:
        return []
    return sorted(axis_of(axis, rank) for axis in axes) or list(range(rank))


def reduced(
    context: GraphContext,
    kind: str,
    expression: Lazy,
    axes: Sequence[int],
    shape: Sequence[Dim],
    value: ir.Value | None = None,
) -> TensorView:
    """The reduction of an expression as a tensor of `shape` (with or without the reduced axes)."""
    rank = len(expression.shape)
    order = [axis for axis in range(rank) if axis not in axes] + list(axes)
    kept = [expression.shape[axis] for axis in order[: rank - len(axes)]]
    folded = [expression.shape[axis] for axis in axes]
    leaves = [context.broadcast(leaf, expression.shape).transposed(order) for leaf in expression.leaves]
    operands = [Operand(leaf.dtype, leaf.strides, symbolic(leaf.offset)) for leaf in leaves]
    if 0 in folded:
        return context.computed(_of_nothing(kind, expression.dtype, shape), value)
    name = (value.name if value is not None else None) or kind
    target = context.allocate(name, expression.dtype, shape, value=value if _final(context, value, kind) else None)
    context.call(
        ("reduce", kind, expression.tree, tuple(operands), expression.dtype, tuple(kept), tuple(folded)),
        lambda isa: reduction(kind, expression.tree, operands, expression.dtype, kept, folded),
        [*leaves, target],
        dimensions(operands, [*kept, *folded]),
    )
    return target


def _of_nothing(kind: str, dtype: str, shape: Sequence[Dim]) -> Lazy:
    """What a reduction of no elements is."""
    number = float("nan") if kind == "mean" else REDUCTIONS[kind].initial(dtype)
    return Lazy(("number", number, dtype), (), dtype, tuple(shape))


def _final(context: GraphContext, value: ir.Value | None, kind: str) -> bool:
    node = value.producer() if value is not None else None
    return node is not None and node.op_type not in ("ReduceL2", "ReduceLogSum")


def _leaf(view: TensorView) -> Lazy:
    return Lazy(("leaf", 0), (view,), view.dtype, view.shape)


def _applied(operator: str, expression: Lazy) -> Lazy:
    tree, leaves = combine(operator, {}, expression.dtype, [expression])
    return Lazy(tree, leaves, expression.dtype, expression.shape)


def _cast(dtype: str, expression: Lazy) -> Lazy:
    tree, leaves = combine("Cast", {}, dtype, [expression])
    return Lazy(tree, leaves, dtype, expression.shape)


def _squared(context: GraphContext, expression: Lazy) -> Lazy:
    if expression.tree[0] != "leaf":
        expression = _leaf(context.computed(expression))
    tree, leaves = combine("Mul", {}, expression.dtype, [expression, expression])
    return Lazy(tree, leaves, expression.dtype, expression.shape)


def _log_sum_exp(context: GraphContext, expression: Lazy, axes: Sequence[int], shape: Sequence[Dim]) -> Lazy:
    """max + log(sum(exp(x - max)))."""
    if expression.tree[0] != "leaf":
        expression = _leaf(context.computed(expression))
    kept = tuple(1 if axis in axes else dim for axis, dim in enumerate(expression.shape))
    peak = reduced(context, "max", expression, axes, kept)
    tree, leaves = combine("Sub", {}, expression.dtype, [expression, _leaf(peak)])
    shifted = _applied("Exp", Lazy(tree, leaves, expression.dtype, expression.shape))
    total = reduced(context, "sum", shifted, axes, shape)
    flat_peak = peak.reshaped(shape)
    assert flat_peak is not None
    tree, leaves = combine("Add", {}, expression.dtype, [_applied("Log", _leaf(total)), _leaf(flat_peak)])
    return Lazy(tree, leaves, expression.dtype, tuple(shape))


def arg(context: GraphContext, node: ir.Node) -> None:
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    view = context.view(source)
    axis = axis_of(node.attributes.get_int("axis", 0), len(view.shape))
    moved = view.transposed([i for i in range(len(view.shape)) if i != axis] + [axis])
    operand = Operand(moved.dtype, moved.strides, symbolic(moved.offset))
    kept, length = moved.shape[:-1], moved.shape[-1]
    largest, last = node.op_type == "ArgMax", bool(node.attributes.get_int("select_last_index", 0))
    target = context.allocate(output.name or "arg", dtype_of(output), context.shape(output), value=output)
    context.call(
        ("arg", largest, last, operand, kept, length),
        lambda isa: arg_extreme(largest, last, operand, kept, length),
        [moved, target],
        dimensions([operand], [*kept, length]),
    )
    context.define(output, target)


OPS: dict[str, Callable[[GraphContext, ir.Node], None]] = {
    **dict.fromkeys([*_KINDS, "ReduceLogSumExp"], reduce),
    "ArgMax": arg,
    "ArgMin": arg,
}
