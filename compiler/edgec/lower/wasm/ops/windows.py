"""Windows over any number of axes, strides, dilations and groups, one element at a time: what has no fast kernel.

Convolutions of all element types, with weights that are inputs too, their transposes, and pools.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.errors import UnsupportedError
from edgec.lower.wasm.graph_context import GraphContext, label
from edgec.lower.wasm.graph_values import dtype_of
from edgec.lower.wasm.kernels import math
from edgec.lower.wasm.kernels.builder import Expr, bind
from edgec.lower.wasm.kernels.generic import Body, Sum, Tensor, each, inside
from edgec.passes.base import is_read
from edgec.passes.shape_windows import spatial_pads


@dataclass(frozen=True)
class Windows:
    """Of each spatial axis: extent, stride, dilation, and padding before and after."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    @property
    def rank(self) -> int:
        return len(self.kernel)

    def places(self, output: Sequence[Expr], taps: Sequence[Expr]) -> list[Expr]:
        """Where in the input the taps of an output's window lie."""
        return [
            bind(o * stride + tap * dilation - pad[0])
            for o, tap, stride, dilation, pad in zip(output, taps, self.strides, self.dilations, self.pads, strict=True)
        ]

    def loop(self, first: Sequence[Expr] = ()) -> list[Expr]:
        return [*first, *(T.int32(size) for size in self.kernel)]


def windows_of(context: GraphContext, node: ir.Node, kernel: Sequence[int]) -> Windows:
    rules = context.node_context(node)
    rank = len(kernel)
    pads = [(a, b) for a, b in spatial_pads(rules, kernel) if isinstance(a, int) and isinstance(b, int)]
    if len(pads) != rank:
        raise UnsupportedError(f"{label(node)} has a padding that depends on the input's size")
    return Windows(
        tuple(kernel),
        tuple(rules.integers("strides", [1] * rank)),
        tuple(rules.integers("dilations", [1] * rank)),
        tuple(pads),
    )


def kernel_of(context: GraphContext, node: ir.Node, weight: ir.Value) -> list[int]:
    kernel = [dim for dim in context.shape(weight)[2:] if isinstance(dim, int)]
    if len(kernel) != len(context.shape(weight)) - 2:
        raise UnsupportedError(f"{label(node)} has a kernel of variable size")
    return kernel


def _all_inside(places: Sequence[Expr], sizes: Sequence[Expr]) -> Expr:
    result = tirx.const(True, "bool")
    for place, size in zip(places, sizes, strict=True):
        result = tirx.And(result, inside(place, size))
    return result


def conv(context: GraphContext, node: ir.Node) -> None:
    """Also `ConvInteger`: int8 or uint8 minus zero points, added up in int32."""
    source, weight, output = node.inputs[0], node.inputs[1], node.outputs[0]
    assert source is not None and weight is not None
    windows = windows_of(context, node, kernel_of(context, node, weight))
    groups = node.attributes.get_int("group", 1)
    extra = [context.view(value) if value is not None else None for value in (*node.inputs[2:4], None, None)][:2]
    integer = node.op_type == "ConvInteger"
    target = context.allocate(output.name or "conv", dtype_of(output), context.shape(output), value=output)
    present = tuple(view is not None for view in extra)
    operands = [context.view(source), context.view(weight), *(view for view in extra if view is not None)]
    name = "conv_integer" if integer else "conv"
    body = _conv_integer(windows, groups, present) if integer else _conv(windows, groups)
    context.generic(name, (windows, groups, present), operands, [target], body)
    context.define(output, target)


def convolved(
    source: Tensor,
    weight: Tensor,
    windows: Windows,
    groups: int,
    index: Sequence[Expr],
    total: Sum,
    term: Callable[[Expr, Expr], Expr],
) -> None:
    """Adds `term(input, weight, index of the weight)` of each tap of output `index` to `total`."""
    channels = weight.shape[1]
    group = bind(tirx.truncdiv(index[1], tirx.truncdiv(weight.shape[0], groups)))
    with each(windows.loop([channels]), parallel=False) as tap:
        places = windows.places(index[2:], tap[1:])
        with T.If(_all_inside(places, source.shape[2:])), T.Then():
            value = source[[index[0], group * channels + tap[0], *places]]
            total.add(term(value, weight[[index[1], *tap]]))


def _conv(windows: Windows, groups: int) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        source, weight, target = inputs[0], inputs[1], outputs[0]
        with each(target.shape) as index:
            total = Sum(target.dtype, inputs[2][[index[1]]] if len(inputs) > 2 else 0)
            convolved(source, weight, windows, groups, index, total, lambda x, w: x * w)
            target[index] = total.value

    return body


