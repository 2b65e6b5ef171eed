"""`NonMaxSuppression`: greedy, class by class; how many boxes stay is computed while running."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.graph_context import GraphContext
from edgec.lower.wasm.graph_dims import upper_bound
from edgec.lower.wasm.graph_values import TensorView
from edgec.lower.wasm.kernels.builder import bind
from edgec.lower.wasm.kernels.generic import Body, Sum, Tensor
from edgec.lower.wasm.ops.computed import all_of, computed_dims, emit_numbers, given, held, operand

Expr = Any
_FREE, _GONE = 0, 1


def _non_max_suppression(context: GraphContext, node: ir.Node) -> None:
    output, boxes, scores = node.outputs[0], operand(context, node, 0), operand(context, node, 1)
    (dim,) = computed_dims(context, output)
    centred = bool(node.attributes.get_int("center_point_box", 0))
    has = (given(node, 2), given(node, 3), given(node, 4))
    limits = [operand(context, node, index) for index in (2, 3, 4) if given(node, index)]
    selected = context.allocate("selected", "int64", [upper_bound(dim, context.bounds), 3])
    count = context.allocate("count", "int32", [1])
    state = context.allocate("state", "uint8", [boxes.shape[1]])
    attributes = (centred, has)
    context.require_same(scores.shape[2], boxes.shape[1])
    context.generic(
        "non_max_suppression", attributes, [boxes, scores, *limits], [selected, count, state], _greedy(*attributes)
    )

    def body(tensors: Sequence[Tensor]) -> tuple[Expr, list[Expr]]:
        return all_of([]), [tensors[0].get([T.int32(0)], "int64")]

    emit_numbers(context, node, None, [dim], (), [count], body)
    context.define(output, TensorView(selected.storage, "int64", (dim, 3), (3, 1)))


def _greedy(centred: bool, has: tuple[bool, bool, bool]) -> Body:
    """The best box that is left, whenever it overlaps none of those taken by more than the limit."""

    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        boxes, scores, *limits = inputs
        selected, count, state = outputs
        numbers = iter(limits)
        most = held(_first(next(numbers), "int64")) if has[0] else T.int64(0)
        overlap = held(_first(next(numbers), "float32")) if has[1] else T.float32(0)
        least = held(_first(next(numbers), "float32")) if has[2] else None
        batches, classes, number = scores.shape
        taken = Sum("int32")
        with T.serial(0, batches) as batch, T.serial(0, classes) as kind:
            with T.serial(0, number) as i:
                state[[i]] = T.uint8(_FREE)
            rounds = held(T.Cast("int32", tirx.max(T.int64(0), tirx.min(most, T.Cast("int64", number)))))
            with T.serial(0, rounds):
                best, score = Sum("int32", -1), Sum("float32")
                with T.serial(0, number) as i:
                    own = bind(scores[[batch, kind, i]])
                    free = tirx.EQ(state[[i]], T.uint8(_FREE))
                    if least is not None:
                        free = tirx.And(free, own > least)
                    better = tirx.Or(best.value < 0, own > score.value)
                    chosen = bind(tirx.And(free, better))
                    best.set(tirx.Select(chosen, i, best.value))
                    score.set(tirx.Select(chosen, own, score.value))
                with T.If(best.value >= 0), T.Then():
                    for column, value in enumerate((batch, kind, best.value)):
                        selected.put([taken.value, T.int32(column)], value)
                    taken.add(T.int32(1))
                    state[[best.value]] = T.uint8(_GONE)
                    corners = [held(edge) for edge in _corners(boxes, batch, best.value, centred)]
                    with T.serial(0, number) as i:
                        other = [held(edge) for edge in _corners(boxes, batch, i, centred)]
                        with T.If(_overlaps(corners, other, overlap)), T.Then():
                            state[[i]] = T.uint8(_GONE)
        count[[T.int32(0)]] = taken.value

    return body


def _first(tensor: Tensor, dtype: str) -> Expr:
    return tensor.get([T.int32(0)] * tensor.rank, dtype)


def _corners(boxes: Tensor, batch: Expr, index: Expr, centred: bool) -> list[Expr]:
    """Low and high edge of the two axes; corners may be given in any order."""
    a, b, c, e = (boxes[[batch, index, T.int32(i)]] for i in range(4))
    if centred:
        half = T.float32(0.5)
        return [a - c * half, a + c * half, b - e * half, b + e * half]
    return [tirx.min(a, c), tirx.max(a, c), tirx.min(b, e), tirx.max(b, e)]


def _overlaps(one: Sequence[Expr], other: Sequence[Expr], limit: Expr) -> Expr:
    """Whether intersection over union is more than the limit; boxes without an area overlap nothing."""
    zero = T.float32(0)

    def shared(axis: int) -> Expr:
        low, high = tirx.max(one[axis], other[axis]), tirx.min(one[axis + 1], other[axis + 1])
        return tirx.max(zero, high - low)

    common = held(shared(0) * shared(2))
    areas = [held((box[1] - box[0]) * (box[3] - box[2])) for box in (one, other)]
    union = held(areas[0] + areas[1] - common)
    real = all_of([areas[0] > zero, areas[1] > zero, common > zero, union > zero])
    return bind(tirx.And(real, common / tirx.max(union, T.float32(1e-30)) > limit))


OPS: dict[str, Callable[[GraphContext, ir.Node], None]] = {"NonMaxSuppression": _non_max_suppression}
