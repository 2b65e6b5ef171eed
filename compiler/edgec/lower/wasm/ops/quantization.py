"""QuantizeLinear, DequantizeLinear and products of quantized tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.errors import UnsupportedError
from edgec.lower.wasm.graph_context import GraphContext, label
from edgec.lower.wasm.graph_values import dtype_of, small_float
from edgec.lower.wasm.kernels import small_floats
from edgec.lower.wasm.kernels.builder import Expr, bind
from edgec.lower.wasm.kernels.generic import Body, Sum, Tensor, each
from edgec.lower.wasm.ops.algebra import batch_index
from edgec.lower.wasm.ops.windows import convolved, kernel_of, windows_of, zero_point
from edgec.passes.dims import Dim
from edgec.passes.shape_context import axis_of

_NARROW = {
    ir.DataType.INT4: (-8, 7),
    ir.DataType.UINT4: (0, 15),
    ir.DataType.INT2: (-2, 1),
    ir.DataType.UINT2: (0, 3),
}


def _limits(value: ir.Value) -> tuple[int, int]:
    if value.dtype in _NARROW:
        return _NARROW[value.dtype]
    info = np.iinfo(dtype_of(value))
    return int(info.min), int(info.max)


def _parameter(index: Sequence[Expr], tensor: Tensor, axis: int, block: int) -> list[Expr]:
    """Where the scale or zero point of element `index` is: one for all, one per slice, or one per block."""
    if tensor.rank == 0:
        return []
    if tensor.rank == 1:
        return [T.int32(0) if tensor.layout.shape[0] == 1 else index[axis]]
    return [tirx.truncdiv(place, block) if i == axis else place for i, place in enumerate(index)]


def _check_codes(node: ir.Node, value: ir.Value) -> None:
    if not dtype_of(value).removeprefix("u").startswith("int") and small_float(value) is None:
        raise UnsupportedError(
            f"{label(node)} quantizes to {value.dtype}, only integers and small floats are supported"
        )


def _blocks(context: GraphContext, node: ir.Node, output: ir.Value) -> tuple[tuple[Dim, ...], int, int]:
    """The output's shape, the axis along which scales differ, and how many elements share one (0: see the scale)."""
    shape = context.shape(output)
    return shape, axis_of(node.attributes.get_int("axis", 1), len(shape)), node.attributes.get_int("block_size", 0)


def quantize(context: GraphContext, node: ir.Node) -> None:
    source, scale, output = node.inputs[0], node.inputs[1], node.outputs[0]
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    assert source is not None and scale is not None
    _check_codes(node, output)
    shape, axis, block = _blocks(context, node, output)
    operands = [context.view(value) for value in (source, scale, zero) if value is not None]
    target = context.allocate(output.name or "quantized", dtype_of(output), shape, value=output)
    small, saturate = small_float(output), node.attributes.get_int("saturate", 1) != 0
    attributes = (axis, block, (0, 0) if small else _limits(output), small, saturate)
    context.generic("quantize_linear", attributes, operands, [target], _quantize(*attributes))
    context.define(output, target)


def _quantize(axis: int, block: int, limits: tuple[int, int], small: str | None, saturate: bool) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        source, scale, target = inputs[0], inputs[1], outputs[0]
        with each(target.shape) as index:
            place = _parameter(index, scale, axis, block)
            zero = tirx.const(0.0, "float32")
            if len(inputs) > 2:
                zero = inputs[2].get(_parameter(index, inputs[2], axis, block), "float32")
            value = source.get(index, "float32") / scale.get(place, "float32")
            if small is not None:
                code = bind(small_floats.encode(small, bind(value + zero), saturate and small.startswith("float8")))
                target[index] = small_floats.decode(small, code)
            else:
                target[index] = saturated(T.nearbyint(value) + zero, target.dtype, limits)

    return body


def saturated(value: Expr, dtype: str, limits: tuple[int, int]) -> Expr:
    low, high = (tirx.const(float(limit), "float32") for limit in limits)
    return T.Cast(dtype, tirx.max(tirx.min(value, high), low))


def dequantize(context: GraphContext, node: ir.Node) -> None:
    source, scale, output = node.inputs[0], node.inputs[1], node.outputs[0]
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    assert source is not None and scale is not None
    _check_codes(node, source)
    shape, axis, block = _blocks(context, node, output)
    operands = [context.view(value) for value in (source, scale, zero) if value is not None]
    target = context.allocate(output.name or "dequantized", dtype_of(output), shape, value=output)
    context.generic("dequantize_linear", (axis, block), operands, [target], _dequantize(axis, block))
    context.define(output, target)


def _dequantize(axis: int, block: int) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        source, scale, target = inputs[0], inputs[1], outputs[0]
        with each(target.shape) as index:
            place = _parameter(index, scale, axis, block)
            kind = "float32" if source.dtype == "float32" else "int32"
            difference = source.get(index, kind)
            if len(inputs) > 2:
                difference = difference - inputs[2].get(_parameter(index, inputs[2], axis, block), kind)
            if kind == "int32":
                difference = T.Cast("float32", difference)
            target.put(index, difference * scale.get(place, "float32"))

    return body


def matmul_integer(context: GraphContext, node: ir.Node) -> None:
    """`A` and `B` minus their zero points (of a row of A, a column of B), added up in int32."""
    a, b, output = node.inputs[0], node.inputs[1], node.outputs[0]
    assert a is not None and b is not None
    zeros = [node.inputs[i] if i < len(node.inputs) else None for i in (2, 3)]
    target = context.allocate(output.name or "product", "int32", context.shape(output), value=output)
    present = tuple(zero is not None for zero in zeros)
    operands = [context.view(value) for value in (a, b, *zeros) if value is not None]
    context.generic("matmul_integer", present, operands, [target], _matmul_integer(present))
    context.define(output, target)