def _conv_integer(windows: Windows, groups: int, present: tuple[bool, ...]) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        source, weight, target = inputs[0], inputs[1], outputs[0]
        zeros = iter(inputs[2:])
        source_zero, weight_zero = (next(zeros) if there else None for there in present)
        with each(target.shape) as index:
            a = zero_point(source_zero, index[1])
            b = zero_point(weight_zero, index[1])
            total = Sum("int32")
            term = lambda x, w: (T.Cast("int32", x) - a) * (T.Cast("int32", w) - b)  # noqa: E731
            convolved(source, weight, windows, groups, index, total, term)
            target[index] = total.value

    return body


def zero_point(tensor: Tensor | None, channel: Expr, dtype: str = "int32") -> Expr:
    """A scalar, or one per channel."""
    if tensor is None:
        return tirx.const(0, dtype)
    if tensor.rank == 0:
        return bind(tensor.get([], dtype))
    single = tensor.layout.shape[0] == 1
    return bind(tensor.get([T.int32(0) if single else channel], dtype))


def conv_transpose(context: GraphContext, node: ir.Node) -> None:
    source, weight, output = node.inputs[0], node.inputs[1], node.outputs[0]
    assert source is not None and weight is not None
    kernel = kernel_of(context, node, weight)
    rules, rank = context.node_context(node), len(kernel)
    shape, after = context.shape(source), context.shape(output)
    strides, dilations = rules.integers("strides", [1] * rank), rules.integers("dilations", [1] * rank)
    extra = rules.integers("output_padding", [0] * rank)
    automatic = rules.text("auto_pad", "NOTSET")
    starts = list(rules.integers("pads", [0] * (2 * rank))[:rank])
    if automatic in ("SAME_UPPER", "SAME_LOWER") or "output_shape" in node.attributes:
        for i in range(rank):
            before, size = shape[2 + i], after[2 + i]
            if not isinstance(before, int) or not isinstance(size, int):
                raise UnsupportedError(f"{label(node)} has a padding that depends on the input's size")
            total = max(0, strides[i] * (before - 1) + extra[i] + (kernel[i] - 1) * dilations[i] + 1 - size)
            starts[i] = total // 2 if automatic != "SAME_LOWER" else total - total // 2
    windows = Windows(tuple(kernel), tuple(strides), tuple(dilations), tuple((pad, 0) for pad in starts))
    groups = node.attributes.get_int("group", 1)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    operands = [context.view(value) for value in (source, weight, bias) if value is not None]
    target = context.allocate(output.name or "conv", dtype_of(output), after, value=output)
    context.generic("conv_transpose", (windows, groups), operands, [target], _transpose(windows, groups))
    context.define(output, target)


def _transpose(windows: Windows, groups: int) -> Body:
    """Every output adds up the inputs whose window reaches it."""

    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        source, weight, target = inputs[0], inputs[1], outputs[0]
        per_group = weight.shape[1]
        with each(target.shape) as index:
            total = Sum(target.dtype, inputs[2][[index[1]]] if len(inputs) > 2 else 0)
            group = bind(tirx.truncdiv(index[1], per_group))
            channels = tirx.truncdiv(weight.shape[0], groups)
            with each(windows.loop([channels]), parallel=False) as tap:
                valid, places = tirx.const(True, "bool"), []
                for i in range(windows.rank):
                    distance = bind(index[2 + i] + windows.pads[i][0] - tap[1 + i] * windows.dilations[i])
                    place = bind(tirx.truncdiv(distance, windows.strides[i]))
                    exact = tirx.And(distance >= 0, tirx.EQ(place * windows.strides[i], distance))
                    valid = tirx.And(valid, tirx.And(exact, place < source.shape[2 + i]))
                    places.append(place)
                with T.If(valid), T.Then():
                    channel = group * channels + tap[0]
                    value = source[[index[0], channel, *places]]
                    total.add(value * weight[[channel, index[1] - group * per_group, *tap[1:]]])
            target[index] = total.value

    return body


