"""Dynamic int8 quantization of activations, alone or fused behind a normalization.

Per row and group of 32 features: `scale = max |x| / 127`, `a = nearest(x * (127 / max |x|))`. Stored
are the codes (int8, or int16 for plain SIMD), `scale * 2^108` (see `linear.py`) and the sum of the
codes. Features past the row's end are zero. Magnitudes below 1e-30 count as zero; up to 1e8 is safe.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    tree_max,
    tree_sum,
)
from edgec.lower.wasm.target import Isa

SCALE_FACTOR = 2.0**108


@dataclass(frozen=True)
class QuantizedBuffers:
    """Where quantized activations go."""

    codes: Buffer
    scales: Buffer
    sums: Buffer

    @classmethod
    def declare(cls, k: KernelBuilder, isa: Isa) -> QuantizedBuffers:
        return cls(
            k.buffer("codes", isa.activation_dtype), k.buffer("code_scales", "float32"), k.buffer("code_sums", "int32")
        )


def quantize_group(isa: Isa, target: QuantizedBuffers, index: Expr, values: Floats) -> None:
    """Quantize 32 floats on the stack into group `index` of the target."""
    largest = Registers(1, "float32x4")
    largest[0] = tree_max([tirx.abs(values.vector(4 * i)) for i in range(GROUP // 4)])
    lanes = Floats(4)
    lanes.set_vector(0, largest[0])
    peak = bind(tree_max([lanes[i] for i in range(4)]))
    tiny = peak < T.float32(1e-30)
    inverse = bind(tirx.Select(tiny, T.float32(0.0), T.float32(127.0) / peak))
    sums = Registers(1, "int32x4")
    sums[0] = splat(0, "int32x4")
    for i in range(GROUP // 4):
        code = bind(T.Cast("int32x4", T.nearbyint(values.vector(4 * i) * splat(inverse, "float32x4"))))
        store(target.codes, index * GROUP + 4 * i, T.Cast(f"{isa.activation_dtype}x4", code))
        sums[0] = sums[0] + code
    ints = Registers(4, "int32")
    T.buffer_store(ints._buffer, sums[0], [T.Ramp(0, 1, 4)])
    store(target.sums, index, tree_sum([ints[i] for i in range(4)]), 1)
    scale = tirx.Select(tiny, T.float32(0.0), peak / T.float32(127.0) * T.float32(SCALE_FACTOR))
    store(target.scales, index, scale, 1)


def groups_of(columns: int) -> int:
    return -(-columns // GROUP)


def for_each_group(columns: int, emit: object) -> None:
    """Call `emit(group, width)` in a loop over whole groups, then for a last partial one."""
    whole, rest = divmod(columns, GROUP)
    if whole:
        with T.serial(0, whole) as group:
            emit(group, GROUP)  # type: ignore[operator]
    if rest:
        emit(T.int32(whole), rest)  # type: ignore[operator]


def fill_group(values: Floats, width: int, read: object) -> None:
    """`values[i:i+4] = read(i)` (or scalar `read(i, 1)` in a ragged tail), zeros past `width`."""
    for i in range(0, GROUP, 4):
        if i + 4 <= width:
            values.set_vector(i, read(i, 4))  # type: ignore[operator]
            continue
        for j in range(i, i + 4):
            values[j] = read(j, 1) if j < width else T.float32(0.0)  # type: ignore[operator]


def quantize(isa: Isa, *, columns: int, stride: int) -> PrimFunc:
    """Parameters: input (`stride` floats per row), codes, scales, sums, m."""
    groups = groups_of(columns)
    with KernelBuilder() as k:
        source = k.buffer("input", "float32")
        target = QuantizedBuffers.declare(k, isa)
        m = k.scalar("m")
        with T.parallel(0, m) as row:
            values = Floats(GROUP)

            def one(group: Expr, width: int) -> None:
                start = row * stride + group * GROUP
                fill_group(values, width, lambda i, n: load(source, start + i, n) if n > 1 else source[start + i])
                quantize_group(isa, target, row * groups + group, values)

            for_each_group(columns, one)
    return k.func
