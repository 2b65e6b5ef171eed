"""Resizing of images, channels last: a weighted sum of a few rows and columns given by tables."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.graph_dims import symbols, to_tir
from edgec.lower.wasm.kernels.builder import Expr, KernelBuilder, PrimFunc, Registers, bind, load, splat, store
from edgec.lower.wasm.kernels.depthwise import for_channels
from edgec.lower.wasm.kernels.generic import Body, Sum, Tensor, each
from edgec.passes.dims import Dim


def resample(
    *, batch: Dim, channels: int, size: tuple[int, int], output: tuple[int, int], taps: tuple[int, int]
) -> PrimFunc:
    """Parameters: input, row table, row weights, column table, column weights, output, symbols of `batch`.

    Tables are int32 `[output, taps]`, weights float32 of the same shape. With one tap (nearest)
    the weights are 1 and not read.
    """
    nearest = taps == (1, 1)
    with KernelBuilder() as k:
        source = k.buffer("input", "float32")
        row_table, row_weights = k.buffer("row_table", "int32"), k.buffer("row_weights", "float32")
        column_table, column_weights = k.buffer("column_table", "int32"), k.buffer("column_weights", "float32")
        target = k.buffer("output", "float32")
        count = to_tir(batch, {name: k.scalar(name) for name in symbols([batch])})
        with T.parallel(0, count * output[0]) as line:
            image = bind(tirx.truncdiv(line, output[0]) * size[0])
            y = bind(tirx.truncmod(line, output[0]))
            with T.serial(0, output[1]) as x:

                def pixel(i: Expr, j: Expr, channel: Expr, lanes: int) -> Expr:
                    at = ((image + row_table[y * taps[0] + i]) * size[1] + column_table[x * taps[1] + j]) * channels
                    return load(source, at + channel) if lanes == 4 else source[at + channel]

                def block(channel: Expr, lanes: int) -> None:
                    place = (line * output[1] + x) * channels + channel
                    if nearest:
                        store(target, place, pixel(T.int32(0), T.int32(0), channel, lanes), lanes)
                        return
                    dtype = "float32x4" if lanes == 4 else "float32"
                    total = Registers(1, dtype)
                    total.fill(1, 0.0)
                    for i in range(taps[0]):
                        for j in range(taps[1]):
                            factor = row_weights[y * taps[0] + i] * column_weights[x * taps[1] + j]
                            value = pixel(T.int32(i), T.int32(j), channel, lanes)
                            total[0] = total[0] + value * (splat(factor, dtype) if lanes == 4 else factor)
                    store(target, place, total[0], lanes)

                for_channels(channels, block)
    return k.func


def weighted_places(axis: int, nearest: bool, outside: float) -> Body:
    """`output[.., i, ..] = sum(weights[i, t] * input[.., places[i, t], ..])`; `outside` where places[i, 0] is -1."""

    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        (source, places, weights), (target,) = inputs, outputs
        with each(target.shape) as index:
            i = index[axis]

            def read(tap: Expr) -> Expr:
                place = tirx.max(places[[i, tap]], 0)
                return source[[*index[:axis], place, *index[axis + 1 :]]]

            if nearest:
                value = read(T.int32(0))
            else:
                total = Sum("float32")
                with T.serial(0, places.shape[1]) as tap:
                    total.add(
                        weights[[i, tap]] * (read(tap) if source.dtype == "float32" else T.Cast("float32", read(tap)))
                    )
                value = total.value
                if not target.dtype.startswith("float"):
                    value = T.nearbyint(value)
            value = bind(value if str(value.ty.dtype) == target.dtype else T.Cast(target.dtype, value))
            target[index] = tirx.Select(places[[i, T.int32(0)]] < 0, tirx.const(outside, target.dtype), value)

    return body
