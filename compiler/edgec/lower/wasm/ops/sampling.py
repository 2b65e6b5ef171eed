"""Reading images at fractional places: GridSample, RoiAlign, DeformConv, and Resize where it has no table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.errors import UnsupportedError
from edgec.lower.wasm.graph_context import GraphContext, label
from edgec.lower.wasm.graph_values import dtype_of
from edgec.lower.wasm.kernels.builder import Expr, bind
from edgec.lower.wasm.kernels.generic import Body, Sum, Tensor, each, inside
from edgec.lower.wasm.ops.windows import Windows, kernel_of, windows_of

_CUBIC = -0.75  # the coefficient of PyTorch's grid_sample


def _number(value: float) -> Expr:
    return tirx.const(value, "float32")


def grid_sample(context: GraphContext, node: ir.Node) -> None:
    source, grid, output = node.inputs[0], node.inputs[1], node.outputs[0]
    assert source is not None and grid is not None
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(
        node.attributes.get_string("mode", "linear"), node.attributes.get_string("mode", "linear")
    )
    padding = node.attributes.get_string("padding_mode", "zeros")
    corners = bool(node.attributes.get_int("align_corners", 0))
    rank = len(context.shape(output)) - 2
    if mode == "cubic" and rank != 2:
        raise UnsupportedError(f"{label(node)} samples {rank} axes by cubic interpolation, only 2 are supported")
    target = context.allocate(output.name or "sampled", dtype_of(output), context.shape(output), value=output)
    operands = [context.view(source), context.view(grid)]
    for view in operands:
        if view.dtype != "float32":
            raise UnsupportedError(f"{label(node)} samples {view.dtype}, only float32 is supported")
    attributes = (mode, padding, corners)
    context.generic("grid_sample", attributes, operands, [target], _grid_sample(*attributes))
    context.define(output, target)


def _grid_sample(mode: str, padding: str, corners: bool) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        (source, grid), (target,) = inputs, outputs
        rank = source.rank - 2
        sizes = source.shape[2:]
        with each([target.shape[0], *target.shape[2:]]) as index:
            batch, place = index[0], index[1:]
            coordinates = []
            for axis in range(rank):
                value = grid[[batch, *place, T.int32(rank - 1 - axis)]]
                size = T.Cast("float32", sizes[axis])
                if corners:
                    position = (value + _number(1)) * _number(0.5) * (size - _number(1))
                else:
                    position = ((value + _number(1)) * size - _number(1)) * _number(0.5)
                position = bind(position)
                if mode != "cubic" and padding != "zeros":
                    position = _padded(position, size, padding, corners)
                coordinates.append(position)
            taps = [_taps(position, mode) for position in coordinates]
            with T.serial(0, target.shape[1]) as channel:
                total = Sum("float32")
                for chosen in _combinations(taps):
                    weight, places, valid = _number(1), [], tirx.const(True, "bool")
                    for axis, (offset, factor) in enumerate(chosen):
                        at = offset
                        if mode == "cubic" and padding != "zeros":
                            size = T.Cast("float32", sizes[axis])
                            at = T.Cast("int32", _padded(T.Cast("float32", offset), size, padding, corners))
                        valid = tirx.And(valid, inside(at, sizes[axis]))
                        places.append(bind(at))
                        weight = weight * factor
                    safe = [tirx.max(tirx.min(at, size - 1), 0) for at, size in zip(places, sizes, strict=True)]
                    value = source[[batch, channel, *safe]] * weight
                    total.add(tirx.Select(valid, value, _number(0)))
                target[[batch, channel, *place]] = total.value

    return body


def _padded(position: Expr, size: Expr, padding: str, corners: bool) -> Expr:
    """A place inside the image: at its border, or reflected there."""
    last = size - _number(1)
    if padding == "reflection":
        low = _number(0.0 if corners else -0.5)
        span = bind(tirx.max(last if corners else size, _number(1e-20)))
        distance = bind(tirx.abs(position - low))
        turns = bind(tirx.floor(distance / span))
        rest = bind(distance - turns * span)
        odd = tirx.floor(turns * _number(0.5)) * _number(2) != turns
        position = tirx.Select(odd, span - rest + low, rest + low)
    return bind(tirx.max(tirx.min(position, last), _number(0)))


def _taps(position: Expr, mode: str) -> list[tuple[Expr, Expr]]:
    """(place, weight) of the elements that count."""
    if mode == "nearest":
        return [(bind(T.Cast("int32", T.nearbyint(position))), _number(1))]
    low = bind(tirx.floor(position))
    fraction = bind(position - low)
    first = bind(T.Cast("int32", low))
    if mode == "linear":
        return [(first, _number(1) - fraction), (first + 1, fraction)]
    return [(first - 1 + i, weight) for i, weight in enumerate(_cubic(fraction))]


def _cubic(fraction: Expr) -> list[Expr]:
    """Keys' cubic convolution."""
    a = _number(_CUBIC)

    def near(x: Expr) -> Expr:
        return ((a + _number(2)) * x - (a + _number(3))) * x * x + _number(1)

    def far(x: Expr) -> Expr:
        return ((a * x - _number(5) * a) * x + _number(8) * a) * x - _number(4) * a

    one = _number(1)
    values = [far(fraction + one), near(fraction), near(one - fraction), far(_number(2) - fraction)]
    return [bind(value) for value in values]


