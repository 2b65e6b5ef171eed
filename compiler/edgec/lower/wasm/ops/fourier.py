"""DFT and STFT as sums over tables of cosines and sines; meant for short frames, it takes n^2 steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.errors import UnsupportedError
from edgec.lower.wasm.graph_context import GraphContext, label
from edgec.lower.wasm.graph_values import TensorView, dtype_of
from edgec.lower.wasm.kernels.builder import Expr, bind
from edgec.lower.wasm.kernels.generic import Body, Sum, Tensor, each
from edgec.passes.base import constant
from edgec.passes.shape_context import axis_of


def _circle(context: GraphContext, points: int) -> TensorView:
    """float64 `[points, 2]`: cosine and sine of each step round the circle."""
    angles = np.arange(points) * (2 * np.pi / points)
    table = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return TensorView.whole(context.weight(f"circle.{points}", lambda: table), "float64", table.shape)


def _check_float(node: ir.Node, dtype: str) -> None:
    if not dtype.startswith("float"):
        raise UnsupportedError(f"{label(node)} transforms {dtype}, only floating-point numbers are supported")


def dft(context: GraphContext, node: ir.Node) -> None:
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    view, shape = context.view(source), context.shape(output)
    _check_float(node, view.dtype)
    rank = len(shape)
    given = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    axis = axis_of(int(given.reshape(-1)[0]) if given is not None else node.attributes.get_int("axis", -2), rank)
    length = constant(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] is not None else None
    inverse = bool(node.attributes.get_int("inverse", 0))
    onesided = bool(node.attributes.get_int("onesided", 0))
    points: object = view.shape[axis]
    if length is not None:
        points = int(length.reshape(-1)[0])
    elif inverse and onesided:
        points = shape[axis]
    if not isinstance(points, int):
        raise UnsupportedError(f"{label(node)} transforms an axis of variable size")
    half = inverse and onesided  # the other half of the input is the conjugate of the first
    attributes = (axis, points, inverse, half)
    target = context.allocate(output.name or "dft", dtype_of(output), shape, value=output)
    circle = _circle(context, points)
    context.generic("dft", attributes, [view, circle], [target], _dft(*attributes))
    context.define(output, target)


def _dft(axis: int, points: int, inverse: bool, half: bool) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        (source, circle), (target,) = inputs, outputs
        complex_input = source.layout.shape[-1] == 2
        complex_output = target.layout.shape[-1] == 2
        dtype = "float64"  # of the sums; the answer is often nearly zero
        with each(target.shape[:-1]) as index:
            real, imaginary = Sum(dtype), Sum(dtype)
            with T.serial(0, T.int32(points) if half else tirx.min(source.shape[axis], T.int32(points))) as n:
                at, sign = n, tirx.const(1, dtype)
                if half:
                    mirrored = n >= source.shape[axis]
                    at = bind(tirx.Select(mirrored, points - n, n))
                    sign = tirx.Select(mirrored, tirx.const(-1, dtype), sign)
                place = [*index[:axis], at, *index[axis + 1 :]]
                x = source.get([*place, T.int32(0)], dtype)
                y = source.get([*place, T.int32(1)], dtype) * sign if complex_input else tirx.const(0, dtype)
                angle = bind(tirx.truncmod(index[axis] * n, points))
                cosine, sine = circle[[angle, T.int32(0)]], circle[[angle, T.int32(1)]]
                if not inverse:
                    sine = tirx.const(0, dtype) - sine
                real.add(x * cosine - y * sine)
                imaginary.add(x * sine + y * cosine)
            scale = tirx.const(1 / points if inverse else 1.0, dtype)
            target.put([*index, T.int32(0)], real.value * scale)
            if complex_output:
                target.put([*index, T.int32(1)], imaginary.value * scale)

    return body


def stft(context: GraphContext, node: ir.Node) -> None:
    source, output = node.inputs[0], node.outputs[0]
    window = node.inputs[2] if len(node.inputs) > 2 else None
    step = constant(node.inputs[1])
    assert source is not None and step is not None
    view, shape = context.view(source), context.shape(output)
    _check_float(node, view.dtype)
    length = constant(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] is not None else None
    points: object = int(length.reshape(-1)[0]) if length is not None else None
    if points is None and window is not None:
        points = context.shape(window)[0]
    if not isinstance(points, int):
        raise UnsupportedError(f"{label(node)} has frames of variable size")
    operands = [view, _circle(context, points)]
    if window is not None:
        operands.append(context.view(window))
    attributes = (int(step.reshape(-1)[0]), points)
    target = context.allocate(output.name or "stft", dtype_of(output), shape, value=output)
    context.generic("stft", attributes, operands, [target], _stft(*attributes))
    context.define(output, target)


def _stft(step: int, points: int) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        source, circle, (target,) = inputs[0], inputs[1], outputs
        window = inputs[2] if len(inputs) > 2 else None
        dtype = "float64"
        complex_input = source.rank > 2 and source.layout.shape[-1] == 2

        def part(batch: Expr, at: Expr, which: int) -> Expr:
            return source.get([batch, at, T.int32(which)] if source.rank > 2 else [batch, at], dtype)

        with each(target.shape[:-1]) as (batch, frame, frequency):
            real, imaginary = Sum(dtype), Sum(dtype)
            with T.serial(0, T.int32(points)) as n:
                at = frame * step + n
                weight = window.get([n], dtype) if window is not None else tirx.const(1, dtype)
                x = part(batch, at, 0) * weight
                y = part(batch, at, 1) * weight if complex_input else tirx.const(0, dtype)
                angle = bind(tirx.truncmod(frequency * n, points))
                cosine, sine = circle[[angle, T.int32(0)]], circle[[angle, T.int32(1)]]
                real.add(x * cosine + y * sine)
                imaginary.add(y * cosine - x * sine)
            target.put([batch, frame, frequency, T.int32(0)], real.value)
            target.put([batch, frame, frequency, T.int32(1)], imaginary.value)

    return body


OPS: dict[str, Callable[[GraphContext, ir.Node], None]] = {"DFT": dft, "STFT": stft}
