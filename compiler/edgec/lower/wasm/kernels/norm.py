"""RMSNorm and LayerNorm over the last axis, to float32 or straight to quantized activations."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.ir.compressed import GROUP
from edgec.lower.wasm.kernels.builder import (
    Buffer,
    Expr,
    Floats,
    KernelBuilder,
    PrimFunc,
    Registers,
    bind,
    load,
    splat,
    store,
    tree_sum,
)
from edgec.lower.wasm.kernels.quantize import QuantizedBuffers, fill_group, quantize_row
from edgec.lower.wasm.target import Isa

_UNROLL = 4  # independent vector accumulators, combined in a fixed order


def row_sum(columns: int, term: object) -> Expr:
    """Sum over a row of `term(i, lanes)`, in a fixed order."""
    step = 4 * _UNROLL
    whole = columns // step * step
    sums = Registers(_UNROLL, "float32x4")
    sums.fill(_UNROLL, 0.0)
    with T.serial(0, whole // step) as i:
        for u in range(_UNROLL):
            sums[u] = sums[u] + term(i * step + 4 * u, 4)  # type: ignore[operator]
    for u, start in enumerate(range(whole, columns // 4 * 4, 4)):
        sums[u] = sums[u] + term(T.int32(start), 4)  # type: ignore[operator]
    lanes = Floats(4)
    lanes.set_vector(0, tree_sum([sums[u] for u in range(_UNROLL)]))
    scalars = [lanes[i] for i in range(4)]
    scalars += [term(T.int32(i), 1) for i in range(columns // 4 * 4, columns)]  # type: ignore[operator]
    return bind(tree_sum(scalars))


class _Moments:
    """Mean (of "layer" norms) and variance of a row, whose values `read(i, lanes)` gives."""

    def __init__(self, kind: str, columns: int, epsilon: float, read: Callable[[Expr, int], Expr]) -> None:
        self._read = read
        self._mean = None
        if kind == "layer":
            self._mean = bind(row_sum(columns, read) * T.float32(1.0 / columns))

        def square(i: Expr, width: int) -> Expr:
            value = bind(self._centred(i, width))
            return value * value

        variance = row_sum(columns, square) * T.float32(1.0 / columns)
        self._inverse = bind(T.float32(1.0) / T.sqrt(variance + T.float32(epsilon)))

    def _centred(self, i: Expr, width: int) -> Expr:
        value = self._read(i, width)
        return value if self._mean is None else value - _lanes_of(self._mean, width)

    def normalized(self, i: Expr, width: int) -> Expr:
        return self._centred(i, width) * _lanes_of(self._inverse, width)


def _read(buffer: Buffer, i: Expr, width: int) -> Expr:
    return load(buffer, i, width) if width > 1 else buffer[i]


def _lanes_of(value: Expr, width: int) -> Expr:
    return splat(value, f"float32x{width}") if width > 1 else value


def norm(
    isa: Isa,
    *,
    kind: str,
    columns: int,
    stride: int,
    epsilon: float,
    quantized: bool,
    bias: bool = False,
    added_stride: int | None = None,
    span: int = 1,
) -> PrimFunc:
    """`kind` is "rms" or "layer". Normalizes rows `first ... first + m - 1` to output rows `0 ... m - 1`.

    Parameters: input, weight, [bias], then quantized buffers or a float output with `columns`
    floats per row, first, m. `y = (x - mean) / sqrt(variance + epsilon) * weight + bias`; RMSNorm
    has no mean. Quantized spans are of `span` groups. With `added_stride`, the result is added to a
    float output of so many floats per row.
    """
    output_stride = columns if added_stride is None else added_stride
    with KernelBuilder() as k:
        source = k.buffer("input", "float32")
        weight = k.buffer("weight", "float32")
        shift = k.buffer("bias", "float32") if bias else None
        target = QuantizedBuffers.declare(k, isa.activation_dtype) if quantized else None
        output = None if quantized else k.buffer("output", "float32")
        first = k.scalar("first")
        m = k.scalar("m")
        with T.parallel(0, m) as row:
            start = bind((first + row) * stride)

            moments = _Moments(kind, columns, epsilon, lambda i, width: _read(source, start + i, width))

            def normalized(i: Expr, width: int) -> Expr:
                value = moments.normalized(i, width) * _read(weight, i, width)
                return value if shift is None else value + _read(shift, i, width)

            if target is not None:

                def fill(values: Floats, group: Expr, width: int) -> None:
                    fill_group(values, width, lambda i, n: normalized(group * GROUP + i, n))

                quantize_row(isa, target, row, columns, span, fill)
            else:

                def put(i: Expr, width: int) -> None:
                    assert output is not None
                    at = row * output_stride + i
                    value = normalized(i, width)
                    if added_stride is not None:
                        value = value + (load(output, at, width) if width > 1 else output[at])
                    store(output, at, value, width)

                with T.serial(0, columns // 4) as i:
                    put(i * 4, 4)
                for tail in range(columns // 4 * 4, columns):
                    put(T.int32(tail), 1)
    return k.func


def norm_parts(*, kind: str, parts: int, columns: int, stride: int, epsilon: float) -> PrimFunc:
    """Normalizes, in place, the first `parts` parts of `columns` floats of each row, with the same weights.

    Parameters: values with `stride` floats per row, weight, m.
    """
    with KernelBuilder() as k:
        values = k.buffer("values", "float32")
        weight = k.buffer("weight", "float32")
        m = k.scalar("m")
        with T.parallel(0, m * parts) as unit:
            row = tirx.truncdiv(unit, parts)
            start = bind(row * stride + tirx.truncmod(unit, parts) * columns)
            moments = _Moments(kind, columns, epsilon, lambda i, width: _read(values, start + i, width))

            def put(i: Expr, width: int) -> None:
                store(values, start + i, moments.normalized(i, width) * _read(weight, i, width), width)

            with T.serial(0, columns // 4) as i:
                put(i * 4, 4)
            for tail in range(columns // 4 * 4, columns):
                put(T.int32(tail), 1)
    return k.func
