"""Operators that pick as many elements as their values say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.graph_context import GraphContext
from edgec.lower.wasm.graph_values import TensorView, dtype_of
from edgec.lower.wasm.kernels.generic import Sum, Tensor, each
from edgec.lower.wasm.ops.computed import all_of, computed_dims, emit_numbers, operand
from edgec.lower.wasm.ops.gather import gathered
from edgec.passes import dims as d
from edgec.passes.shape_context import axis_of

Expr = Any


def _compress(context: GraphContext, node: ir.Node) -> None:
    output, view = node.outputs[0], operand(context, node, 0)
    condition = operand(context, node, 1)
    axis = 0
    if "axis" in node.attributes:
        axis = axis_of(node.attributes.get_int("axis", 0), len(view.shape))
    else:
        flat = context.copied(view).reshaped([d.product(view.shape)])
        assert flat is not None
        view = flat
    (dim,) = computed_dims(context, output)

    def body(tensors: Sequence[Tensor]) -> tuple[Expr, list[Expr]]:
        count = Sum("int64", 0)
        with T.serial(0, tensors[1].shape[0]) as i:
            count.add(tirx.Select(tensors[1][[i]], T.int64(1), T.int64(0)))
        return tensors[1].shape[0] <= tensors[0].shape[axis], [count.value]

    emit_numbers(context, node, axis, [dim], (), [view, condition], body)
    places = context.allocate("places", "int32", [dim])
    context.generic("true_places", None, [condition], [places], _true_places)
    target = context.allocate(output.name or "compress", dtype_of(output), context.shape(output), value=output)
    gathered(context, view, axis, places, target)
    context.define(output, target)


def _true_places(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    count = Sum("int32", 0)
    with T.serial(0, inputs[0].shape[0]) as i, T.If(inputs[0][[i]]), T.Then():
        outputs[0][[count.value]] = i
        count.add(T.int32(1))


def _non_zero(context: GraphContext, node: ir.Node) -> None:
    output, source = node.outputs[0], operand(context, node, 0)
    if not source.shape:  # a scalar is a vector of one
        source = TensorView(source.storage, source.dtype, (1,), (1,), source.offset)
    dims = computed_dims(context, output)

    def body(tensors: Sequence[Tensor]) -> tuple[Expr, list[Expr]]:
        count = Sum("int64", 0)
        with each(tensors[0].shape, parallel=False) as index:
            count.add(tirx.Select(_is_true(tensors[0], index), T.int64(1), T.int64(0)))
        return all_of([]), [count.value]

    emit_numbers(context, node, None, dims, (), [source], body)
    target = context.allocate(output.name or "places", "int64", context.shape(output), value=output)
    context.generic("non_zero", None, [source], [target], _non_zero_places)
    context.define(output, target)


def _is_true(tensor: Tensor, index: Sequence[Expr]) -> Expr:
    value = tensor[index]
    return value if tensor.dtype == "bool" else tirx.NE(value, tirx.const(0, tensor.dtype))


def _non_zero_places(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    count = Sum("int32", 0)
    with each(inputs[0].shape, parallel=False) as index, T.If(_is_true(inputs[0], index)), T.Then():
        for axis, place in enumerate(index):
            outputs[0].put([T.int32(axis), count.value], place)
        count.add(T.int32(1))


OPS: dict[str, Callable[[GraphContext, ir.Node], None]] = {
    "Compress": _compress,
    "NonZero": _non_zero,
}
