"""RMSNorm and LayerNorm over the last axis, to float32 or straight to quantized activations."""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T

from edgec.ir.compressed import GROUP
from edgec.lower.wasm.kernels.builder import (
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
from edgec.lower.wasm.kernels.quantize import QuantizedBuffers, fill_group, for_each_group, groups_of, quantize_group
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


def norm(
    isa: Isa, *, kind: str, columns: int, stride: int, epsilon: float, quantized: bool, bias: bool = False
) -> PrimFunc:
    """`kind` is "rms" or "layer". Normalizes rows `first ... first + m - 1` to output rows `0 ... m - 1`.

    Parameters: input, weight, [bias], then quantized buffers or a float output with `columns`
    floats per row, first, m. `y = (x - mean) / sqrt(variance + epsilon) * weight + bias`; RMSNorm
    has no mean.
    """
    groups = groups_of(columns)
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

            def read(i: Expr, width: int) -> Expr:
                return load(source, start + i, width) if width > 1 else source[start + i]

            def lanes_of(value: Expr, width: int) -> Expr:
                return splat(value, f"float32x{width}") if width > 1 else value

            mean = None
            if kind == "layer":
                mean = bind(row_sum(columns, read) * T.float32(1.0 / columns))

            def centred(i: Expr, width: int) -> Expr:
                return read(i, width) if mean is None else read(i, width) - lanes_of(mean, width)

            def square(i: Expr, width: int) -> Expr:
                value = bind(centred(i, width))
                return value * value

            variance = row_sum(columns, square) * T.float32(1.0 / columns)
            inverse = bind(T.float32(1.0) / T.sqrt(variance + T.float32(epsilon)))

            def normalized(i: Expr, width: int) -> Expr:
                factor = load(weight, i, width) if width > 1 else weight[i]
                value = centred(i, width) * lanes_of(inverse, width) * factor
                if shift is not None:
                    value = value + (load(shift, i, width) if width > 1 else shift[i])
                return value

            if target is not None:
                values = Floats(GROUP)

                def one(group: Expr, width: int) -> None:
                    fill_group(values, width, lambda i, n: normalized(group * GROUP + i, n))
                    quantize_group(isa, target, row, group, groups, values)

                for_each_group(columns, one)
            else:
                with T.serial(0, columns // 4) as i:
                    store(output, row * columns + i * 4, normalized(i * 4, 4))
                for tail in range(columns // 4 * 4, columns):
                    store(output, row * columns + tail, normalized(T.int32(tail), 1), 1)
    return k.func