def _combinations(taps: Sequence[Sequence[tuple[Expr, Expr]]]) -> list[list[tuple[Expr, Expr]]]:
    result: list[list[tuple[Expr, Expr]]] = [[]]
    for axis in taps:
        result = [[*before, tap] for before in result for tap in axis]
    return result


def roi_align(context: GraphContext, node: ir.Node) -> None:
    output = node.outputs[0]
    shape = context.shape(output)
    attributes = (
        node.attributes.get_string("coordinate_transformation_mode", "half_pixel"),
        node.attributes.get_string("mode", "avg"),
        node.attributes.get_int("sampling_ratio", 0),
        node.attributes.get_float("spatial_scale", 1.0),
    )
    operands = [context.view(value) for value in node.inputs if value is not None]
    if any(view.dtype != "float32" for view in operands[:2]):
        raise UnsupportedError(f"{label(node)} works on {operands[0].dtype}, only float32 is supported")
    target = context.allocate(output.name or "regions", dtype_of(output), shape, value=output)
    context.generic("roi_align", attributes, operands, [target], _roi_align(*attributes))
    context.define(output, target)


def _roi_align(coordinates: str, mode: str, ratio: int, scale: float) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        (source, regions, batches), (target,) = inputs, outputs
        height, width = source.shape[2:]
        shift = _number(0.5 if coordinates == "half_pixel" else 0.0)
        with each(target.shape) as (region, channel, row, column):
            batch = bind(batches.get([region], "int32"))
            left, top, right, bottom = (bind(regions[[region, T.int32(i)]] * _number(scale) - shift) for i in range(4))
            spans = [bottom - top, right - left]
            if coordinates != "half_pixel":
                spans = [tirx.max(span, _number(1)) for span in spans]
            bins = [bind(span / T.Cast("float32", size)) for span, size in zip(spans, target.shape[2:], strict=True)]
            counts = [T.int32(ratio) if ratio else bind(T.Cast("int32", tirx.ceil(size))) for size in bins]
            total, first = Sum("float32"), Sum("int32", 1)
            with T.serial(0, counts[0]) as i, T.serial(0, counts[1]) as j:
                y, x = (
                    bind(
                        start
                        + T.Cast("float32", place) * size
                        + (T.Cast("float32", k) + _number(0.5)) * size / T.Cast("float32", count)
                    )
                    for start, place, size, k, count in (
                        (top, row, bins[0], i, counts[0]),
                        (left, column, bins[1], j, counts[1]),
                    )
                )
                samples = _bilinear(source, [batch, channel], y, x, height, width)
                if mode == "max":
                    value = samples[0]
                    for sample in samples[1:]:
                        value = tirx.max(value, sample)
                    value = bind(value)
                    total.set(tirx.Select(tirx.EQ(first.value, T.int32(1)), value, tirx.max(total.value, value)))
                    first.set(T.int32(0))
                else:
                    total.add(samples[0] + samples[1] + samples[2] + samples[3])
            if mode == "max":
                target[[region, channel, row, column]] = total.value
            else:
                area = tirx.max(counts[0] * counts[1], 1)
                target[[region, channel, row, column]] = total.value / T.Cast("float32", area)

    return body