def pool(context: GraphContext, node: ir.Node) -> None:
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    windows = windows_of(context, node, list(node.attributes.get_ints("kernel_shape") or []))
    view, shape = context.view(source), context.shape(output)
    target = context.allocate(output.name or "pool", dtype_of(output), shape, value=output)
    targets = [target]
    attributes: tuple[object, ...] = (node.op_type,)
    if node.op_type == "MaxPool":
        body = _max_pool(windows, bool(node.attributes.get_int("storage_order", 0)))
        attributes = (node.op_type, node.attributes.get_int("storage_order", 0))
        if len(node.outputs) > 1 and is_read(node.outputs[1]):
            indices = node.outputs[1]
            targets.append(context.allocate(indices.name or "indices", "int64", shape, value=indices))
            context.define(indices, targets[1])
    elif node.op_type == "AveragePool":
        counted = bool(node.attributes.get_int("count_include_pad", 0))
        attributes, body = (node.op_type, counted), _average_pool(windows, counted)
    else:
        p = node.attributes.get_int("p", 2)
        attributes, body = (node.op_type, p), _lp_pool(windows, p)
    context.generic("pool", (windows, attributes), [view], targets, body)
    context.define(output, target)


def _max_pool(windows: Windows, column_major: bool) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        source, target = inputs[0], outputs[0]
        with each(target.shape) as index:
            best, where, found = Sum(target.dtype), Sum("int32"), Sum("int32")
            with each(windows.loop(), parallel=False) as tap:
                places = windows.places(index[2:], tap)
                with T.If(_all_inside(places, source.shape[2:])), T.Then():
                    value = bind(source[[*index[:2], *places]])
                    better = bind(tirx.Or(tirx.EQ(found.value, T.int32(0)), value > best.value))
                    best.set(tirx.Select(better, value, best.value))
                    flat = _flat([*index[:2], *places], source.shape, column_major)
                    where.set(tirx.Select(better, flat, where.value))
                    found.set(T.int32(1))
            target[index] = best.value
            if len(outputs) > 1:
                outputs[1][index] = T.Cast("int64", where.value)

    return body


def _flat(index: Sequence[Expr], shape: Sequence[Expr], column_major: bool) -> Expr:
    """The position in the whole input; the order is that of the spatial axes."""
    result = index[0] * shape[1] + index[1]
    order = list(range(2, len(shape)))
    for axis in order:
        result = result * shape[axis]
    inner: Expr = T.int32(0)
    for axis in reversed(order) if column_major else order:
        inner = inner * shape[axis] + index[axis]
    return result + inner


def _average_pool(windows: Windows, counted: bool) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        source, target = inputs[0], outputs[0]
        with each(target.shape) as index:
            total, count = Sum(target.dtype), Sum("int32")
            with each(windows.loop(), parallel=False) as tap:
                places = windows.places(index[2:], tap)
                with T.If(_all_inside(places, source.shape[2:])), T.Then():
                    total.add(source[[*index[:2], *places]])
                    if not counted:
                        count.add(T.int32(1))
                if counted:  # padding on either side, but not what `ceil_mode` adds behind it
                    padded = [
                        (place + before, size + before + after)
                        for place, size, (before, after) in zip(places, source.shape[2:], windows.pads, strict=True)
                    ]
                    within = _all_inside([place for place, _ in padded], [size for _, size in padded])
                    count.add(tirx.Select(within, T.int32(1), T.int32(0)))
            target[index] = total.value / T.Cast(target.dtype, count.value)

    return body


def _lp_pool(windows: Windows, p: int) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        source, target = inputs[0], outputs[0]
        with each(target.shape) as index:
            total = Sum(target.dtype)
            with each(windows.loop(), parallel=False) as tap:
                places = windows.places(index[2:], tap)
                with T.If(_all_inside(places, source.shape[2:])), T.Then():
                    total.add(power(tirx.abs(source[[*index[:2], *places]]), p))
            target[index] = root(total.value, p)

    return body


def power(x: Expr, p: int) -> Expr:
    x = bind(x)
    result = x
    for _ in range(p - 1):
        result = result * x
    return result


def root(x: Expr, p: int) -> Expr:
    if p == 1:
        return x
    return tirx.sqrt(x) if p == 2 else math.exp(math.log(bind(x)) * math.constant(1 / p, x))


def global_lp_pool(context: GraphContext, node: ir.Node) -> None:
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    target = context.allocate(output.name or "pool", dtype_of(output), context.shape(output), value=output)
    p = node.attributes.get_int("p", 2)
    context.generic("global_lp_pool", p, [context.view(source)], [target], _global_lp(p))
    context.define(output, target)


def _global_lp(p: int) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        source, target = inputs[0], outputs[0]
        with each(target.shape) as index:
            total = Sum(target.dtype)
            with each(source.shape[2:], parallel=False) as places:
                total.add(power(tirx.abs(source[[*index[:2], *places]]), p))
            target[index] = root(total.value, p)

    return body


