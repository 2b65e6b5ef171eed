"""The rows of a convolution as a matrix product: one row of `kernel * channels` features per output pixel.

Features are in the order kernel row, kernel column, channel. Rows come as float32 or quantized.
"""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.ir.compressed import GROUP
from edgec.lower.wasm.graph_dims import to_tir
from edgec.lower.wasm.kernels.builder import Buffer, Expr, Floats, KernelBuilder, PrimFunc, bind, load, splat, store
from edgec.lower.wasm.kernels.depthwise import Window
from edgec.lower.wasm.kernels.quantize import QuantizedBuffers, groups_of, quantize_group
from edgec.lower.wasm.target import Isa


def im2col(isa: Isa, window: Window, *, quantized: bool) -> PrimFunc:
    """Parameters: input, then codes, scales, sums or float rows, first row, rows, `window.dimensions()`.

    Writes rows `first ... first + rows - 1` of the whole matrix to rows `0 ... rows - 1`.
    """
    w = window
    columns = w.kernel[0] * w.kernel[1] * w.channels
    groups = groups_of(columns)
    with KernelBuilder() as k:
        source = k.buffer("input", "float32")
        target = QuantizedBuffers.declare(k, isa) if quantized else None
        output = None if quantized else k.buffer("output", "float32")
        first, rows = k.scalar("first"), k.scalar("rows")
        variables = {name: k.scalar(name) for name in w.dimensions()}
        height, width = to_tir(w.height, variables), to_tir(w.width, variables)
        out_height, out_width = to_tir(w.output_height, variables), to_tir(w.output_width, variables)
        with T.parallel(0, rows) as row:
            pixel = bind(first + row)
            x = bind(tirx.truncmod(pixel, out_width))
            line = bind(tirx.truncdiv(pixel, out_width))
            y = bind(tirx.truncmod(line, out_height))
            image = bind(tirx.truncdiv(line, out_height) * height)
            top = bind(y * w.strides[0] - w.pads[0])
            left = bind(x * w.strides[1] - w.pads[1])
            if target is None:
                assert output is not None
                _taps(w, source, output, row * columns, top, left, image, height, width)
            else:
                values = Floats(groups * GROUP)
                for tail in range(columns, groups * GROUP):
                    values[tail] = T.float32(0.0)
                _taps(w, source, values._buffer, T.int32(0), top, left, image, height, width)
                group_values = Floats(GROUP)
                with T.serial(0, groups) as group:
                    for i in range(0, GROUP, 4):
                        group_values.set_vector(i, values.vector(group * GROUP + i))
                    quantize_group(isa, target, row * groups + group, group_values)
    return k.func


def _taps(
    w: Window,
    source: Buffer,
    output: Buffer,
    start: Expr,
    top: Expr,
    left: Expr,
    image: Expr,
    height: Expr,
    width: Expr,
) -> None:
    """Copy the window's pixels, zeros where they lie outside."""
    with T.serial(0, w.kernel[0]) as i, T.serial(0, w.kernel[1]) as j:
        y, x = bind(top + i * w.dilations[0]), bind(left + j * w.dilations[1])
        at = bind(start + (i * w.kernel[1] + j) * w.channels)
        inside = tirx.all(y >= 0, y < height, x >= 0, x < width)
        with T.If(inside):
            with T.Then():
                pixel = bind(((image + y) * width + x) * w.channels)
                _fill(w.channels, lambda c, n: store(output, at + c, _read(source, pixel + c, n), n))
            with T.Else():
                _fill(w.channels, lambda c, n: store(output, at + c, _zeros(n), n))


def _fill(channels: int, emit: object) -> None:
    if channels >= 4:
        with T.serial(0, channels // 4) as block:
            emit(block * 4, 4)  # type: ignore[operator]
    for tail in range(channels // 4 * 4, channels):
        emit(T.int32(tail), 1)  # type: ignore[operator]


def _read(buffer: Buffer, index: Expr, lanes: int) -> Expr:
    return load(buffer, index, lanes) if lanes > 1 else buffer[index]


def _zeros(lanes: int) -> Expr:
    return splat(0.0, "float32x4" if lanes == 4 else "float32")
