"""`Unique`: elements, or slices along an axis, once each; how many there are is computed while running."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.graph_context import GraphContext
from edgec.lower.wasm.graph_values import TensorView, dtype_of
from edgec.lower.wasm.kernels.builder import bind
from edgec.lower.wasm.kernels.generic import Body, Sum, Tensor, each
from edgec.lower.wasm.ops.computed import all_of, emit_numbers, held
from edgec.lower.wasm.ops.gather import gathered
from edgec.passes import dims as d
from edgec.passes.base import is_read
from edgec.passes.shape_context import axis_of

Expr = Any


def _unique(context: GraphContext, node: ir.Node) -> None:
    source = node.inputs[0]
    assert source is not None
    view, axis = context.dense(source), 0
    if "axis" in node.attributes:
        axis = axis_of(node.attributes.get_int("axis", 0), len(view.shape))
    else:
        view = TensorView(view.storage, view.dtype, (d.product(view.shape),), (1,), view.offset)
    slices = view.transposed([axis, *(i for i in range(len(view.shape)) if i != axis)])
    size = slices.shape[0]
    ordered = bool(node.attributes.get_int("sorted", 1))
    places, inverse, counts = (context.allocate(name, "int64", [size]) for name in ("places", "inverse", "counts"))
    count, first = context.allocate("count", "int32", [1]), context.allocate("first", "int32", [size])
    context.generic("unique", ordered, [slices], [places, inverse, counts, count, first], _places(ordered))
    dim = context.shape(node.outputs[0])[axis]

    def body(tensors: Sequence[Tensor]) -> tuple[Expr, list[Expr]]:
        return all_of([]), [tensors[0].get([T.int32(0)], "int64")]

    emit_numbers(context, node, None, [dim], (), [count], body)
    short = [TensorView(whole.storage, "int64", (dim,), (1,)) for whole in (places, counts)]
    output = node.outputs[0]
    target = context.allocate(output.name or "unique", dtype_of(output), context.shape(output), value=output)
    gathered(context, view, axis, short[0], target)
    for value, result in zip(node.outputs, (target, short[0], inverse, short[1]), strict=False):
        if is_read(value):
            context.define(value, result)


def _places(ordered: bool) -> Body:
    """Of every slice the first equal one; those are counted, and ranked by value or by place."""

    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        (source,) = inputs
        places, inverse, counts, count, first = outputs
        size, total = source.shape[0], Sum("int32")
        with T.serial(0, size) as i:
            found = Sum("int32", -1)
            with T.serial(0, i) as j, T.If(found.value < 0), T.Then():
                found.set(tirx.Select(tirx.EQ(_order(source, j, i), 0), j, T.int32(-1)))
            first[[i]] = tirx.Select(found.value < 0, i, found.value)
            total.add(tirx.Select(found.value < 0, T.int32(1), T.int32(0)))
        count[[T.int32(0)]] = total.value
        with T.serial(0, size) as i, T.If(tirx.EQ(first[[i]], i)), T.Then():
            rank, same = Sum("int32"), Sum("int64")
            with T.serial(0, size) as j:
                same.add(tirx.Select(tirx.EQ(first[[j]], i), T.int64(1), T.int64(0)))
                with T.If(tirx.EQ(first[[j]], j)), T.Then():
                    before = _order(source, j, i) < 0 if ordered else j < i
                    rank.add(tirx.Select(before, T.int32(1), T.int32(0)))
            places.put([rank.value], i)
            counts[[rank.value]] = same.value
            inverse.put([i], rank.value)
        with T.serial(0, size) as i:
            value = bind(inverse[[first[[i]]]])
            inverse[[i]] = value

    return body


def _order(source: Tensor, one: Expr, other: Expr) -> Expr:
    """-1, 0 or 1: the first difference of two slices."""
    result = Sum("int32")
    with each(source.shape[1:], parallel=False) as rest:
        a, b = bind(source[[one, *rest]]), bind(source[[other, *rest]])
        sign = tirx.Select(a < b, T.int32(-1), tirx.Select(b < a, T.int32(1), T.int32(0)))
        result.set(tirx.Select(tirx.EQ(result.value, 0), sign, result.value))
    return held(result.value)


OPS: dict[str, Callable[[GraphContext, ir.Node], None]] = {"Unique": _unique}
