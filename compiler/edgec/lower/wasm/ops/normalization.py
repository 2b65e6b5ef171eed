"""Softmax and the normalizations over the last axes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from edgec.errors import UnsupportedError
from edgec.lower.wasm.graph_context import GraphContext, label
from edgec.lower.wasm.graph_dims import symbols, to_scalar
from edgec.lower.wasm.graph_values import Lazy, TensorView
from edgec.lower.wasm.kernels.norm import norm
from edgec.lower.wasm.kernels.softmax import softmax
from edgec.lower.wasm.ops.elementwise import combine
from edgec.lower.wasm.ops.linear import as_rows
from edgec.lower.wasm.ops.reduce import reduced
from edgec.passes import dims as d
from edgec.passes.base import is_read
from edgec.passes.shape_context import axis_of


def lower_softmax(context: GraphContext, node: ir.Node) -> None:
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    shape = context.shape(output)
    axis = axis_of(node.attributes.get_int("axis", -1), len(shape))
    order = [i for i in range(len(shape)) if i != axis] + [axis]
    view = context.view(source).transposed(order)
    if not (view.contiguous and isinstance(view.offset, int)):
        view = context.copied(view)
    last = axis == len(shape) - 1
    target = context.allocate(output.name or "softmax", "float32", view.shape, value=output if last else None)
    logarithm = node.op_type == "LogSoftmax"
    columns = view.shape[-1]
    context.call(
        ("softmax", logarithm, columns),
        lambda isa: softmax(columns, logarithm=logarithm),
        [view, target],
        [to_scalar(d.product(view.shape[:-1])), *symbols([columns])],
    )
    context.define(output, target.transposed([int(i) for i in np.argsort(order)]))


def lower_layer_norm(context: GraphContext, node: ir.Node) -> None:
    """LayerNormalization and RMSNormalization; the statistics are no outputs."""
    source, scale, output = node.inputs[0], node.inputs[1], node.outputs[0]
    assert source is not None and scale is not None
    if any(is_read(extra) for extra in node.outputs[1:]):
        raise UnsupportedError(f"{label(node)} asks for the statistics of a normalization")
    shape = context.shape(output)
    axis = axis_of(node.attributes.get_int("axis", -1), len(shape))
    columns = d.product(shape[axis:])
    if not isinstance(columns, int):
        raise UnsupportedError(f"{label(node)} normalizes over an axis of variable size")
    flat = context.view(source).reshaped([*shape[:axis], columns]) or context.dense(source).reshaped(
        [*shape[:axis], columns]
    )
    assert flat is not None
    view, rows, stride = as_rows(context, flat)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    kind = "rms" if node.op_type == "RMSNormalization" else "layer"
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    factor = _vector(context, scale, columns)
    shift = _vector(context, bias, columns) if bias is not None else None
    target = context.allocate(output.name or "norm", "float32", shape, value=output)
    context.call(
        (f"{kind}_norm", columns, stride, epsilon, bias is not None),
        lambda isa: norm(
            isa, kind=kind, columns=columns, stride=stride, epsilon=epsilon, quantized=False, bias=bias is not None
        ),
        [view, factor, *([shift] if shift is not None else []), target],
        [0, to_scalar(rows)],
    )
    context.define(output, target)


def _vector(context: GraphContext, value: ir.Value, columns: int) -> TensorView:
    """A scale or shift of exactly `columns` floats."""
    view = context.dense(value)
    if d.product(view.shape) == columns:
        return view
    wide = context.copied(view.broadcast([*view.shape[:-1], columns] if view.shape else [columns]))
    return wide


def lower_instance_norm(context: GraphContext, node: ir.Node) -> None:
    """InstanceNormalization `[n, c, ...]`, GroupNormalization `[n, g, c / g, ...]`: two reductions and a product."""
    source, output = node.inputs[0], node.outputs[0]
    scale, bias = node.inputs[1], node.inputs[2]
    assert source is not None and scale is not None and bias is not None
    shape = context.shape(output)
    view = context.view(source)
    groups = node.attributes.get_int("num_groups", 0)
    channels = shape[1]
    assert isinstance(channels, int)
    if node.op_type == "GroupNormalization":
        grouped = [shape[0], groups, channels // groups, *shape[2:]]
        spread = view.reshaped(grouped) or context.copied(view).reshaped(grouped)
        assert spread is not None
        view = spread
        per_channel = [1, groups, channels // groups, *[1] * (len(shape) - 2)]
    else:
        per_channel = [1, channels, *[1] * (len(shape) - 2)]
    axes = list(range(2, len(view.shape)))
    kept = [dim if i < 2 else 1 for i, dim in enumerate(view.shape)]
    mean = reduced(context, "mean", _leaf(view), axes, kept)
    centred = context.computed(_binary("Sub", _leaf(view), _leaf(mean)))
    square = _binary("Mul", _leaf(centred), _leaf(centred))
    variance = reduced(context, "mean", square, axes, kept)
    epsilon = Lazy(("number", node.attributes.get_float("epsilon", 1e-5), "float32"), (), "float32", tuple(kept))
    inverse = context.computed(_unary("Reciprocal", _unary("Sqrt", _binary("Add", _leaf(variance), epsilon))))
    vectors = [context.dense(value).reshaped(per_channel) for value in (scale, bias)]
    assert vectors[0] is not None and vectors[1] is not None
    normal = _binary("Mul", _leaf(centred), _leaf(inverse))
    result = context.computed(_binary("Add", _binary("Mul", normal, _leaf(vectors[0])), _leaf(vectors[1])))
    flat = result.reshaped(shape)
    assert flat is not None
    context.define(output, flat)


def _leaf(view: TensorView) -> Lazy:
    return Lazy(("leaf", 0), (view,), view.dtype, view.shape)


def _binary(operator: str, a: Lazy, b: Lazy) -> Lazy:
    tree, leaves = combine(operator, {}, "float32", [a, b])
    return Lazy(tree, leaves, "float32", tuple(d.broadcast([a.shape, b.shape])))


def _unary(operator: str, a: Lazy) -> Lazy:
    tree, leaves = combine(operator, {}, "float32", [a])
    return Lazy(tree, leaves, "float32", a.shape)


OPS: dict[str, Callable[[GraphContext, ir.Node], None]] = {
    "GroupNormalization": lower_instance_norm,
    "InstanceNormalization": lower_instance_norm,
    "LayerNormalization": lower_layer_norm,
    "LogSoftmax": lower_softmax,
    "RMSNormalization": lower_layer_norm,
    "Softmax": lower_softmax,
}