def max_unpool(context: GraphContext, node: ir.Node) -> None:
    """Every value goes where `MaxPool` says it came from, in the shape that pooling would have come from."""
    source, indices, output = node.inputs[0], node.inputs[1], node.outputs[0]
    assert source is not None and indices is not None
    shape = context.shape(output)
    target = context.allocate(output.name or "unpool", dtype_of(output), shape, value=output)
    rules, rank = context.node_context(node), len(shape) - 2
    kernel, strides = rules.integers("kernel_shape"), rules.integers("strides", [1] * rank)
    pads = rules.integers("pads", [0] * (2 * rank))
    before = context.shape(source)
    spatial = []
    for i in range(rank):
        size = before[2 + i]
        if not isinstance(size, int):
            raise UnsupportedError(f"{label(node)} works on an image of variable size")
        spatial.append((size - 1) * strides[i] + kernel[i] - pads[i] - pads[rank + i])
    context.generic(
        "max_unpool", tuple(spatial), [context.view(source), context.view(indices)], [target], _unpool(tuple(spatial))
    )
    context.define(output, target)


def _unpool(spatial: tuple[int, ...]) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        (source, indices), (target,) = inputs, outputs
        with each(target.shape, parallel=False) as index:
            target[index] = tirx.const(0, target.dtype)
        with each(source.shape, parallel=False) as index:
            rest = bind(indices.get(index, "int32"))
            places: list[Expr] = []
            for size in reversed(spatial):
                places.insert(0, bind(tirx.truncmod(rest, size)))
                rest = bind(tirx.truncdiv(rest, size))
            with T.If(_all_inside(places, target.shape[2:])), T.Then():
                target[[*index[:2], *places]] = source[index]

    return body


def col2im(context: GraphContext, node: ir.Node) -> None:
    """The inverse of `im2col`: columns are added up where they came from."""
    source, output = node.inputs[0], node.outputs[0]
    image, block = context.content(node.inputs[1]), context.content(node.inputs[2])
    assert source is not None and image is not None and block is not None
    rules, rank = context.node_context(node), len(block)
    pads = rules.integers("pads", [0] * (2 * rank))
    kernel = tuple(size for size in block if isinstance(size, int))
    windows = Windows(
        kernel,
        tuple(rules.integers("strides", [1] * rank)),
        tuple(rules.integers("dilations", [1] * rank)),
        tuple((pads[i], pads[rank + i]) for i in range(rank)),
    )
    blocks = []
    for i, size in enumerate(image):
        if not isinstance(size, int):
            raise UnsupportedError(f"{label(node)} works on an image of variable size")
        extent = (kernel[i] - 1) * windows.dilations[i] + 1
        blocks.append((size + sum(windows.pads[i]) - extent) // windows.strides[i] + 1)
    target = context.allocate(output.name or "image", dtype_of(output), context.shape(output), value=output)
    attributes = (windows, tuple(blocks))
    context.generic("col2im", attributes, [context.view(source)], [target], _col2im(*attributes))
    context.define(output, target)


def _col2im(windows: Windows, blocks: tuple[int, ...]) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        (source,), (target,) = inputs, outputs
        taps = 1
        for size in windows.kernel:
            taps *= size
        with each(target.shape) as index:
            total = Sum(target.dtype)
            with each(windows.loop(), parallel=False) as tap:
                valid, column = tirx.const(True, "bool"), T.int32(0)
                row: Expr = T.int32(0)
                for i in range(windows.rank):
                    distance = bind(index[2 + i] + windows.pads[i][0] - tap[i] * windows.dilations[i])
                    place = bind(tirx.truncdiv(distance, windows.strides[i]))
                    exact = tirx.And(distance >= 0, tirx.EQ(place * windows.strides[i], distance))
                    valid = tirx.And(valid, tirx.And(exact, place < blocks[i]))
                    column = column * blocks[i] + place
                    row = row * windows.kernel[i] + tap[i]
                with T.If(valid), T.Then():
                    total.add(source[[index[0], index[1] * taps + row, column]])
            target[index] = total.value

    return body


OPS: dict[str, Callable[[GraphContext, ir.Node], None]] = {
    "Col2Im": col2im,
    "Conv": conv,
    "ConvInteger": conv,
    "ConvTranspose": conv_transpose,
    "GlobalLpPool": global_lp_pool,
    "LpPool": pool,
    "MaxUnpool": max_unpool,
}
