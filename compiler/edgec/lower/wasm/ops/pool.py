"""Pooling over windows; global pools were made reductions by `simplify`."""

from __future__ import annotations

import onnx_ir as ir

from edgec.lower.wasm.graph_context import GraphContext
from edgec.lower.wasm.graph_dims import to_scalar
from edgec.lower.wasm.graph_values import dtype_of
from edgec.lower.wasm.kernels.pool import pool
from edgec.lower.wasm.ops import windows
from edgec.lower.wasm.ops.conv import channels_first, channels_last, window_of
from edgec.passes.base import is_read


def lower(context: GraphContext, node: ir.Node) -> None:
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    positions = len(node.outputs) > 1 and is_read(node.outputs[1])
    if positions or len(context.shape(source)) not in (3, 4) or dtype_of(source) != "float32":
        windows.pool(context, node)
        return
    view = channels_last(context, source)
    window, end_pads = window_of(context, node, list(node.attributes.get_ints("kernel_shape") or []))
    average = node.op_type == "AveragePool"
    counted = bool(node.attributes.get_int("count_include_pad", 0))
    shape = (window.batch, window.output_height, window.output_width, window.channels)
    target = context.allocate(output.name or "pool", "float32", shape)
    general = window.of_any_size()
    context.call(
        ("pool", general, average, counted, end_pads),
        lambda isa: pool(general, average=average, count_padding=counted, end_pads=end_pads),
        [view, target],
        [to_scalar(size) for size in window.sizes],
    )
    context.define(output, channels_first(target, len(context.shape(output))))
