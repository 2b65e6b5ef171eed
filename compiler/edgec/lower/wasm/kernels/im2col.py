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
from edgec.lower.wasm.kernels.quantize import QuantizedBuffers, Span, for_each_span, groups_of, quantize_span
from edgec.lower.wasm.target import Isa

_STAGED_COLUMNS = 3072  # floats of one row that fit on a kernel's stack


def can_quantize(window: Window, span: int) -> bool:
    """Whether `im2col` can quantize in spans of so many groups; longer rows go through memory as floats."""
    return _aligned(window, span) or row_columns(window) <= _STAGED_COLUMNS


def _aligned(window: Window, span: int) -> bool:
    """Whether spans are slices of one pixel's channels."""
    assert isinstance(window.channels, int)
    return window.channels % (GROUP * span) == 0


def row_columns(window: Window) -> int:
    """Features of one row."""
    assert isinstance(window.channels, int)
    return window.kernel[0] * window.kernel[1] * window.channels


def im2col(isa: Isa, window: Window, *, quantized: bool, span: int = 1) -> PrimFunc:
    """Parameters: input, then quantized buffers or float rows, first row, rows, `window.dimensions()`.

    Writes rows `first ... first + rows - 1` of the whole matrix to rows `0 ... rows - 1`. Quantized spans are of `span`
    groups.
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
            elif _aligned(w, span):
                _quantize_aligned(isa, w, source, target, row, taps, span)
            else:
                _quantize_staged(isa, w, source, target, row, taps, span)
    return k.func


Taps = Callable[[Callable[[Expr, Expr | None], None]], None]


def _quantize_aligned(
    isa: Isa, w: Window, source: Buffer, target: QuantizedBuffers, row: Expr, taps: Taps, span: int
) -> None:
    per_tap = w.channels // (GROUP * span)

    def one_tap(tap: Expr, place: Expr | None) -> None:
        with T.serial(0, per_tap) as part:

            def fill(values: Floats, group: Expr, width: int) -> None:
                start = None if place is None else bind(place + (group - tap * (per_tap * span)) * GROUP)
                for i in range(0, GROUP, 4):
                    values.set_vector(i, splat(0.0, "float32x4") if start is None else load(source, start + i))

            number = bind(tap * per_tap + part)
            quantize_span(isa, target, row, Span(number, number * span, span), row_columns(w), span, fill)

    taps(one_tap)


def _quantize_staged(
    isa: Isa, w: Window, source: Buffer, target: QuantizedBuffers, row: Expr, taps: Taps, span: int
) -> None:
    columns = row_columns(w)
    groups = groups_of(columns)
    staged = Floats(groups * GROUP)
    for tail in range(columns, groups * GROUP):
        staged[tail] = T.float32(0.0)
    taps(lambda tap, place: _copy(w, source, place, staged._buffer, tap * w.channels))

    def fill(values: Floats, group: Expr, width: int) -> None:
        for i in range(0, GROUP, 4):
            values.set_vector(i, staged.vector(group * GROUP + i))

    for_each_span(columns, span, lambda some: quantize_span(isa, target, row, some, columns, span, fill))


def _copy(w: Window, source: Buffer, place: Expr | None, output: Buffer, start: Expr) -> None:
    """All channels of a pixel, or zeros."""

    def block(channel: Expr, lanes: int) -> None:
        if place is None:
            store(output, start + channel, splat(0.0, "float32x4" if lanes == 4 else "float32"), lanes)
        else:
            value = load(source, place + channel) if lanes == 4 else source[place + channel]
            store(output, start + channel, value, lanes)

    for_channels(w.channels, block)
