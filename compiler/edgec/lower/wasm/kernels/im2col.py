"""The rows of a convolution as a matrix product: one row of `kernel * channels` features per output pixel.

Features are in the order kernel row, kernel column, channel. Rows come as float32 or quantized.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.ir.compressed import GROUP
from edgec.lower.wasm.graph_dims import to_tir
from edgec.lower.wasm.kernels.builder import Buffer, Expr, Floats, KernelBuilder, PrimFunc, bind, load, splat, store
from edgec.lower.wasm.kernels.depthwise import Window, for_channels
from edgec.lower.wasm.kernels.quantize import QuantizedBuffers, groups_of, quantize_group
from edgec.lower.wasm.target import Isa

_STAGED_COLUMNS = 3072  # floats of one row that fit on a kernel's stack


def can_quantize(window: Window) -> bool:
    """Whether `im2col` can quantize; longer rows go through memory as floats."""
    return window.channels % GROUP == 0 or row_columns(window) <= _STAGED_COLUMNS


def row_columns(window: Window) -> int:
    """Features of one row."""
    assert isinstance(window.channels, int)
    return window.kernel[0] * window.kernel[1] * window.channels


def im2col(isa: Isa, window: Window, *, quantized: bool) -> PrimFunc:
    """Parameters: input, then quantized buffers or float rows, first row, rows, `window.dimensions()`.

    Writes rows `first ... first + rows - 1` of the whole matrix to rows `0 ... rows - 1`.
    """
    w = window
    columns = row_columns(w)
    with KernelBuilder() as k:
        source = k.buffer("input", "float32")
        target = QuantizedBuffers.declare(k, isa.activation_dtype, outliers=False) if quantized else None
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

            def taps(emit: Callable[[Expr, Expr | None], None]) -> None:
                """`emit(tap, first input element)` for every tap, `None` outside the input."""
                with T.serial(0, w.kernel[0]) as i, T.serial(0, w.kernel[1]) as j:
                    at_y, at_x = bind(top + i * w.dilations[0]), bind(left + j * w.dilations[1])
                    tap = bind(i * w.kernel[1] + j)
                    with T.If(tirx.all(at_y >= 0, at_y < height, at_x >= 0, at_x < width)):
                        with T.Then():
                            emit(tap, bind(((image + at_y) * width + at_x) * w.channels))
                        with T.Else():
                            emit(tap, None)

            if target is None:
                assert output is not None
                taps(lambda tap, place: _copy(w, source, place, output, row * columns + tap * w.channels))
            elif w.channels % GROUP == 0:
                _quantize_aligned(isa, w, source, target, row, taps)
            else:
                _quantize_staged(isa, w, source, target, row, taps)
    return k.func


Taps = Callable[[Callable[[Expr, Expr | None], None]], None]


def _quantize_aligned(isa: Isa, w: Window, source: Buffer, target: QuantizedBuffers, row: Expr, taps: Taps) -> None:
    """Groups are slices of one pixel's channels."""
    per_tap = w.channels // GROUP
    groups = w.kernel[0] * w.kernel[1] * per_tap
    values = Floats(GROUP)

    def one_tap(tap: Expr, place: Expr | None) -> None:
        with T.serial(0, per_tap) as part:
            for i in range(0, GROUP, 4):
                inside = splat(0.0, "float32x4") if place is None else load(source, place + part * GROUP + i)
                values.set_vector(i, inside)
            quantize_group(isa, target, row, tap * per_tap + part, groups, values)

    taps(one_tap)


def _quantize_staged(isa: Isa, w: Window, source: Buffer, target: QuantizedBuffers, row: Expr, taps: Taps) -> None:
    columns = row_columns(w)
    groups = groups_of(columns)
    staged = Floats(groups * GROUP)
    for tail in range(columns, groups * GROUP):
        staged[tail] = T.float32(0.0)
    taps(lambda tap, place: _copy(w, source, place, staged._buffer, tap * w.channels))
    values = Floats(GROUP)
    with T.serial(0, groups) as group:
        for i in range(0, GROUP, 4):
            values.set_vector(i, staged.vector(group * GROUP + i))
        quantize_group(isa, target, row, group, groups, values)


def _copy(w: Window, source: Buffer, place: Expr | None, output: Buffer, start: Expr) -> None:
    """All channels of a pixel, or zeros."""

    def block(channel: Expr, lanes: int) -> None:
        if place is None:
            store(output, start + channel, splat(0.0, "float32x4" if lanes == 4 else "float32"), lanes)
        else:
            value = load(source, place + channel) if lanes == 4 else source[place + channel]
            store(output, start + channel, value, lanes)

    for_channels(w.channels, block)
