"""Softmax and its logarithm along dense rows."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.graph_dims import symbols, to_tir
from edgec.lower.wasm.kernels import math
from edgec.lower.wasm.kernels.builder import (
    Buffer,
    Expr,
    KernelBuilder,
    PrimFunc,
    Registers,
    bind,
    largest_lane,
    load,
    store,
    sum_of_lanes,
    wide,
)
from edgec.passes.dims import Dim

_LOWEST = -3.0e38


def softmax(columns: Dim, *, logarithm: bool) -> PrimFunc:
    """Parameters: input, output, rows, the symbolic dimensions of `columns`."""
    with KernelBuilder() as k:
        source = k.buffer("input", "float32")
        output = k.buffer("output", "float32")
        rows = k.scalar("rows")
        width = to_tir(columns, {name: k.scalar(name) for name in symbols([columns])})
        with T.parallel(0, rows) as row:
            start = bind(row * width)
            peak = row_maximum(source, start, width)
            if logarithm:
                total = _sum_of_exponentials(source, None, start, width, peak)
                shift = bind(math.log(total))

                def shifted(i: Expr, lanes: int) -> None:
                    value = _read(source, start + i, lanes) - wide(peak, lanes)
                    store(output, start + i, value - wide(shift, lanes), lanes)

                for_row(width, shifted)
            else:
                total = _sum_of_exponentials(source, output, start, width, peak)
                inverse = bind(T.float32(1.0) / total)
                for_row(width, lambda i, n: store(output, start + i, _read(output, start + i, n) * wide(inverse, n), n))
    return k.func


def for_row(width: Expr, emit: object) -> None:
    """Call `emit(index, lanes)` in a loop over vectors of 4, then over what is left."""
    vectors = bind(tirx.truncdiv(width, 4))
    with T.serial(0, vectors) as i:
        emit(i * 4, 4)  # type: ignore[operator]
    with T.serial(0, width - vectors * 4) as i:
        emit(vectors * 4 + i, 1)  # type: ignore[operator]


def _read(buffer: Buffer, index: Expr, lanes: int) -> Expr:
    return buffer[index] if lanes == 1 else load(buffer, index, lanes)


def row_maximum(source: Buffer, start: Expr, width: Expr) -> Expr:
    """The largest of `width` elements from `start`."""
    vector, scalar = Registers(1, "float32x4"), Registers(1, "float32")
    vector.fill(1, _LOWEST)
    scalar.fill(1, _LOWEST)

    def one(i: Expr, lanes: int) -> None:
        target = vector if lanes == 4 else scalar
        target[0] = tirx.max(target[0], _read(source, start + i, lanes))

    for_row(width, one)
    return bind(tirx.max(scalar[0], largest_lane(vector[0])))


def _sum_of_exponentials(source: Buffer, output: Buffer | None, start: Expr, width: Expr, peak: Expr) -> Expr:
    """Sum of e^(x - peak), which are also stored when there is an output."""
    vector, scalar = Registers(1, "float32x4"), Registers(1, "float32")
    vector.fill(1, 0.0)
    scalar.fill(1, 0.0)

    def one(i: Expr, lanes: int) -> None:
        value = bind(math.exp(bind(_read(source, start + i, lanes) - wide(peak, lanes))))
        if output is not None:
            store(output, start + i, value, lanes)
        target = vector if lanes == 4 else scalar
        target[0] = target[0] + value

    for_row(width, one)
    return bind(sum_of_lanes(vector[0]) + scalar[0])


def exponentials(buffer: Buffer, start: Expr, width: Expr) -> tuple[Expr, Expr]:
    """Replace `width` elements by e^(x - largest); returns the largest and their sum."""
    peak = row_maximum(buffer, start, width)
    return peak, _sum_of_exponentials(buffer, buffer, start, width, peak)