def _matmul_integer(present: tuple[bool, ...]) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        a, b, target = inputs[0], inputs[1], outputs[0]
        rest = iter(inputs[2:])
        zeros = [next(rest) if there else None for there in present]
        with each(target.shape) as index:
            total = product(a, b, zeros[0], zeros[1], index)
            target[index] = total.value

    return body


def product(a: Tensor, b: Tensor, a_zero: Tensor | None, b_zero: Tensor | None, index: Sequence[Expr]) -> Sum:
    """An element of a batched matrix product, in int32. Zero points are scalars, per row of `a` or column of `b`."""
    row = index[-2] if a.rank > 1 else T.int32(0)
    column = index[-1] if b.rank > 1 else T.int32(0)
    total = Sum("int32")
    left, right = _zero(a_zero, index, row), _zero(b_zero, index, column, last=True)
    with T.serial(0, a.shape[-1]) as k:
        x = a.get([*batch_index(a, index[:-2]), *([row] if a.rank > 1 else []), k], "int32") - left
        y = b.get([*batch_index(b, index[:-2]), k, *([column] if b.rank > 1 else [])], "int32") - right
        total.add(x * y)
    return total


def _zero(tensor: Tensor | None, index: Sequence[Expr], place: Expr, *, last: bool = False) -> Expr:
    if tensor is None or tensor.rank < 2:
        return zero_point(tensor, place)
    batch = batch_index(tensor, index[:-2])
    pair = [T.int32(0), place] if last else [place, T.int32(0)]
    pair = [T.int32(0) if size == 1 else at for size, at in zip(tensor.layout.shape[-2:], pair, strict=True)]
    return bind(tensor.get([*batch, *pair], "int32"))


def qlinear_matmul(context: GraphContext, node: ir.Node) -> None:
    output = node.outputs[0]
    operands = [context.view(value) for value in node.inputs if value is not None]
    target = context.allocate(output.name or "product", dtype_of(output), context.shape(output), value=output)
    limits = _limits(output)
    context.generic("qlinear_matmul", limits, operands, [target], _qlinear_matmul(limits))
    context.define(output, target)


def _scale(tensor: Tensor, index: Sequence[Expr], place: Expr, *, last: bool = False) -> Expr:
    if tensor.rank == 0:
        return tensor.get([], "float32")
    if tensor.rank == 1:
        return tensor.get([T.int32(0) if tensor.layout.shape[0] == 1 else place], "float32")
    pair = [T.int32(0), place] if last else [place, T.int32(0)]
    pair = [T.int32(0) if size == 1 else at for size, at in zip(tensor.layout.shape[-2:], pair, strict=True)]
    return tensor.get([*batch_index(tensor, index[:-2]), *pair], "float32")


def _qlinear_matmul(limits: tuple[int, int]) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        a, a_scale, a_zero, b, b_scale, b_zero, scale, zero = inputs
        (target,) = outputs
        with each(target.shape) as index:
            total = product(a, b, a_zero, b_zero, index)
            row, column = index[-2] if a.rank > 1 else T.int32(0), index[-1]
            factor = _scale(a_scale, index, row) * _scale(b_scale, index, column, last=True)
            factor = factor / _scale(scale, index, row)
            shift = T.Cast("float32", _zero(zero, index, row))
            value = T.nearbyint(T.Cast("float32", total.value) * factor) + shift
            target[index] = saturated(value, target.dtype, limits)

    return body


def qlinear_conv(context: GraphContext, node: ir.Node) -> None:
    weight, output = node.inputs[3], node.outputs[0]
    assert weight is not None
    windows = windows_of(context, node, kernel_of(context, node, weight))
    groups, limits = node.attributes.get_int("group", 1), _limits(output)
    operands = [context.view(value) for value in node.inputs if value is not None]
    target = context.allocate(output.name or "conv", dtype_of(output), context.shape(output), value=output)
    attributes = (windows, groups, limits)

    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        x, x_scale, x_zero, w, w_scale, w_zero, scale, zero = inputs[:8]
        with each(outputs[0].shape) as index:
            channel = index[1]
            a, b = zero_point(x_zero, channel), zero_point(w_zero, channel)
            total = Sum("int32", inputs[8].get([channel], "int32") if len(inputs) > 8 else 0)
            term = lambda v, u: (T.Cast("int32", v) - a) * (T.Cast("int32", u) - b)  # noqa: E731
            convolved(x, w, windows, groups, index, total, term)
            factor = zero_point(x_scale, channel, "float32") * zero_point(w_scale, channel, "float32")
            factor = factor / zero_point(scale, channel, "float32")
            value = T.nearbyint(T.Cast("float32", total.value) * factor) + zero_point(zero, channel, "float32")
            outputs[0][index] = saturated(value, outputs[0].dtype, limits)

    context.generic("qlinear_conv", attributes, operands, [target], body)
    context.define(output, target)


OPS: dict[str, Callable[[GraphContext, ir.Node], None]] = {
    "DequantizeLinear": dequantize,
    "MatMulInteger": matmul_integer,
    "QLinearConv": qlinear_conv,
    "QLinearMatMul": qlinear_matmul,
    "QuantizeLinear": quantize,
}
