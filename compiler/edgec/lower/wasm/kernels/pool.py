"""Maximum and average over sliding windows, channels last, float32."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.graph_dims import to_tir
from edgec.lower.wasm.kernels.builder import Expr, KernelBuilder, PrimFunc, Registers, bind, load, splat, store
from edgec.lower.wasm.kernels.depthwise import Window, for_channels


def pool(window: Window, *, average: bool, count_padding: bool, end_pads: tuple[int, int]) -> PrimFunc:
    """Parameters: input, output, `window.dimensions()`. `end_pads` matter only where padding is counted."""
    w = window
    with KernelBuilder() as k:
        source = k.buffer("input", "float32")
        output = k.buffer("output", "float32")
        variables = {name: k.scalar(name) for name in w.dimensions()}
        height, width = to_tir(w.height, variables), to_tir(w.width, variables)
        out_height, out_width = to_tir(w.output_height, variables), to_tir(w.output_width, variables)
        channels = to_tir(w.channels, variables)
        with T.parallel(0, to_tir(w.batch, variables) * out_height) as line:
            batch = bind(tirx.truncdiv(line, out_height))
            y = bind(tirx.truncmod(line, out_height))
            first_row, past_row = w.taps(0, y, height)
            top = bind((batch * height + y * w.strides[0] - w.pads[0]) * width)
            with T.serial(0, out_width) as x:
                first, past = w.taps(1, x, width)
                inverse = None
                if average:
                    area = (past_row - first_row) * (past - first)
                    if count_padding:
                        rows = _counted(w, 0, y, height + end_pads[0])
                        area = rows * _counted(w, 1, x, width + end_pads[1])
                    inverse = bind(T.float32(1.0) / T.Cast("float32", area))

                def block(channel: Expr, lanes: int) -> None:
                    result = Registers(1, "float32x4" if lanes == 4 else "float32")
                    result.fill(1, 0.0 if average else float("-inf"))
                    with T.serial(0, past_row - first_row) as i, T.serial(0, past - first) as j:
                        row = top + (first_row + i) * w.dilations[0] * width
                        column = x * w.strides[1] - w.pads[1] + (first + j) * w.dilations[1]
                        at = (row + column) * channels + channel
                        value = load(source, at) if lanes == 4 else source[at]
                        result[0] = result[0] + value if average else tirx.max(result[0], value)
                    value = result[0]
                    if inverse is not None:
                        value = value * (splat(inverse, "float32x4") if lanes == 4 else inverse)
                    store(output, (line * out_width + x) * channels + channel, value, lanes)

                for_channels(channels, block)
    return k.func


def _counted(window: Window, axis: int, position: Expr, padded_size: Expr) -> Expr:
    """Taps inside the padded input."""
    start = position * window.strides[axis] - window.pads[axis]
    step = window.dilations[axis]
    return tirx.min(tirx.truncdiv(padded_size - start + (step - 1), step), window.kernel[axis])