def _bilinear(source: Tensor, outer: list[Expr], y: Expr, x: Expr, height: Expr, width: Expr) -> list[Expr]:
    """The four weighted neighbours; 0 where the place is more than one pixel outside."""
    valid = tirx.const(True, "bool")
    pairs = []
    for position, size in ((y, height), (x, width)):
        extent = T.Cast("float32", size)
        valid = tirx.And(valid, tirx.And(position >= _number(-1), position <= extent))
        at = bind(tirx.max(position, _number(0)))
        low = bind(tirx.min(T.Cast("int32", tirx.floor(at)), size - 1))
        high = bind(tirx.min(low + 1, size - 1))
        fraction = bind(tirx.Select(low >= size - 1, _number(0), at - T.Cast("float32", low)))
        pairs.append(((low, _number(1) - fraction), (high, fraction)))
    return [
        bind(tirx.Select(valid, source[[*outer, i, j]] * (a * b), _number(0))) for i, a in pairs[0] for j, b in pairs[1]
    ]


def deform_conv(context: GraphContext, node: ir.Node) -> None:
    source, weight, offset = node.inputs[0], node.inputs[1], node.inputs[2]
    bias, mask = (node.inputs[i] if len(node.inputs) > i else None for i in (3, 4))
    output = node.outputs[0]
    assert source is not None and weight is not None and offset is not None
    kernel = kernel_of(context, node, weight)
    if len(kernel) != 2 or dtype_of(source) != "float32":
        raise UnsupportedError(f"{label(node)} works on {len(kernel)} axes of {dtype_of(source)}")
    attributes = (
        windows_of(context, node, kernel),
        node.attributes.get_int("group", 1),
        node.attributes.get_int("offset_group", 1),
        bias is not None,
        mask is not None,
    )
    operands = [context.view(value) for value in (source, weight, offset, bias, mask) if value is not None]
    target = context.allocate(output.name or "conv", "float32", context.shape(output), value=output)
    context.generic("deform_conv", attributes, operands, [target], _deform_conv(*attributes))
    context.define(output, target)


def _deform_conv(windows: Windows, groups: int, offset_groups: int, has_bias: bool, has_mask: bool) -> Body:
    kernel_height, kernel_width = windows.kernel
    taps = kernel_height * kernel_width

    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        source, weight, offset = inputs[:3]
        bias = inputs[3] if has_bias else None
        mask = inputs[-1] if has_mask else None
        (target,) = outputs
        channels = weight.shape[1]
        per_offset = tirx.truncdiv(source.shape[1], offset_groups)
        per_group = tirx.truncdiv(weight.shape[0], groups)
        with each(target.shape) as (batch, out, row, column):
            total = Sum("float32", bias[[out]] if bias is not None else 0.0)
            group = bind(tirx.truncdiv(out, per_group))
            with each(windows.loop([channels]), parallel=False) as (c, i, j):
                channel = bind(group * channels + c)
                which = bind(tirx.truncdiv(channel, per_offset))
                tap = bind(which * taps + i * kernel_width + j)
                places = windows.places([row, column], [i, j])
                y, x = (
                    bind(T.Cast("float32", place) + offset[[batch, tap * 2 + axis, row, column]])
                    for axis, place in enumerate(places)
                )
                value = _zero_outside(source, [batch, channel], y, x)
                if mask is not None:
                    value = value * mask[[batch, tap, row, column]]
                total.add(value * weight[[out, c, i, j]])
            target[[batch, out, row, column]] = total.value

    return body


def _zero_outside(source: Tensor, outer: list[Expr], y: Expr, x: Expr) -> Expr:
    result: Expr = _number(0)
    sizes = source.shape[2:]
    taps = [_taps(y, "linear"), _taps(x, "linear")]
    for chosen in _combinations(taps):
        valid, safe, weight = tirx.const(True, "bool"), [], _number(1)
        for (place, factor), size in zip(chosen, sizes, strict=True):
            valid = tirx.And(valid, inside(place, size))
            safe.append(tirx.max(tirx.min(place, size - 1), 0))
            weight = weight * factor
        result = result + tirx.Select(valid, source[[*outer, *safe]] * weight, _number(0))
    return bind(result)


OPS: dict[str, Callable[[GraphContext, ir.Node], None]] = {
    "DeformConv": deform_conv,
    "GridSample": grid_sample,
    "RoiAlign": roi_align,
}
