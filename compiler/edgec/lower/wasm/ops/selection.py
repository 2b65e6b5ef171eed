"""Operators that pick elements: by order, by position, by a mask known while compiling."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.graph_context import GraphContext
from edgec.lower.wasm.graph_values import TensorView, dtype_of
from edgec.lower.wasm.kernels.builder import bind
from edgec.lower.wasm.kernels.generic import Body, Sum, Tensor, each
from edgec.lower.wasm.kernels.reduction import REDUCTIONS
from edgec.lower.wasm.ops.gather import taken
from edgec.passes import dims as d
from edgec.passes.base import constant
from edgec.passes.shape_context import axis_of


def _target(context: GraphContext, output: ir.Value) -> TensorView:
    return context.allocate(output.name or "selection", dtype_of(output), context.shape(output), value=output)


def top_k(context: GraphContext, node: ir.Node) -> None:
    source = node.inputs[0]
    values, indices = node.outputs
    assert source is not None
    view = context.view(source)
    axis = axis_of(node.attributes.get_int("axis", -1), len(view.shape))
    largest = bool(node.attributes.get_int("largest", 1))
    targets = [_target(context, values), _target(context, indices)]
    context.generic("top_k", (axis, largest), [view], targets, _top_k(axis, largest))
    context.define(values, targets[0])
    context.define(indices, targets[1])


def _top_k(axis: int, largest: bool) -> Body:
    """The k-th is the best of those behind the (k-1)-th; of equal ones the first comes first."""

    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        (source,), (values, indices) = inputs, outputs
        with each([*source.shape[:axis], *source.shape[axis + 1 :]]) as others:
            last, last_place = Sum(source.dtype), Sum("int32", -1)
            with T.serial(0, values.shape[axis]) as rank:
                best, place = Sum(source.dtype), Sum("int32", -1)
                with T.serial(0, source.shape[axis]) as i:
                    value = bind(source[[*others[:axis], i, *others[axis:]]])
                    worse = value < last.value if largest else value > last.value
                    equal = tirx.And(tirx.EQ(value, last.value), i > last_place.value)
                    behind = tirx.Or(tirx.EQ(last_place.value, T.int32(-1)), tirx.Or(worse, equal))
                    better = value > best.value if largest else value < best.value
                    chosen = bind(tirx.And(behind, tirx.Or(tirx.EQ(place.value, T.int32(-1)), better)))
                    best.set(tirx.Select(chosen, value, best.value))
                    place.set(tirx.Select(chosen, i, place.value))
                at = [*others[:axis], rank, *others[axis:]]
                values[at] = best.value
                indices.put(at, place.value)
                last.set(best.value)
                last_place.set(place.value)

    return body


def one_hot(context: GraphContext, node: ir.Node) -> None:
    indices, values, output = node.inputs[0], node.inputs[2], node.outputs[0]
    assert indices is not None and values is not None
    axis = axis_of(node.attributes.get_int("axis", -1), len(context.shape(output)))
    target = _target(context, output)
    context.generic("one_hot", axis, [context.view(indices), context.view(values)], [target], _one_hot(axis))
    context.define(output, target)


def _one_hot(axis: int) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        (indices, values), (target,) = inputs, outputs
        depth = target.shape[axis]
        with each(target.shape) as index:
            place = bind(indices.get([*index[:axis], *index[axis + 1 :]], "int32"))
            place = bind(tirx.Select(place < 0, place + depth, place))
            hot = tirx.EQ(place, index[axis])
            target[index] = tirx.Select(hot, values[[T.int32(1)]], values[[T.int32(0)]])

    return body


def trilu(context: GraphContext, node: ir.Node) -> None:
    source, output = node.inputs[0], node.outputs[0]
    diagonal = node.inputs[1] if len(node.inputs) > 1 else None
    assert source is not None
    upper = bool(node.attributes.get_int("upper", 1))
    target = _target(context, output)
    operands = [context.view(value) for value in (source, diagonal) if value is not None]
    context.generic("trilu", upper, operands, [target], _trilu(upper))
    context.define(output, target)


def _trilu(upper: bool) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        source, target = inputs[0], outputs[0]
        diagonal = T.int64(0)
        if len(inputs) > 1:
            diagonal = bind(inputs[1].get([T.int32(0)] * inputs[1].rank, "int64"))
        zero = tirx.const(0, source.dtype)
        with each(source.shape) as index:
            distance = T.Cast("int64", index[-1] - index[-2])
            kept = distance >= diagonal if upper else distance <= diagonal
            target[index] = tirx.Select(kept, source[index], zero)

    return body


def eye_like(context: GraphContext, node: ir.Node) -> None:
    output = node.outputs[0]
    diagonal = node.attributes.get_int("k", 0)
    target = _target(context, output)
    context.generic("eye_like", diagonal, [], [target], _eye(diagonal))
    context.define(output, target)


def _eye(diagonal: int) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        with each(outputs[0].shape) as index:
            one = tirx.EQ(index[1] - index[0], T.int32(diagonal))
            dtype = outputs[0].dtype
            outputs[0][index] = one if dtype == "bool" else T.Cast(dtype, one)

    return body


def hardmax(context: GraphContext, node: ir.Node) -> None:
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    view = context.view(source)
    axis = axis_of(node.attributes.get_int("axis", -1), len(view.shape))
    target = _target(context, output)
    context.generic("hardmax", axis, [view], [target], _hardmax(axis))
    context.define(output, target)


def _hardmax(axis: int) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        (source,), (target,) = inputs, outputs
        with each([*source.shape[:axis], *source.shape[axis + 1 :]]) as others:
            best, place = Sum(source.dtype, REDUCTIONS["max"].initial(source.dtype)), Sum("int32")
            with T.serial(0, source.shape[axis]) as i:
                value = bind(source[[*others[:axis], i, *others[axis:]]])
                better = bind(value > best.value)
                best.set(tirx.Select(better, value, best.value))
                place.set(tirx.Select(better, i, place.value))
            with T.serial(0, source.shape[axis]) as i:
                target[[*others[:axis], i, *others[axis:]]] = T.Cast(target.dtype, tirx.EQ(place.value, i))

    return body


def compress(context: GraphContext, node: ir.Node) -> None:
    source, output = node.inputs[0], node.outputs[0]
    condition = constant(node.inputs[1])
    assert source is not None and condition is not None
    view = context.view(source)
    if "axis" in node.attributes:
        axis = axis_of(node.attributes.get_int("axis", 0), len(view.shape))
    else:
        axis = 0
        flat = context.copied(view).reshaped([d.product(view.shape)])
        assert flat is not None
        view = flat
    context.define(output, taken(context, view, axis, np.flatnonzero(condition), f"{output.name}#places"))


def reverse_sequence(context: GraphContext, node: ir.Node) -> None:
    source, lengths, output = node.inputs[0], node.inputs[1], node.outputs[0]
    assert source is not None and lengths is not None
    batch, time = node.attributes.get_int("batch_axis", 1), node.attributes.get_int("time_axis", 0)
    target = _target(context, output)
    operands = [context.view(source), context.view(lengths)]
    context.generic("reverse_sequence", (batch, time), operands, [target], _reverse(batch, time))
    context.define(output, target)


def _reverse(batch: int, time: int) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        (source, lengths), (target,) = inputs, outputs
        with each(source.shape) as index:
            length = bind(lengths.get([index[batch]], "int32"))
            place = list(index)
            place[time] = bind(tirx.Select(index[time] < length, length - 1 - index[time], index[time]))
            target[index] = source[place]

    return body


OPS: dict[str, Callable[[GraphContext, ir.Node], None]] = {
    "Compress": compress,
    "EyeLike": eye_like,
    "Hardmax": hardmax,
    "OneHot": one_hot,
    "ReverseSequence": reverse_sequence,
    "TopK": top_k,
    "Trilu": trilu,
}
