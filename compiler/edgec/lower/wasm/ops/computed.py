"""Operators that move elements, where the shapes are computed from tensors while running.

First a small kernel computes the new dimensions (and starts, steps, amounts); then most operators are what they are
with shapes that are known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.errors import UnsupportedError
from edgec.lower.wasm.graph_context import GraphContext, label
from edgec.lower.wasm.graph_values import TensorView, dtype_of
from edgec.lower.wasm.kernels.builder import bind
from edgec.lower.wasm.kernels.generic import Body, Sum, Tensor, each
from edgec.lower.wasm.ops import movement, selection
from edgec.passes import dims as d
from edgec.passes.computed_dims import slice_axes
from edgec.passes.shape_context import axis_of

Expr = Any
Emitter = Callable[[GraphContext, ir.Node], None]
_NONE = T.int64(-1)  # ends the run


def own(context: GraphContext, output: ir.Value, *words: str) -> list[ir.SymbolicDim]:
    """Names for numbers of one value that are no dimension of it."""
    return [ir.SymbolicDim(f"{context.number_base(output)}.{word}") for word in words]


def computed_dims(context: GraphContext, *outputs: ir.Value) -> list[d.Dim]:
    """The dimensions of outputs that this node is the first to have, in order."""
    found: dict[str, d.Dim] = {}
    for output in outputs:
        for dim in context.shape(output):
            if d.computed(dim) and not context.has_number(dim):
                found[str(dim)] = dim
    return list(found.values())


def integers(tensor: Tensor) -> list[Expr]:
    """The elements of a small vector or scalar, int64."""
    if tensor.rank == 0:
        return [held(tensor.get([], "int64"))]
    extent = tensor.layout.shape[0]
    assert isinstance(extent, int)
    return [held(tensor.get([T.int32(i)], "int64")) for i in range(extent)]


def wide(value: Expr) -> Expr:
    return T.Cast("int64", value)


def held(value: Expr) -> Expr:
    """The value, through memory that LLVM removes: TVM takes exponential time over chains of bound variables."""
    place = Sum(str(value.ty.dtype))
    place.set(value)
    return place.value


def choose(condition: Expr, yes: Expr, no: Expr) -> Expr:
    return held(tirx.Select(condition, yes, no))


def fitting(condition: Expr) -> Expr:
    """A number with the bound 0: the run ends unless `condition` holds."""
    return tirx.Select(condition, T.int64(0), _NONE)


def all_of(conditions: Sequence[Expr]) -> Expr:
    result = tirx.const(True, "bool")
    for condition in conditions:
        result = tirx.And(result, condition)
    return result


def emit_numbers(
    context: GraphContext,
    node: ir.Node,
    attributes: Any,
    dims: Sequence[d.Dim],
    free: Sequence[ir.SymbolicDim],
    inputs: Sequence[TensorView],
    body: Callable[[Sequence[Tensor]], tuple[Expr, list[Expr]]],
) -> None:
    """`body` gives (whether the operands make sense, the values of `dims` and then of `free`)."""
    (fit,) = own(context, node.outputs[0], "fit")
    bounds: dict[str, int | None] = {str(fit): 0, **context.bounded(*dims), **{str(name): None for name in free}}

    def numbers(tensors: Sequence[Tensor]) -> list[Expr]:
        fits, values = body(tensors)
        return [fitting(fits), *values]

    context.numbers(node.op_type.lower(), attributes, bounds, inputs, numbers)


def operand(context: GraphContext, node: ir.Node, index: int) -> TensorView:
    value = node.inputs[index]
    assert value is not None
    return context.view(value)


def given(node: ir.Node, index: int) -> bool:
    return index < len(node.inputs) and node.inputs[index] is not None


# Shapes


def _reshape(context: GraphContext, node: ir.Node) -> None:
    zero = bool(node.attributes.get_int("allowzero", 0))
    dims = context.shape(node.outputs[0])

    def body(tensors: Sequence[Tensor]) -> tuple[Expr, list[Expr]]:
        source, shape = tensors
        sizes = []
        for axis, size in enumerate(integers(shape)):
            keeps = not zero and axis < source.rank
            sizes.append(choose(tirx.EQ(size, T.int64(0)), wide(source.shape[axis]), size) if keeps else size)
        total, known, free = _elements(source), Sum("int64", 1), Sum("int64", 0)
        for size in sizes:
            known.set(known.value * tirx.Select(size < 0, T.int64(1), size))
            free.add(tirx.Select(size < 0, T.int64(1), T.int64(0)))
        rest = held(tirx.truncdiv(total, tirx.max(known.value, T.int64(1))))
        open_ = bind(tirx.EQ(free.value, T.int64(1)))
        product = held(known.value * tirx.Select(open_, rest, T.int64(1)))
        sensible = all_of([size >= -1 for size in sizes])
        fits = all_of([sensible, free.value <= 1, tirx.EQ(product, total)])
        return fits, [tirx.Select(size < 0, rest, size) for size in sizes]

    views = [operand(context, node, 0), operand(context, node, 1)]
    emit_numbers(context, node, zero, dims, (), views, body)
    movement.reshape(context, node)


def _elements(tensor: Tensor) -> Expr:
    total: Expr = T.int64(1)
    for extent in tensor.shape:
        total = total * wide(extent)
    return held(total)


def _squeeze(context: GraphContext, node: ir.Node) -> None:
    dims = context.shape(node.outputs[0])

    def body(tensors: Sequence[Tensor]) -> tuple[Expr, list[Expr]]:
        source, axes = tensors
        gone, inside = flags(axes, source.rank)
        ones = [tirx.Or(tirx.EQ(flag, T.int64(0)), tirx.EQ(e, 1)) for flag, e in zip(gone, source.shape, strict=True)]
        return all_of([inside, *ones]), kept_extents(source, gone, len(dims))

    emit_numbers(context, node, None, dims, (), [operand(context, node, 0), operand(context, node, 1)], body)
    movement.reshape(context, node)


def _unsqueeze(context: GraphContext, node: ir.Node) -> None:
    dims = context.shape(node.outputs[0])

    def body(tensors: Sequence[Tensor]) -> tuple[Expr, list[Expr]]:
        source, axes = tensors
        new, inside = flags(axes, len(dims))
        place, sizes = Sum("int64", 0), []
        for flag in new:
            size: Expr = T.int64(1)
            for axis, extent in enumerate(source.shape):
                here = tirx.And(tirx.EQ(flag, T.int64(0)), tirx.EQ(place.value, T.int64(axis)))
                size = tirx.Select(here, wide(extent), size)
            sizes.append(held(size))
            place.add(T.int64(1) - flag)
        return tirx.And(inside, tirx.EQ(place.value, T.int64(source.rank))), sizes

    emit_numbers(context, node, None, dims, (), [operand(context, node, 0), operand(context, node, 1)], body)
    movement.reshape(context, node)


def flags(axes: Tensor, rank: int) -> tuple[list[Expr], Expr]:
    """1 for every axis that `axes` names, and whether all of them are axes."""
    inside = Sum("int64", 1)
    found = [Sum("int64", 0) for _ in range(rank)]
    with T.serial(0, axes.shape[0] if axes.rank else T.int32(1)) as i:
        raw = held(axes.get([i] if axes.rank else [], "int64"))
        axis = choose(raw < 0, raw + rank, raw)
        inside.set(tirx.Select(tirx.And(axis >= 0, axis < rank), inside.value, T.int64(0)))
        for number, flag in enumerate(found):
            flag.set(tirx.Select(tirx.EQ(axis, T.int64(number)), T.int64(1), flag.value))
    return [held(flag.value) for flag in found], tirx.EQ(inside.value, T.int64(1))


def kept_extents(source: Tensor, gone: Sequence[Expr], count: int) -> list[Expr]:
    """The extents of the axes that are not gone, in order."""
    sizes = []
    for wanted in range(count):
        place, size = Sum("int64", 0), Sum("int64", -1)
        for flag, extent in zip(gone, source.shape, strict=True):
            kept = tirx.EQ(flag, T.int64(0))
            here = tirx.And(kept, tirx.EQ(place.value, T.int64(wanted)))
            size.set(tirx.Select(here, wide(extent), size.value))
            place.add(tirx.Select(kept, T.int64(1), T.int64(0)))
        sizes.append(held(size.value))
    return sizes


def _expand(context: GraphContext, node: ir.Node) -> None:
    shape = context.shape(node.outputs[0])
    dims = computed_dims(context, node.outputs[0])

    def body(tensors: Sequence[Tensor]) -> tuple[Expr, list[Expr]]:
        source, target = tensors
        asked = integers(target)
        fits, sizes = [], []
        for axis, dim in enumerate(shape):
            from_end = axis - len(shape)
            have = wide(source.shape[from_end]) if -from_end <= source.rank else T.int64(1)
            want = asked[from_end] if -from_end <= len(asked) else T.int64(1)
            fits.append(tirx.Or(tirx.EQ(have, want), tirx.Or(tirx.EQ(have, T.int64(1)), tirx.EQ(want, T.int64(1)))))
            if dim in dims:
                sizes.append(held(tirx.Select(tirx.EQ(have, T.int64(1)), want, have)))
        return all_of(fits), sizes

    emit_numbers(context, node, None, dims, (), [operand(context, node, 0), operand(context, node, 1)], body)
    movement.expand(context, node)


def _constant_of_shape(context: GraphContext, node: ir.Node) -> None:
    dims = context.shape(node.outputs[0])
    emit_numbers(context, node, None, dims, (), [operand(context, node, 0)], lambda t: (all_of([]), integers(t[0])))
    movement.constant_of_shape(context, node)


def _by_first(read: Callable[[GraphContext, ir.Node], None], index: int) -> Emitter:
    """One new dimension, which is the value of operand `index`; not more than the axis has, if it has one."""

    def emit(context: GraphContext, node: ir.Node) -> None:
        shape, source = context.shape(node.outputs[0]), operand(context, node, 0)
        dims = computed_dims(context, *node.outputs)
        axis = next(i for i, dim in enumerate(shape) if dim in dims)
        limited = len(shape) == len(source.shape)

        def body(tensors: Sequence[Tensor]) -> tuple[Expr, list[Expr]]:
            (size,) = integers(tensors[1])
            return tirx.And(size >= 0, size <= wide(tensors[0].shape[axis])) if limited else size >= 0, [size]

        emit_numbers(context, node, axis, dims, (), [source, operand(context, node, index)], body)
        read(context, node)

    return emit


def _split(context: GraphContext, node: ir.Node) -> None:
    source = operand(context, node, 0)
    axis = axis_of(node.attributes.get_int("axis", 0), len(source.shape))
    dims = [context.shape(output)[axis] for output in node.outputs]

    def body(tensors: Sequence[Tensor]) -> tuple[Expr, list[Expr]]:
        sizes = integers(tensors[1])
        total: Expr = T.int64(0)
        for size in sizes:
            total = total + size
        whole = tirx.EQ(total, wide(tensors[0].shape[axis]))
        return all_of([whole, *(size >= 0 for size in sizes)]), sizes

    emit_numbers(context, node, axis, dims, (), [source, operand(context, node, 1)], body)
    movement.split(context, node)


# Parts


def _slice(context: GraphContext, node: ir.Node) -> None:
    output, source = node.outputs[0], operand(context, node, 0)
    rank, cut = len(source.shape), slice_axes(context.node_context(node))
    shape = context.shape(output)
    starts = own(context, output, *(f"start{axis}" for axis in cut))
    steps = own(context, output, *(f"step{axis}" for axis in cut))
    views = [source, *(operand(context, node, i) for i in range(1, 5) if given(node, i))]
    has = (given(node, 3), given(node, 4))

    def body(tensors: Sequence[Tensor]) -> tuple[Expr, list[Expr]]:
        first, last = integers(tensors[1]), integers(tensors[2])
        axes = integers(tensors[3]) if has[0] else [T.int64(i) for i in range(len(first))]
        strides = integers(tensors[3 + has[0]]) if has[1] else [T.int64(1)] * len(first)
        fits, sizes, from_, by = [], [], [], []
        for raw, step in zip(axes, strides, strict=True):
            fits += [raw >= -rank, raw < rank, tirx.NE(step, T.int64(0))]
        for axis in cut:
            size = wide(tensors[0].shape[axis])
            start, end, step = T.int64(0), size, T.int64(1)
            for raw, a, b, c in zip(axes, first, last, strides, strict=True):
                here = bind(tirx.EQ(tirx.Select(raw < 0, raw + rank, raw), T.int64(axis)))
                start, end, step = (choose(here, new, old) for new, old in ((a, start), (b, end), (c, step)))
            begin, count = _cut(start, end, step, size)
            sizes.append(count)
            from_.append(begin)
            by.append(step)
        return all_of(fits), [*sizes, *from_, *by]

    emit_numbers(context, node, (tuple(cut), has), [shape[axis] for axis in cut], [*starts, *steps], views, body)
    view = source
    for axis, start, step in zip(cut, starts, steps, strict=True):
        view = view.sliced(axis, start, step, shape[axis])
    context.define(output, view)


def _cut(start: Expr, end: Expr, step: Expr, size: Expr) -> tuple[Expr, Expr]:
    """(first element, number of elements) of `[start:end:step]`, as ONNX clamps them."""

    def bounded(value: Expr, least: Expr, most: Expr) -> Expr:
        value = choose(value < 0, value + size, value)
        return held(tirx.max(least, tirx.min(value, most)))

    forward = bind(step > 0)
    least = choose(forward, T.int64(0), _NONE)
    most = choose(forward, size, size - 1)
    begin = bounded(start, T.int64(0), most)
    stop = bounded(end, least, most)
    span = choose(forward, stop - begin, begin - stop)
    stride = held(tirx.max(T.int64(1), choose(forward, step, tirx.max(T.int64(0), step) - step)))
    return begin, held(tirx.max(T.int64(0), tirx.truncdiv(span + stride - 1, stride)))


def _tile(context: GraphContext, node: ir.Node) -> None:
    source, output = operand(context, node, 0), node.outputs[0]
    dims = context.shape(output)

    def body(tensors: Sequence[Tensor]) -> tuple[Expr, list[Expr]]:
        times = integers(tensors[1])
        sizes = [time * wide(extent) for time, extent in zip(times, tensors[0].shape, strict=True)]
        return all_of([time >= 0 for time in times]), sizes

    emit_numbers(context, node, None, dims, (), [source, operand(context, node, 1)], body)
    target = context.allocate(output.name or "tile", dtype_of(output), dims, value=output)
    context.generic("tile", None, [source], [target], _repeated)
    context.define(output, target)


def _repeated(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    (source,), (target,) = inputs, outputs
    with each(target.shape) as index:
        target[index] = source[[tirx.truncmod(i, extent) for i, extent in zip(index, source.shape, strict=True)]]


_PAD_MODES = ("constant", "reflect", "edge", "wrap")


def _pad(context: GraphContext, node: ir.Node) -> None:
    output, source = node.outputs[0], operand(context, node, 0)
    mode = node.attributes.get_string("mode", "constant")
    if mode not in _PAD_MODES:
        raise UnsupportedError(f"{label(node)} has the unknown mode `{mode}`")
    shape, rank = context.shape(output), len(source.shape)
    padded = [axis for axis, dim in enumerate(shape) if dim in computed_dims(context, output)]
    befores = own(context, output, *(f"before{axis}" for axis in padded))
    has_axes = given(node, 3)
    views = [source, operand(context, node, 1), *([operand(context, node, 3)] if has_axes else [])]

    def body(tensors: Sequence[Tensor]) -> tuple[Expr, list[Expr]]:
        amounts = integers(tensors[1])
        half = len(amounts) // 2
        axes = integers(tensors[2]) if has_axes else [T.int64(i) for i in range(half)]
        fits, sizes, before_all = [], [], []
        for axis in padded:
            before, after = T.int64(0), T.int64(0)
            for i, raw in enumerate(axes):
                here = bind(tirx.EQ(tirx.Select(raw < 0, raw + rank, raw), T.int64(axis)))
                before, after = choose(here, amounts[i], before), choose(here, amounts[half + i], after)
            extent = wide(tensors[0].shape[axis])
            if mode != "constant":  # they repeat the data, at most once around in mode `reflect`
                most = extent - 1 if mode == "reflect" else T.int64(2**31 - 1)
                fits += [before >= 0, after >= 0, before <= most, after <= most, extent > 0]
            sizes.append(before + extent + after)
            before_all.append(before)
        fits += [tirx.And(raw >= -rank, raw < rank) for raw in axes]
        return all_of(fits), [*sizes, *before_all]

    emit_numbers(context, node, (mode, tuple(padded)), [shape[axis] for axis in padded], befores, views, body)
    target = context.allocate(output.name or "pad", dtype_of(output), shape, value=output)
    fill = [operand(context, node, 2)] if given(node, 2) and mode == "constant" else []
    # The amounts travel as the shape of a tensor that is not read.
    amounts = TensorView(target.storage, target.dtype, tuple(befores), (0,) * len(befores))
    attributes = (mode, tuple(padded), bool(fill))
    context.generic("computed_pad", attributes, [source, amounts, *fill], [target], _padded(mode, padded))
    context.define(output, target)


def _padded(mode: str, padded: Sequence[int]) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        (source, amounts, *fill), (target,) = inputs, outputs
        empty = fill[0][[T.int32(0)] * fill[0].rank] if fill else tirx.const(0, target.dtype)
        with each(target.shape) as index:
            places, inside = list(index), []
            for before, axis in zip(amounts.shape, padded, strict=True):
                extent = source.shape[axis]
                place = bind(index[axis] - before)
                if mode == "constant":
                    inside.append(tirx.And(place >= 0, place < extent))
                elif mode == "edge":
                    place = bind(tirx.max(0, tirx.min(place, extent - 1)))
                elif mode == "reflect":
                    place = choose(place < 0, 0 - place, place)
                    place = choose(place >= extent, 2 * (extent - 1) - place, place)
                else:
                    rest = bind(tirx.truncmod(place, extent))
                    place = choose(rest < 0, rest + extent, rest)
                places[axis] = place
            if mode != "constant":
                target[index] = source[places]
                return
            target[index] = empty
            with T.If(all_of(inside)), T.Then():
                target[index] = source[places]

    return body


def _range(context: GraphContext, node: ir.Node) -> None:
    output = node.outputs[0]
    dims = context.shape(output)
    views = [operand(context, node, i) for i in range(3)]
    kind = "float64" if np.dtype(views[0].dtype).kind == "f" else "int64"

    def body(tensors: Sequence[Tensor]) -> tuple[Expr, list[Expr]]:
        start, limit, delta = (bind(_only(tensor, kind)) for tensor in tensors)
        moves = tirx.NE(delta, tirx.const(0, kind))
        by = choose(moves, delta, tirx.const(1, kind))
        if kind == "float64":
            steps = T.ceil((limit - start) / by)
            count = T.Cast("int64", tirx.max(tirx.const(-1, kind), tirx.min(steps, tirx.const(2**31 - 1, kind))))
        else:
            ahead = choose(by > 0, T.int64(1), T.int64(-1))
            count = tirx.truncdiv((limit - start) * ahead + by * ahead - 1, by * ahead)
        return moves, [tirx.max(T.int64(0), count)]

    emit_numbers(context, node, kind, dims, (), views, body)
    target = context.allocate(output.name or "range", dtype_of(output), dims, value=output)
    context.generic("computed_range", None, [views[0], views[2]], [target], _counted)
    context.define(output, target)


def _only(tensor: Tensor, dtype: str) -> Expr:
    return tensor.get([T.int32(0)] * tensor.rank, dtype)


def _counted(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    (start, delta), (target,) = inputs, outputs
    first, step = bind(_only(start, target.dtype)), bind(_only(delta, target.dtype))
    with each(target.shape) as index:
        target[index] = first + T.Cast(target.dtype, index[0]) * step


OPS: dict[str, Emitter] = {
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "OneHot": _by_first(selection.one_hot, 1),
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "TopK": _by_first(selection.top_k, 1),
    "Unsqueeze": _unsqueeze,
}
