"""CumSum and CumProd."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.graph_context import GraphContext
from edgec.lower.wasm.graph_values import TensorView, dtype_of
from edgec.lower.wasm.kernels.generic import Body, Sum, Tensor, each
from edgec.passes.base import constant
from edgec.passes.shape_context import axis_of


def lower(context: GraphContext, node: ir.Node) -> None:
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    view, shape = context.view(source), context.shape(output)
    given = constant(node.inputs[1])
    assert given is not None
    axis = axis_of(int(given.reshape(-1)[0]), len(shape))
    target = context.allocate(output.name or "cumulative", dtype_of(output), shape, value=output)
    cumulative(context, node, view, target, axis)
    context.define(output, target)


def cumulative(context: GraphContext, node: ir.Node, source: TensorView, target: TensorView, axis: int) -> None:
    """What the node computes of `source`, along an axis of the views."""
    product = node.op_type == "CumProd"
    exclusive = bool(node.attributes.get_int("exclusive", 0))
    reverse = bool(node.attributes.get_int("reverse", 0))
    attributes = (axis, product, exclusive, reverse)
    context.generic("cumulative", attributes, [source], [target], _cumulative(*attributes))


def _cumulative(axis: int, product: bool, exclusive: bool, reverse: bool) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        (source,), (target,) = inputs, outputs
        size = source.shape[axis]
        with each([*source.shape[:axis], *source.shape[axis + 1 :]]) as others:
            total = Sum(target.dtype, 1 if product else 0)
            with T.serial(0, size) as step:
                place = size - 1 - step if reverse else step
                index = [*others[:axis], place, *others[axis:]]
                if exclusive:
                    target[index] = total.value
                value = source[index]
                total.set(total.value * value if product else total.value + value)
                if not exclusive:
                    target[index] = total.value

    return body


OPS: dict[str, Callable[[GraphContext, ir.Node], None]] = {"CumProd": lower, "CumSum": lower}
