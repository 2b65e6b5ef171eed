"""Reductions and running sums along axes that are known while running only.

Every axis stands twice in the view of the operand: once with what is kept of it, once with what is folded. One of the
two has the axis' extent and the other has 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.graph_context import GraphContext
from edgec.lower.wasm.graph_values import TensorView, dtype_of
from edgec.lower.wasm.kernels.generic import Tensor
from edgec.lower.wasm.ops.computed import (
    all_of,
    choose,
    emit_numbers,
    flags,
    integers,
    kept_extents,
    operand,
    own,
    wide,
)
from edgec.lower.wasm.ops.cumulative import cumulative
from edgec.lower.wasm.ops.reduce import reduce_expression

Expr = Any


def _reduce(context: GraphContext, node: ir.Node) -> None:
    output, source = node.outputs[0], operand(context, node, 0)
    rank, shape = len(source.shape), context.shape(output)
    noop = bool(node.attributes.get_int("noop_with_empty_axes", 0))
    keep = bool(node.attributes.get_int("keepdims", 1))
    kept = own(context, output, *(f"kept{axis}" for axis in range(rank)))
    folded = own(context, output, *(f"folded{axis}" for axis in range(rank)))
    dims = [dim for dim in shape if dim != 1]
    for name, extent in zip(kept, source.shape, strict=True):
        context.bound(name, extent)

    def body(tensors: Sequence[Tensor]) -> tuple[Expr, list[Expr]]:
        named, inside = flags(tensors[1], rank)
        if not noop:
            none = tirx.EQ(tensors[1].shape[0], T.int32(0))
            named = [choose(none, T.int64(1), flag) for flag in named]
        extents = [wide(extent) for extent in tensors[0].shape]
        one = T.int64(1)
        keeps = [choose(tirx.EQ(f, one), one, extent) for f, extent in zip(named, extents, strict=True)]
        folds = [choose(tirx.EQ(f, one), extent, one) for f, extent in zip(named, extents, strict=True)]
        if keep:
            sizes = [size for size, dim in zip(keeps, shape, strict=True) if dim != 1]
            fits = inside
        else:
            count: Expr = T.int64(0)
            for flag in named:
                count = count + flag
            sizes = kept_extents(tensors[0], named, len(shape))
            fits = all_of([inside, tirx.EQ(count, T.int64(rank - len(shape)))])
        return fits, [*sizes, *keeps, *folds]

    emit_numbers(context, node, (keep, noop), [*dims, *kept], folded, [source, operand(context, node, 1)], body)
    twice = TensorView(
        source.storage, source.dtype, (*kept, *folded), (*source.strides, *source.strides), source.offset
    )
    reduce_expression(context, node, twice, list(range(rank, 2 * rank)))


def _cumulative(context: GraphContext, node: ir.Node) -> None:
    output, source = node.outputs[0], operand(context, node, 0)
    rank, shape = len(source.shape), context.shape(output)
    target = context.allocate(output.name or "cumulative", dtype_of(output), shape, value=output)
    kept = own(context, output, *(f"kept{axis}" for axis in range(rank)))
    length, *steps = own(context, output, "length", "source", "target")

    def body(tensors: Sequence[Tensor]) -> tuple[Expr, list[Expr]]:
        (raw,) = integers(tensors[1])
        axis = choose(raw < 0, raw + rank, raw)
        here = [tirx.EQ(axis, T.int64(i)) for i in range(rank)]
        extents = [wide(extent) for extent in tensors[0].shape]
        keeps = [choose(is_it, T.int64(1), extent) for is_it, extent in zip(here, extents, strict=True)]
        chosen = [_picked(here, values) for values in (extents, tensors[0].strides(), tensors[2].strides())]
        return tirx.And(axis >= 0, axis < rank), [*keeps, *chosen]

    emit_numbers(context, node, None, (), [*kept, length, *steps], [source, operand(context, node, 1), target], body)
    views = [
        TensorView(view.storage, view.dtype, (*kept, length), (*view.strides, step), view.offset)
        for view, step in zip((source, target), steps, strict=True)
    ]
    cumulative(context, node, views[0], views[1], rank)
    context.define(output, target)


def _picked(conditions: Sequence[Expr], values: Sequence[Expr]) -> Expr:
    result: Expr = T.int64(0)
    for condition, value in zip(conditions, values, strict=True):
        result = choose(condition, wide(value), result)
    return result


OPS: dict[str, Callable[[GraphContext, ir.Node], None]] = {
    **dict.fromkeys(
        "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
        "ReduceSumSquare".split(),
        _reduce,
    ),
    "CumProd": _cumulative,
    "CumSum": _cumulative,
}
