"""Operators that only say where elements are: most are views and cost nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from edgec.errors import UnsupportedError
from edgec.lower.wasm.graph_context import GraphContext, label
from edgec.lower.wasm.graph_dims import symbols
from edgec.lower.wasm.graph_operands import refuse, value_sources
from edgec.lower.wasm.graph_values import Lazy, TensorView, dtype_of
from edgec.lower.wasm.kernels.sequence import arithmetic_sequence
from edgec.lower.wasm.ops.gather import taken
from edgec.passes import dims as d
from edgec.passes.base import constant, is_read
from edgec.passes.shape_context import axis_of
from edgec.passes.shape_rules import pad_amounts, slice_ranges


def reshape(context: GraphContext, node: ir.Node) -> None:
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    shape = context.shape(output)
    view = context.view(source)
    reshaped = view.reshaped(shape)
    if reshaped is None:
        reshaped = context.copied(view).reshaped(shape)
    assert reshaped is not None
    context.define(output, reshaped)


def transpose(context: GraphContext, node: ir.Node) -> None:
    source = node.inputs[0]
    assert source is not None
    view = context.view(source)
    order = node.attributes.get_ints("perm") or list(range(len(view.shape)))[::-1]
    context.define(node.outputs[0], view.transposed(order))


def expand(context: GraphContext, node: ir.Node) -> None:
    source = node.inputs[0]
    assert source is not None
    context.define(node.outputs[0], context.broadcast(context.view(source), context.shape(node.outputs[0])))


def slice_(context: GraphContext, node: ir.Node) -> None:
    source = node.inputs[0]
    assert source is not None
    view = context.view(source)
    for part in slice_ranges(context.node_context(node)):
        view = view.sliced(part.axis, part.start, part.step, part.length)
    context.define(node.outputs[0], view)


def split(context: GraphContext, node: ir.Node) -> None:
    source = node.inputs[0]
    assert source is not None
    view = context.view(source)
    axis = axis_of(node.attributes.get_int("axis", 0), len(view.shape))
    start: d.Dim = 0
    for output in node.outputs:
        length = context.shape(output)[axis]
        context.define(output, view.sliced(axis, start, 1, length))
        start = d.add(start, length)


def concat(context: GraphContext, node: ir.Node) -> None:
    output = node.outputs[0]
    shape = context.shape(output)
    axis = axis_of(node.attributes.get_int("axis", 0), len(shape))
    target = context.allocate(output.name or "concat", dtype_of(output), shape, value=output)
    start: d.Dim = 0
    for value in node.inputs:
        assert value is not None
        own = context.shape(value)
        for other, (dim, wanted) in enumerate(zip(own, shape, strict=True)):
            if other != axis:
                context.require_same(dim, wanted)
        place = target.sliced(axis, start, 1, own[axis])
        if context.handle(value) != place:  # else a state, to which the rest is appended
            context.compute_into(context.operand(value, own), place)
        start = d.add(start, own[axis])
    context.define(output, target)


def tile(context: GraphContext, node: ir.Node) -> None:
    """[a, b] tiled by [m, n] is [m, a, n, b] with repeated axes, as [m * a, n * b]."""
    source, output = node.inputs[0], node.outputs[0]
    times = context.content(node.inputs[1])
    assert source is not None and times is not None
    view = context.view(source)
    spread_shape: list[d.Dim] = []
    strides: list[d.Dim] = []
    for dim, stride, count in zip(view.shape, view.strides, times, strict=True):
        spread_shape += [count, dim]
        strides += [0, stride]
    spread = TensorView(view.storage, view.dtype, tuple(spread_shape), tuple(strides), view.offset)
    target = context.allocate(output.name or "tile", view.dtype, context.shape(output), value=output)
    inner = target.reshaped(spread_shape)
    assert inner is not None
    context.compute_into(Lazy(("leaf", 0), (spread,), view.dtype, tuple(spread_shape)), inner)
    context.define(output, target)


def pad(context: GraphContext, node: ir.Node) -> None:
    mode = node.attributes.get_string("mode", "constant")
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    amounts = [(a, b) for a, b in pad_amounts(context.node_context(node)) if isinstance(a, int) and isinstance(b, int)]
    view = context.view(source)
    if len(amounts) != len(view.shape):
        raise UnsupportedError(f"{label(node)} pads by amounts that depend on the input's size")
    if mode != "constant":
        _pad_by_index(context, node, view, amounts, mode)
        return
    shape = context.shape(output)
    target = context.allocate(output.name or "pad", dtype_of(output), shape, value=output)
    fill = node.inputs[2] if len(node.inputs) > 2 else None
    zero = Lazy(("number", 0, target.dtype), (), target.dtype, shape)
    context.compute_into(zero if fill is None else context.operand(fill, shape), target)
    inside = target
    for axis, (before, after) in enumerate(amounts):
        view = view.sliced(axis, max(0, -before), 1, d.add(view.shape[axis], min(0, before) + min(0, after)))
        inside = inside.sliced(axis, max(0, before), 1, view.shape[axis])
    context.compute_into(Lazy(("leaf", 0), (view,), view.dtype, view.shape), inside)
    context.define(output, target)


def _pad_by_index(
    context: GraphContext, node: ir.Node, view: TensorView, amounts: list[tuple[int, int]], mode: str
) -> None:
    """Edge, reflect and wrap: along each padded axis the positions are a table."""
    for axis, amount in enumerate(amounts):
        size = view.shape[axis]
        if amount == (0, 0):
            continue
        if not isinstance(size, int):
            raise UnsupportedError(f"{label(node)} pads an axis of variable size by `{mode}`")
        positions = np.pad(np.arange(size), amount, mode=mode) if min(amount) >= 0 else None  # type: ignore[call-overload]
        if positions is None:
            raise UnsupportedError(f"{label(node)} pads by negative amounts in mode `{mode}`")
        view = taken(context, view, axis, positions, f"{node.outputs[0].name}#{axis}")
    context.define(node.outputs[0], view)


def constant_of_shape(context: GraphContext, node: ir.Node) -> None:
    output = node.outputs[0]
    tensor = node.attributes.get_tensor("value")
    dtype = dtype_of(output)
    element = 0 if tensor is None else tensor.numpy().reshape(-1)[0]
    value = float(element) if dtype == "float32" else int(element)
    context.define(output, Lazy(("number", value, dtype), (), dtype, context.shape(output)))


def range_(context: GraphContext, node: ir.Node) -> None:
    output = node.outputs[0]
    start, step = context.content(node.inputs[0]), context.content(node.inputs[2])
    if start is None or step is None or not isinstance(step[0], int):
        raise UnsupportedError(f"{label(node)} has a start or step that is computed from the input's content")
    first, delta, (length,) = start[0], step[0], context.shape(output)
    target = context.allocate(output.name or "range", dtype_of(output), (length,), value=output)
    context.call(
        ("range", first, delta, length, target.dtype),
        lambda isa: arithmetic_sequence(start=first, step=delta, length=length, dtype=target.dtype),
        [target],
        symbols([first, length]),
    )
    context.define(output, target)


def depth_to_space(context: GraphContext, node: ir.Node) -> None:
    """`[n, b * b * c, h, w]` or, in mode CRD, `[n, c * b * b, h, w]` to `[n, c, h * b, w * b]`.

    A source whose channels are last in memory gives a result whose channels are.
    """
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    view, shape = context.view(source), context.shape(output)
    block = node.attributes.get_int("blocksize", 1)
    n, _, h, w = view.shape
    channels = shape[1]
    rows_first = node.attributes.get_string("mode", "DCR") == "DCR"
    spread = view.reshaped([n, block, block, channels, h, w] if rows_first else [n, channels, block, block, h, w])
    assert spread is not None
    if view.strides[1] == 1 and output not in context.outputs:
        target = context.allocate(output.name or "rearranged", view.dtype, [shape[0], shape[2], shape[3], channels])
        order = [0, 4, 1, 5, 2, 3] if rows_first else [0, 4, 2, 5, 3, 1]
        _rearrange(context, spread.transposed(order), target)
        context.define(output, target.transposed([0, 3, 1, 2]))
        return
    _rearranged(context, spread.transposed([0, 3, 4, 1, 5, 2] if rows_first else [0, 1, 4, 2, 5, 3]), output)


def space_to_depth(context: GraphContext, node: ir.Node) -> None:
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    view, shape = context.view(source), context.shape(output)
    block = node.attributes.get_int("blocksize", 1)
    n, channels = view.shape[0], view.shape[1]
    spread = view.reshaped([n, channels, shape[2], block, shape[3], block])
    assert spread is not None
    depth_first = node.attributes.get_string("mode", "DCR") == "CRD"
    _rearranged(context, spread.transposed([0, 1, 3, 5, 2, 4] if depth_first else [0, 3, 5, 1, 2, 4]), output)


def _rearranged(context: GraphContext, view: TensorView, output: ir.Value) -> None:
    target = context.allocate(output.name or "rearranged", view.dtype, context.shape(output), value=output)
    _rearrange(context, view, target)
    context.define(output, target)


def _rearrange(context: GraphContext, view: TensorView, target: TensorView) -> None:
    """Copies `view` to `target`, whose axes are those of `view`, some of them merged."""
    inner = target.reshaped(view.shape)
    assert inner is not None
    context.compute_into(Lazy(("leaf", 0), (view,), view.dtype, view.shape), inner)


def identity(context: GraphContext, node: ir.Node) -> None:
    source = node.inputs[0]
    assert source is not None
    context.define(node.outputs[0], context.view(source))


def dropout(context: GraphContext, node: ir.Node) -> None:
    """In inference nothing is dropped, and the mask is true everywhere."""
    training = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.array(False)
    ratio = constant(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] is not None else np.array(0.5)
    if training is None:
        sources = [source for value in node.inputs[1:] if value is not None for source in value_sources(value)]
        refuse(node, "whether elements are dropped", sources)
    drops = training is not None and training.any() and (ratio is None or ratio.any())
    if drops:
        raise UnsupportedError(f"{label(node)} drops elements at random, as in training", hint="export for inference")
    identity(context, node)
    for mask in node.outputs[1:]:
        if is_read(mask):
            context.define(mask, Lazy(("number", 1, "bool"), (), "bool", context.shape(mask)))


OPS: dict[str, Callable[[GraphContext, ir.Node], None]] = {
    "Concat": concat,
    "ConstantOfShape": constant_of_shape,
    "DepthToSpace": depth_to_space,
    "Dropout": dropout,
    "Expand": expand,
    "Flatten": reshape,
    "Identity": identity,
    "Pad": pad,
    "Range": range_,
    "Reshape": reshape,
    "Slice": slice_,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Squeeze": reshape,
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": reshape,
}
