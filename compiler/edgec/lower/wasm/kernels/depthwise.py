"""Depthwise convolution, channels last: every channel with its own k x k filter, float32.

Taps are added row by row; those outside the input are skipped. The result of a pixel does not
depend on the tile it is computed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.graph_dims import symbols, to_tir
from edgec.lower.wasm.kernels import math
from edgec.lower.wasm.kernels.activations import ACTIVATIONS
from edgec.lower.wasm.kernels.builder import Buffer, Expr, KernelBuilder, PrimFunc, Registers, bind, load, splat, store
from edgec.lower.wasm.kernels.epilogue import Epilogue, shifts_at
from edgec.passes.dims import Dim

_PIXELS = 4  # of one output row, computed together


@dataclass(frozen=True)
class Window:
    """A sliding window over `[batch, height, width, channels]`; `pads` are those before the first row and column."""

    batch: Dim
    height: Dim
    width: Dim
    channels: Dim
    output_height: Dim
    output_width: Dim
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int]

    @property
    def sizes(self) -> tuple[Dim, ...]:
        return self.batch, self.channels, self.height, self.output_height, self.output_width, self.width

    def dimensions(self) -> list[str]:
        return symbols(self.sizes)

    def of_any_size(self) -> Window:
        """The same window over images whose `sizes` the kernel is told; they are its `dimensions()` in this order."""
        names = ("batch", "channels", "height", "output_height", "output_width", "width")
        sizes: dict[str, Any] = {name: ir.SymbolicDim(name) for name in names}
        return replace(self, **sizes)

    def taps(self, axis: int, position: Expr, size: Expr) -> tuple[Expr, Expr]:
        """First and one past the last tap of the window at output `position` that lie in the input."""
        step, stride = self.dilations[axis], self.strides[axis]
        start = bind(position * stride - self.pads[axis])
        first = tirx.truncdiv(tirx.max(-start, 0) + (step - 1), step)
        past = tirx.min(tirx.truncdiv(tirx.max(size - start, 0) + (step - 1), step), self.kernel[axis])
        return bind(first), bind(past)


def pack_depthwise(weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """`[channels, 1, height, width]` -> `[height, width, channels]`."""
    return np.ascontiguousarray(weight[:, 0].transpose(1, 2, 0))


def depthwise(window: Window, epilogue: Epilogue) -> PrimFunc:
    """Parameters: input, weights, [bias], [residual], output, `window.dimensions()`."""
    w = window
    with KernelBuilder() as k:
        source = k.buffer("input", "float32")
        weights = k.buffer("weights", "float32")
        bias = k.buffer("bias", "float32") if epilogue.bias else None
        residual = k.buffer("residual", "float32") if epilogue.residual else None
        output = k.buffer("output", "float32")
        variables = {name: k.scalar(name) for name in w.dimensions()}
        height, width = to_tir(w.height, variables), to_tir(w.width, variables)
        out_height, out_width = to_tir(w.output_height, variables), to_tir(w.output_width, variables)
        channels = to_tir(w.channels, variables)
        lines = to_tir(w.batch, variables) * out_height
        with math.computed_constants(out_width + T.int32(0)), T.parallel(0, lines) as line:
            batch = bind(tirx.truncdiv(line, out_height))
            y = bind(tirx.truncmod(line, out_height))
            first_row, past_row = w.taps(0, y, height)
            top = bind((batch * height + y * w.strides[0] - w.pads[0]) * width)

            def pixels(x: Expr, count: int, channel: Expr, lanes: int, columns: tuple[Expr, Expr] | None) -> None:
                sums = Registers(count, "float32x4" if lanes == 4 else "float32")
                for p in range(count):
                    sums[p] = _read(bias, channel, lanes) if bias is not None else _zero(lanes)
                with T.serial(0, past_row - first_row) as i:
                    row = bind(first_row + i)
                    start = bind(top + row * w.dilations[0] * width - w.pads[1] + x * w.strides[1])

                    def tap(column: Expr) -> None:
                        weight = bind(_read(weights, (row * w.kernel[1] + column) * channels + channel, lanes))
                        for p in range(count):
                            at = (start + p * w.strides[1] + column * w.dilations[1]) * channels + channel
                            sums[p] = sums[p] + weight * _read(source, at, lanes)

                    if columns is None:
                        for column in range(w.kernel[1]):
                            tap(T.int32(column))
                    else:
                        with T.serial(0, columns[1] - columns[0]) as j:
                            tap(columns[0] + j)
                for p in range(count):
                    value = sums[p]
                    if epilogue.activation is not None:
                        value = ACTIVATIONS[epilogue.activation](bind(value))
                    if epilogue.shifted:
                        value = value + _read(bias, shifts_at(channels) + channel, lanes)
                    at = (line * out_width + x + p) * channels + channel
                    if residual is not None:
                        value = value + _read(residual, at, lanes)
                    store(output, at, value, lanes)

            def all_channels(x: Expr, count: int, columns: tuple[Expr, Expr] | None) -> None:
                for_channels(channels, lambda channel, lanes: pixels(x, count, channel, lanes, columns))

            # Pixels whose window lies inside the row, in tiles; the others one by one.
            left = bind(tirx.min(-(-w.pads[1] // w.strides[1]) + T.int32(0), out_width))
            span = (w.kernel[1] - 1) * w.dilations[1]
            inside = bind(tirx.truncdiv(tirx.max(width - 1 - span + w.pads[1], -1) + w.strides[1], w.strides[1]))
            right = bind(tirx.max(tirx.min(inside, out_width), left))
            tiles = bind(tirx.truncdiv(right - left, _PIXELS))
            with T.serial(0, tiles) as tile:
                all_channels(left + tile * _PIXELS, _PIXELS, None)
            with T.serial(0, right - left - tiles * _PIXELS) as x:
                all_channels(left + tiles * _PIXELS + x, 1, None)
            with T.serial(0, out_width - (right - left)) as edge:
                x = bind(tirx.Select(edge < left, edge, edge + (right - left)))
                all_channels(x, 1, w.taps(1, x, width))
    return k.func


def for_channels(channels: int | Expr, emit: Callable[[Expr, int], None]) -> None:
    """Call `emit(channel, lanes)` in a loop over blocks of 4 channels, then for each one left."""
    if not isinstance(channels, int) and not isinstance(channels, tirx.IntImm):
        blocks = bind(tirx.truncdiv(channels, 4))
        with T.serial(0, blocks) as block:
            emit(block * 4, 4)
        with T.serial(0, channels - blocks * 4) as rest:
            emit(blocks * 4 + rest, 1)
        return
    channels = int(channels)
    if channels >= 4:
        with T.serial(0, channels // 4) as block:
            emit(block * 4, 4)
    for tail in range(channels // 4 * 4, channels):
        emit(T.int32(tail), 1)


def _read(buffer: Buffer, index: Expr, lanes: int) -> Expr:
    return load(buffer, index, lanes) if lanes > 1 else buffer[index]


def _zero(lanes: int) -> Expr:
    return splat(0.0, "float32x4" if lanes == 4 else "float32")
