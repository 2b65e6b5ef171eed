"""Convolution in groups that are neither one nor one per channel, channels last, float32."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.graph_dims import to_tir
from edgec.lower.wasm.kernels.activations import ACTIVATIONS
from edgec.lower.wasm.kernels.builder import Buffer, Expr, KernelBuilder, PrimFunc, Registers, bind, load, splat, store
from edgec.lower.wasm.kernels.depthwise import Window, for_channels
from edgec.lower.wasm.kernels.epilogue import Epilogue, shifts_at


def pack_grouped(weight: npt.NDArray[np.float32], groups: int) -> npt.NDArray[np.float32]:
    """`[outputs, inputs / groups, height, width]` -> `[groups, height, width, inputs / groups, outputs / groups]`."""
    outputs, inputs, height, width = weight.shape
    split = weight.reshape(groups, outputs // groups, inputs, height, width)
    return np.ascontiguousarray(split.transpose(0, 3, 4, 2, 1))


def grouped_conv(window: Window, *, groups: int, outputs: int, epilogue: Epilogue) -> PrimFunc:
    """Parameters: input, weights, [bias], [residual], output, `window.dimensions()`; `outputs` channels in all."""
    w = window
    inputs, own = w.channels // groups, outputs // groups
    with KernelBuilder() as k:
        source = k.buffer("input", "float32")
        weights = k.buffer("weights", "float32")
        bias = k.buffer("bias", "float32") if epilogue.bias else None
        residual = k.buffer("residual", "float32") if epilogue.residual else None
        output = k.buffer("output", "float32")
        variables = {name: k.scalar(name) for name in w.dimensions()}
        height, width = to_tir(w.height, variables), to_tir(w.width, variables)
        out_height, out_width = to_tir(w.output_height, variables), to_tir(w.output_width, variables)
        with T.parallel(0, to_tir(w.batch, variables) * out_height) as line:
            batch = bind(tirx.truncdiv(line, out_height))
            y = bind(tirx.truncmod(line, out_height))
            first_row, past_row = w.taps(0, y, height)
            top = bind((batch * height + y * w.strides[0] - w.pads[0]) * width)
            with T.serial(0, out_width) as x, T.serial(0, groups) as group:
                first, past = w.taps(1, x, width)

                def channels(channel: Expr, lanes: int) -> None:
                    total = Registers(1, "float32x4" if lanes == 4 else "float32")
                    total[0] = _read(bias, group * own + channel, lanes) if bias is not None else _zero(lanes)
                    with T.serial(0, past_row - first_row) as i, T.serial(0, past - first) as j:
                        row, column = bind(first_row + i), bind(first + j)
                        pixel = top + row * w.dilations[0] * width + x * w.strides[1] - w.pads[1]
                        at = bind((pixel + column * w.dilations[1]) * w.channels + group * inputs)
                        tap = bind(((group * w.kernel[0] + row) * w.kernel[1] + column) * inputs)
                        with T.serial(0, inputs) as c:
                            value = source[at + c]
                            factor = splat(value, "float32x4") if lanes == 4 else value
                            total[0] = total[0] + factor * _read(weights, (tap + c) * own + channel, lanes)
                    value = total[0]
                    if epilogue.activation is not None:
                        value = ACTIVATIONS[epilogue.activation](bind(value))
                    if epilogue.shifted:
                        value = value + _read(bias, shifts_at(outputs) + group * own + channel, lanes)
                    place = (line * out_width + x) * outputs + group * own + channel
                    if residual is not None:
                        value = value + _read(residual, place, lanes)
                    store(output, place, value, lanes)

                for_channels(own, channels)
    return k.func


def _read(buffer: Buffer, index: Expr, lanes: int) -> Expr:
    return load(buffer, index, lanes) if lanes > 1 else buffer[index]


def _zero(lanes: int) -> Expr:
    return splat(0.0, "float32x4" if lanes == 4 else "float32")
