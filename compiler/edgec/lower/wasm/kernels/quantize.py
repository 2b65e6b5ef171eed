"""Dynamic int8 quantization of activations, alone or fused behind a normalization.

Per row and group of 32 features: `scale = max |x| / 127`, `a = nearest(x * (127 / max |x|))`. A group
that one outlier dominates (max |x| > 3.5 times the root mean square) also gets fine codes: the
remainder in steps of `scale / 254`, which `linear` adds as a second dot product. About a quarter of
the groups of a language model do, and the error of the logits drops to a third
(docs/decisions/0005-outlier-groups.md).

Stored per group are [coarse, fine]: 2 x 32 codes (int8, or int16 for plain SIMD), two scales times
2^112 (see `linear.py`; the fine one is 0 where there are no fine codes) and two sums of codes, as
float32.
Features past the row's end are zero. Magnitudes below 1e-30 count as zero; up to 1e6 is safe.
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
    Integers,
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

SCALE_FACTOR = 2.0**112
OUTLIER_CREST = 3.5  # peak over root mean square; a gaussian group of 32 is seldom above 3
FINE_LEVELS = 254.0


@dataclass(frozen=True)
class QuantizedBuffers:
    """Where quantized activations go."""

    codes: Buffer
    scales: Buffer
    sums: Buffer

    @classmethod
    def declare(cls, k: KernelBuilder, isa: Isa) -> QuantizedBuffers:
        return cls(
            k.buffer("codes", isa.activation_dtype),
            k.buffer("code_scales", "float32"),
            k.buffer("code_sums", "float32"),
        )


def quantize_group(isa: Isa, target: QuantizedBuffers, index: Expr, values: Floats) -> None:
    """Quantize 32 floats on the stack into group `index` of the target. `values` is overwritten."""
    vectors = range(0, GROUP, 4)
    lanes = Floats(8)
    lanes.set_vector(0, tree_max([tirx.abs(values.vector(i)) for i in vectors]))
    lanes.set_vector(4, tree_sum([values.vector(i) * values.vector(i) for i in vectors]))
    peak = bind(tree_max([lanes[i] for i in range(4)]))
    energy = bind(tree_sum([lanes[i] for i in range(4, 8)]))
    tiny = bind(peak < T.float32(1e-30))
    inverse = bind(tirx.Select(tiny, T.float32(0.0), T.float32(127.0) / peak))
    step = bind(tirx.Select(tiny, T.float32(0.0), peak / T.float32(127.0)))
    outlier = bind(peak * peak * T.float32(GROUP / OUTLIER_CREST**2) > energy)
    _store_codes(isa, target, index * 2, values, inverse, remainder_step=step)
    store(target.scales, index * 2, step * T.float32(SCALE_FACTOR), 1)
    with T.If(tirx.all(outlier, tirx.Not(tiny))):
        with T.Then():
            _store_codes(isa, target, index * 2 + 1, values, inverse * T.float32(FINE_LEVELS))
            store(target.scales, index * 2 + 1, step * T.float32(SCALE_FACTOR / FINE_LEVELS), 1)
        with T.Else():
            store(target.scales, index * 2 + 1, T.float32(0.0), 1)


def _store_codes(
    isa: Isa, target: QuantizedBuffers, at: Expr, values: Floats, inverse: Expr, remainder_step: Expr | None = None
) -> None:
    """Codes and their sum; `remainder_step` leaves `value - code * step` in `values`."""
    total = Registers(1, "int32x4")
    total.fill(1, 0)
    for i in range(0, GROUP, 4):
        rounded = bind(T.nearbyint(values.vector(i) * splat(inverse, "float32x4")))
        code = bind(T.Cast("int32x4", rounded))
        store(target.codes, at * GROUP + i, T.Cast(f"{isa.activation_dtype}x4", code))
        total[0] = total[0] + code
        if remainder_step is not None:
            values.set_vector(i, values.vector(i) - rounded * splat(remainder_step, "float32x4"))
    lanes = Integers(4)
    lanes.set_vector(0, total[0])
    store(target.sums, at, T.Cast("float32", tree_sum([lanes[i] for i in range(4)])), 1)


def quantized_bytes(columns: int, rows: int) -> dict[str, int]:
    """Sizes of the three buffers for `rows` rows. Both ISAs share one memory plan (int16 codes)."""
    groups = groups_of(columns) * rows
    return {"codes": 2 * 2 * GROUP * groups, "scales": 2 * 4 * groups, "sums": 2 * 4 * groups}


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
