"""Convolutions, channels last whatever the graph says: inputs and outputs are transposed views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from edgec.errors import UnsupportedError
from edgec.ir.weight_use import WeightUse
from edgec.lower.wasm.graph_context import GraphContext, activation_bytes
from edgec.lower.wasm.graph_dims import to_amount, to_scalar, upper_bound
from edgec.lower.wasm.graph_fusion import Group
from edgec.lower.wasm.graph_values import TensorView
from edgec.lower.wasm.kernels.conv_pairs import conv_pairs, pack_filters, padded_width, pairs_of, picture_codes
from edgec.lower.wasm.kernels.depthwise import Window, depthwise, pack_depthwise
from edgec.lower.wasm.kernels.epilogue import Epilogue, padded
from edgec.lower.wasm.kernels.grouped_conv import grouped_conv, pack_grouped
from edgec.lower.wasm.kernels.im2col import can_quantize, im2col
from edgec.lower.wasm.kernels.linear_pairs import WIDEST
from edgec.lower.wasm.kernels.quantize import row_bytes
from edgec.lower.wasm.ops.linear import (
    Matrix,
    apply_linear,
    bias_vector,
    call_linear,
    quantized_buffers,
    quantized_rows,
)
from edgec.lower.wasm.program import Storage
from edgec.lower.wasm.work import Work, plus, times
from edgec.passes import dims as d
from edgec.passes.base import scalar, static_shape
from edgec.passes.dims import Dim
from edgec.passes.shape_context import Context
from edgec.passes.shape_windows import spatial_pads

_STRIP_BYTES = 256 * 1024  # of im2col rows that are made and multiplied at a time: about what a core's cache holds

_MANY = 16  # outputs; fewer do not pay for the codes of their inputs

_TO_LAST = {3: (0, 2, 1), 4: (0, 2, 3, 1)}
_TO_FIRST = {3: (0, 2, 1), 4: (0, 3, 1, 2)}


def channels_last(context: GraphContext, value: ir.Value) -> TensorView:
    """A `[batch, channels, (height,) width]` tensor as a dense `[batch, height, width, channels]` one."""
    view = context.view(value)
    if len(view.shape) not in _TO_LAST or view.dtype != "float32":
        raise UnsupportedError(
            f"`{value.name}` is a {view.dtype} tensor of {len(view.shape)} axes, convolutions and pools work on "
            "float32 tensors of 3 or 4"
        )
    view = view.transposed(_TO_LAST[len(view.shape)])
    if not (view.contiguous and isinstance(view.offset, int)):
        view = context.once(("channels last", view), lambda: context.copied(view))
    if len(view.shape) == 3:
        widened = view.reshaped([view.shape[0], 1, *view.shape[1:]])
        assert widened is not None
        view = widened
    return view


def channels_first(view: TensorView, rank: int) -> TensorView:
    """The inverse, for a value of `rank` axes."""
    if rank == 3:
        narrowed = view.reshaped([view.shape[0], *view.shape[2:]])
        assert narrowed is not None
        view = narrowed
    return view.transposed(_TO_FIRST[rank])


def window_of(context: GraphContext, node: ir.Node, kernel: list[int]) -> tuple[Window, tuple[int, int]]:
    """The sliding window of a Conv or pool, and the padding after the last row and column."""
    rules: Context = context.node_context(node)
    shape = context.shape(_value(node.inputs[0]))
    output = context.shape(node.outputs[0])
    spatial = len(shape) - 2
    strides, dilations = rules.integers("strides", [1] * spatial), rules.integers("dilations", [1] * spatial)
    pads = [(int(a), int(b)) for a, b in spatial_pads(rules, kernel) if isinstance(a, int) and isinstance(b, int)]
    if spatial == 1:
        kernel, strides, dilations, pads = [1, *kernel], [1, *strides], [1, *dilations], [(0, 0), *pads]
    channels = shape[1]
    height, output_height = (shape[2], output[2]) if spatial == 2 else (1, 1)
    window = Window(
        batch=shape[0],
        height=height,
        width=shape[-1],
        channels=channels,
        output_height=output_height,
        output_width=output[-1],
        kernel=(kernel[0], kernel[1]),
        strides=(strides[0], strides[1]),
        dilations=(dilations[0], dilations[1]),
        pads=(pads[0][0], pads[1][0]),
    )
    return window, (pads[0][1], pads[1][1])


def _value(value: ir.Value | None) -> ir.Value:
    assert value is not None
    return value


def lower_group(context: GraphContext, group: Group) -> None:
    """A convolution with its epilogue."""
    node, end = group.anchor, group.end
    weight = _value(node.inputs[1])
    assert weight.const_value is not None
    weight_shape = list(static_shape(weight.const_value))
    outputs = weight_shape[0]
    window, _ = window_of(context, node, weight_shape[2:])
    source = channels_last(context, _value(node.inputs[0]))
    groups = node.attributes.get_int("group", 1)
    rank = len(weight_shape)
    shape = (window.batch, window.output_height, window.output_width, outputs)
    target = _target(context, group, shape)
    residual = _residual(context, group, rank)
    bias = _bias(context, group, outputs)
    if groups == 1:
        _dense(context, group, weight, window, source, bias, residual, target)
    elif groups == window.channels == outputs:
        _depthwise(context, group, weight, window, source, bias, residual, target)
    else:
        _grouped(context, group, weight, window, source, bias, residual, target)
    if group.transposed:
        last = target if rank == 4 else target.reshaped([shape[0], *shape[2:]])
        assert last is not None
        context.define(end, last)
    else:
        context.define(end, channels_first(target, rank))


def _bias(context: GraphContext, group: Group, outputs: int) -> Storage | None:
    """Biases, and behind them what is added after the activation."""
    name, tensor = ("", None) if group.bias is None else (group.bias.name or "", group.bias.const_value)
    if group.shift is None:
        return None if tensor is None else bias_vector(context, name, tensor.numpy, outputs)
    shift = scalar(group.shift)

    def read() -> np.ndarray:
        parts = np.zeros((2, padded(outputs)), np.float32)
        parts[0, :outputs] = 0 if tensor is None else tensor.numpy().reshape(-1)
        parts[1] = shift
        return parts

    return bias_vector(context, f"{name}+{group.shift.name}", read, outputs)


def _target(context: GraphContext, group: Group, shape: tuple[Dim, ...]) -> TensorView:
    end = group.end
    if group.transposed and end in context.outputs:
        view = context.outputs[end].reshaped(shape)
        assert view is not None
        return view
    return context.allocate(end.name or "conv", "float32", shape)


def _residual(context: GraphContext, group: Group, rank: int) -> TensorView | None:
    if group.residual is None:
        return None
    return context.dense(group.residual) if group.transposed else channels_last(context, group.residual)


def _dense(
    context: GraphContext,
    group: Group,
    weight: ir.Value,
    window: Window,
    source: TensorView,
    bias: Storage | None,
    residual: TensorView | None,
    target: TensorView,
) -> None:
    """One matrix product over all pixels; a kernel larger than 1 x 1 gathers its rows first, strip by strip."""
    tensor = weight.const_value
    assert tensor is not None
    use = WeightUse(weight.name or "", static_shape(tensor), "conv", frozenset({"conv"}), 1)
    packed = context.packed(weight)
    one = window.kernel == (1, 1) and window.strides == (1, 1) and window.pads == (0, 0)
    if packed is None and context.quantized and not one and window.dilations[1] == 1:
        _in_pairs(context, group, use, tensor, window, source, bias, residual, target)
        return
    pairs = context.quantized and use.columns <= WIDEST and use.rows >= _MANY
    size = (use.rows, use.columns)
    matrix = Matrix(context, use.name, packed, lambda: use.to_matrix(tensor.numpy()), size, pairs=pairs)
    epilogue = group.epilogue(near=context.quantized)
    if one and window.height == window.output_height and window.width == window.output_width:
        apply_linear(context, matrix, source, epilogue, bias, residual, target)
        return
    rows = d.product([window.batch, window.output_height, window.output_width])
    direct = packed is not None and can_quantize(window, matrix.span)
    codes_bytes = (4 if packed is None else 2) * matrix.columns
    written = row_bytes(matrix.columns, outliers=False, span=matrix.span) if direct else 4 * matrix.columns
    strip = max(8, _STRIP_BYTES // codes_bytes // 8 * 8)
    count = upper_bound(rows, context.bounds)
    if not isinstance(rows, int):
        strip = count
    for first in range(0, count, strip):
        part: Dim = min(strip, count - first) if isinstance(rows, int) else rows
        if direct:
            buffers = quantized_buffers(context, matrix.columns, part, matrix.span)
        else:
            buffers = [context.allocate("im2col", "float32", [part, matrix.columns])]
        context.call(
            ("im2col", window, direct, matrix.span),
            lambda isa: im2col(isa, window, quantized=direct, span=matrix.span),
            [source, *buffers],
            [first, to_scalar(part), *window.dimensions()],
            work=_gathering_work(window, part, written),
        )
        if packed is not None and not direct:
            buffers = quantized_rows(context, buffers[0], matrix.columns, matrix.span)
        tail = [_row_offset(v, first) for v in (residual, target) if v is not None]
        call_linear(context, matrix, buffers, matrix.columns, part, epilogue, [*([bias] if bias else []), *tail])


def _in_pairs(
    context: GraphContext,
    group: Group,
    use: WeightUse,
    tensor: ir.TensorProtocol,
    window: Window,
    source: TensorView,
    bias: Storage | None,
    residual: TensorView | None,
    target: TensorView,
) -> None:
    """Filters of float32 as codes of 16 bits, over a picture of such codes."""
    filters, scales, levels = pack_filters(use.to_matrix(tensor.numpy()), window)
    weights = [
        context.weight(f"{use.name}#pairs", lambda: filters),
        context.weight(f"{use.name}#scales", lambda: scales),
    ]
    lines = d.multiply(window.batch, window.height)
    pixels = d.multiply(lines, padded_width(window))
    codes = context.allocate("codes", "int32", [pixels, pairs_of(window)])
    rows = context.allocate("code scales", "float32", [lines])
    general = replace(window.of_any_size(), channels=window.channels)
    sizes = [to_scalar(size) for size in (window.batch, *window.sizes[2:])]
    context.call(
        ("picture_codes", general, levels),
        lambda isa: picture_codes(general, levels),
        [source, codes, rows],
        sizes,
        work=Work(activations=activation_bytes([source, codes]), shape=_shape(window)),
    )
    epilogue = group.epilogue(near=context.quantized)
    tail = [part for part in (residual, target) if part is not None]
    context.call(
        ("conv_pairs", general, use.rows, epilogue),
        lambda isa: conv_pairs(general, use.rows, epilogue),
        [codes, rows, *weights, *([bias] if bias else []), *tail],
        sizes,
        work=replace(
            _sliding_work(window, tensor.size, use.rows, epilogue, [codes, *tail]),
            arithmetic="int16",
            results=to_amount(window.batch, window.output_height, window.output_width, use.rows),
        ),
    )


def _gathering_work(window: Window, rows: Dim, row: int) -> Work:
    """Pixels move from the input to `rows` rows of `row` bytes; those that several rows share are read once."""
    pixel = to_amount(window.channels, 4 * window.strides[0] * window.strides[1])
    return Work(activations=times(to_amount(rows), plus(pixel, row)), shape=_shape(window))


def _sliding_work(
    window: Window, weights: int, outputs: int, epilogue: Epilogue, buffers: Sequence[TensorView]
) -> Work:
    """Every output pixel meets every one of `weights` weights, those that lie outside of the input too."""
    positions = to_amount(window.batch, window.output_height, window.output_width)
    return Work(
        macs=times(positions, weights),
        arithmetic="float32",
        activations=activation_bytes(buffers),
        functions=times(positions, epilogue.exponentials(outputs)),
        shape=_shape(window),
    )


def _shape(window: Window) -> str:
    return f"{window.kernel[0]}x{window.kernel[1]}, {window.channels} channels"


def _row_offset(view: TensorView, row: int) -> TensorView:
    columns = view.shape[-1]
    assert isinstance(columns, int) and isinstance(view.offset, int)
    return replace(view, offset=view.offset + row * columns)


def _depthwise(
    context: GraphContext,
    group: Group,
    weight: ir.Value,
    window: Window,
    source: TensorView,
    bias: Storage | None,
    residual: TensorView | None,
    target: TensorView,
) -> None:
    tensor = weight.const_value
    assert tensor is not None

    def read() -> np.ndarray:
        array = np.asarray(tensor.numpy(), np.float32)
        return pack_depthwise(array if array.ndim == 4 else array[:, :, None])

    filters = context.weight(f"{weight.name}#depthwise", read, columns=static_shape(tensor)[0])
    epilogue = group.epilogue(near=context.quantized)
    tail = [part for part in (residual, target) if part is not None]
    general = window.of_any_size()
    context.call(
        ("depthwise", general, epilogue),
        lambda isa: depthwise(general, epilogue),
        [source, filters, *([bias] if bias else []), *tail],
        [to_scalar(size) for size in window.sizes],
        work=_sliding_work(window, tensor.size, static_shape(tensor)[0], epilogue, [source, *tail]),
    )


def _grouped(
    context: GraphContext,
    group: Group,
    weight: ir.Value,
    window: Window,
    source: TensorView,
    bias: Storage | None,
    residual: TensorView | None,
    target: TensorView,
) -> None:
    tensor = weight.const_value
    assert tensor is not None
    groups, outputs = group.anchor.attributes.get_int("group", 1), static_shape(tensor)[0]

    def read() -> np.ndarray:
        array = np.asarray(tensor.numpy(), np.float32)
        return pack_grouped(array if array.ndim == 4 else array[:, :, None], groups)

    filters = context.weight(f"{weight.name}#grouped", read)
    epilogue = group.epilogue(near=context.quantized)
    tail = [part for part in (residual, target) if part is not None]
    context.call(
        ("grouped_conv", window, groups, outputs, epilogue),
        lambda isa: grouped_conv(window, groups=groups, outputs=outputs, epilogue=epilogue),
        [source, filters, *([bias] if bias else []), *tail],
        window.dimensions(),
        work=_sliding_work(window, tensor.size, outputs, epilogue, [source, *tail]),
    )
