"""Normalizations whose statistics are inputs or run over neighbours: BatchNormalization, LRN, LpNormalization."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.graph_context import GraphContext
from edgec.lower.wasm.graph_values import dtype_of
from edgec.lower.wasm.kernels import math
from edgec.lower.wasm.kernels.builder import bind
from edgec.lower.wasm.kernels.generic import Body, Sum, Tensor, each
from edgec.lower.wasm.ops.windows import power, root
from edgec.passes.base import is_read
from edgec.passes.shape_context import axis_of


def batch_norm(context: GraphContext, node: ir.Node) -> None:
    """With parameters that are inputs, or with the statistics of the batch (training mode)."""
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    training = bool(node.attributes.get_int("training_mode", 0))
    attributes = (
        training,
        node.attributes.get_float("epsilon", 1e-5),
        node.attributes.get_float("momentum", 0.9),
    )
    operands = [context.view(value) for value in node.inputs if value is not None]
    target = context.allocate(output.name or "norm", dtype_of(output), context.shape(output), value=output)
    targets = [target]
    for index, name in ((1, "mean"), (2, "variance")):
        value = node.outputs[index] if training and len(node.outputs) > index else None
        wanted = value if value is not None and is_read(value) else None
        shape = operands[3].shape
        statistic = context.allocate(name, operands[index + 2].dtype, shape, value=wanted)
        targets.append(statistic)
        if wanted is not None:
            context.define(wanted, statistic)
    context.generic("batch_norm", attributes, operands, targets, _batch_norm(*attributes))
    context.define(output, target)


def _batch_norm(training: bool, epsilon: float, momentum: float) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        source, scale, bias, mean, variance = inputs
        target, running_mean, running_variance = outputs
        dtype = target.dtype
        others = [source.shape[0], *source.shape[2:]] if source.rank > 1 else [source.shape[0]]
        keep = tirx.const(momentum, dtype)
        fresh = tirx.const(1 - momentum, dtype)
        channels = source.shape[1] if source.rank > 1 else T.int32(1)
        with each([channels]) as (channel,):
            middle, spread = mean.get([channel], dtype), variance.get([channel], dtype)
            if training:
                count = T.Cast(dtype, others[0])
                for extent in others[1:]:
                    count = count * T.Cast(dtype, extent)
                total = Sum(dtype)
                with each(others, parallel=False) as index:
                    total.add(source[[index[0], channel, *index[1:]]])
                middle = bind(total.value / count)
                squares = Sum(dtype)
                with each(others, parallel=False) as index:
                    distance = bind(source[[index[0], channel, *index[1:]]] - middle)
                    squares.add(distance * distance)
                spread = bind(squares.value / count)
                running_mean.put([channel], mean.get([channel], dtype) * keep + middle * fresh)
                running_variance.put([channel], variance.get([channel], dtype) * keep + spread * fresh)
            factor = bind(scale.get([channel], dtype) / tirx.sqrt(spread + tirx.const(epsilon, dtype)))
            shift = bind(bias.get([channel], dtype) - middle * factor)
            with each(others, parallel=False) as index:
                place = [index[0], channel, *index[1:]] if source.rank > 1 else index
                target[place] = source[place] * factor + shift

    return body


def local_response(context: GraphContext, node: ir.Node) -> None:
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    attributes = (
        node.attributes.get_int("size", 1),
        node.attributes.get_float("alpha", 1e-4),
        node.attributes.get_float("beta", 0.75),
        node.attributes.get_float("bias", 1.0),
    )
    target = context.allocate(output.name or "norm", dtype_of(output), context.shape(output), value=output)
    context.generic("local_response", attributes, [context.view(source)], [target], _local_response(*attributes))
    context.define(output, target)


def _local_response(size: int, alpha: float, beta: float, bias: float) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        (source,), (target,) = inputs, outputs
        channels = source.shape[1]
        with each(target.shape) as index:
            total = Sum(target.dtype)
            first = bind(tirx.max(index[1] - (size - 1) // 2, 0))
            past = bind(tirx.min(index[1] + size // 2 + 1, channels))
            with T.serial(0, past - first) as i:
                total.add(power(source[[index[0], first + i, *index[2:]]], 2))
            value = bind(total.value)
            base = bind(math.constant(bias, value) + math.constant(alpha / size, value) * value)
            target[index] = source[index] * math.exp(math.log(base) * math.constant(-beta, base))

    return body


def lp_norm(context: GraphContext, node: ir.Node) -> None:
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    view = context.view(source)
    axis, p = axis_of(node.attributes.get_int("axis", -1), len(view.shape)), node.attributes.get_int("p", 2)
    target = context.allocate(output.name or "norm", dtype_of(output), context.shape(output), value=output)
    context.generic("lp_norm", (axis, p), [view], [target], _lp_norm(axis, p))
    context.define(output, target)


def _lp_norm(axis: int, p: int) -> Body:
    """Where the norm is 0, so is the result."""

    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        (source,), (target,) = inputs, outputs
        with each([*source.shape[:axis], *source.shape[axis + 1 :]]) as others:
            total = Sum(target.dtype)
            with T.serial(0, source.shape[axis]) as i:
                total.add(power(tirx.abs(source[[*others[:axis], i, *others[axis:]]]), p))
            norm = bind(root(total.value, p))
            zero, one = tirx.const(0, target.dtype), tirx.const(1, target.dtype)
            divisor = bind(tirx.Select(tirx.EQ(norm, zero), one, norm))
            with T.serial(0, source.shape[axis]) as i:
                place = [*others[:axis], i, *others[axis:]]
                target[place] = source[place] / divisor

    return body


OPS: dict[str, Callable[[GraphContext, ir.Node], None]] = {
    "BatchNormalization": batch_norm,
    "LRN": local_response,
    "LpNormalization": lp_norm,
}
