"""Causal attention over the paged KV cache, one (row, head) at a time.

At 8 bits both products are exact integer dot products: 12-bit queries by 12-bit keys, and softmax
weights (times the values' scales, 15 bits per page) by int8 values. Pages are added in order.
"""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.ir.compressed import GROUP
from edgec.lower.wasm.abi import THREAD
from edgec.lower.wasm.kernels import math
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
from edgec.lower.wasm.kernels.dot import signed_dot, widen_halves
from edgec.lower.wasm.kernels.kv_cache import PAGE_TOKENS, CacheBuffers, PageLayout
from edgec.lower.wasm.kernels.quantize import QuantizedBuffers, quantize_group
from edgec.lower.wasm.target import Isa

_MASKED = -1e30
_WEIGHT_LEVELS = 32767.0
_VECTORS = PAGE_TOKENS // 4


def scratch_floats(context_length: int) -> int:
    """Floats of scratch per thread: the scores of one row and head."""
    return -(-context_length // PAGE_TOKENS) * PAGE_TOKENS


def attention(
    isa: Isa, *, layout: PageLayout, heads: int, context_length: int, quantized: bool, window: int | None = None
) -> PrimFunc:
    """Parameters: queries, [query scales], cache buffers, scratch (`scratch_floats` per thread), then
    codes, scales, sums or a float output [m, heads * head_dim], position, m.

    `quantized` (head_dim a multiple of 32) leaves the result as quantized activations.
    """
    dim, bits = layout.head_dim, layout.bits
    with KernelBuilder() as k:
        queries = k.buffer("queries", "int32" if bits == 8 else "float32")  # int16 pairs
        query_scales = k.buffer("query_scales", "float32") if bits == 8 else None
        cache = CacheBuffers.declare(k, layout)
        scratch = k.buffer("scratch", "float32")
        target = QuantizedBuffers.declare(k, isa) if quantized else None
        output = None if quantized else k.buffer("output", "float32")
        position = k.scalar("position")
        m = k.scalar("m")
        with T.parallel(0, m * heads) as unit:
            row = bind(tirx.truncdiv(unit, heads))
            kv_head = bind(tirx.truncdiv(tirx.truncmod(unit, heads), heads // layout.kv_heads))
            last = bind(position + row)
            first = bind(tirx.max(last - (window - 1), 0)) if window else T.int32(0)
            first_page = bind(tirx.truncdiv(first, PAGE_TOKENS)) if window else T.int32(0)
            pages = bind(tirx.truncdiv(last, PAGE_TOKENS) + 1 - first_page)
            scores = bind(THREAD * scratch_floats(context_length))

            largest = Registers(1, "float32x4")
            largest.fill(1, _MASKED)
            with T.serial(0, pages) as p:
                page = cache.page(first_page + p)
                found = (
                    _float_scores(cache, queries, unit, page, kv_head)
                    if query_scales is None
                    else _integer_scores(cache, queries, query_scales, unit, page, kv_head)
                )
                for j in range(_VECTORS):
                    token = T.Ramp((first_page + p) * PAGE_TOKENS + 4 * j, 1, 4)
                    hidden = token > splat(last, "int32x4")
                    if window:
                        hidden = tirx.any(hidden, token < splat(first, "int32x4"))
                    score = bind(tirx.Select(hidden, splat(_MASKED, "float32x4"), found[j]))
                    store(scratch, scores + p * PAGE_TOKENS + 4 * j, score)
                    largest[0] = tirx.max(largest[0], score)
            lanes = Floats(4)
            lanes.set_vector(0, largest[0])
            peak = bind(tree_max([lanes[i] for i in range(4)]))

            sums = Registers(_VECTORS, "float32x4")
            sums.fill(_VECTORS, 0.0)
            with T.serial(0, pages) as p:
                for j in range(_VECTORS):
                    at = scores + p * PAGE_TOKENS + 4 * j
                    weight = bind(math.exp(bind(load(scratch, at) - splat(peak, "float32x4"))))
                    store(scratch, at, weight)
                    sums[j] = sums[j] + weight
            lanes.set_vector(0, tree_sum([sums[j] for j in range(_VECTORS)]))
            inverse = bind(T.float32(1.0) / tree_sum([lanes[i] for i in range(4)]))

            mixed = Floats(dim)
            with T.serial(0, dim // 4) as i:
                mixed.set_vector(i * 4, splat(0.0, "float32x4"))
            with T.serial(0, pages) as p:
                page = cache.page(first_page + p)
                weights = scores + p * PAGE_TOKENS
                (_float_values if bits == 32 else _integer_values)(cache, scratch, weights, page, kv_head, mixed)

            if target is not None:
                values = Floats(GROUP)
                with T.serial(0, dim // GROUP) as group:
                    for i in range(0, GROUP, 4):
                        values.set_vector(i, mixed.vector(group * GROUP + i) * splat(inverse, "float32x4"))
                    quantize_group(isa, target, unit * (dim // GROUP) + group, values)
            else:
                with T.serial(0, dim // 4) as i:
                    store(output, unit * dim + i * 4, mixed.vector(i * 4) * splat(inverse, "float32x4"))
    return k.func


def _float_scores(cache: CacheBuffers, queries: Buffer, unit: Expr, page: Expr, head: Expr) -> Registers:
    dim = cache.layout.head_dim
    sums = Registers(_VECTORS, "float32x4")
    sums.fill(_VECTORS, 0.0)
    base = bind(cache.key_index(page, head))
    with T.serial(0, dim) as d:
        query = splat(queries[unit * dim + d], "float32x4")
        for j in range(_VECTORS):
            sums[j] = sums[j] + query * load(cache.keys, base + d * PAGE_TOKENS + 4 * j)
    return sums


def _integer_scores(
    cache: CacheBuffers, queries: Buffer, query_scales: Buffer, unit: Expr, page: Expr, head: Expr
) -> Registers:
    """16 scores: lanes are tokens, one step multiplies a pair of features."""
    layout = cache.layout
    pairs = layout.group // 2
    sums = Registers(_VECTORS, "float32x4")
    sums.fill(_VECTORS, 0.0)
    base = bind(cache.key_index(page, head))
    scale_base = bind(cache.key_scale_index(page, head))
    with T.serial(0, layout.groups) as group:
        dots = Registers(_VECTORS, "int32x4")
        dots.fill(_VECTORS, 0)
        with T.serial(0, pairs) as pair:
            at = bind(group * pairs + pair)
            query = T.reinterpret("int16x8", splat(queries[unit * (layout.head_dim // 2) + at], "int32x4"))
            for j in range(_VECTORS):
                key = load(cache.keys, base + at * (2 * PAGE_TOKENS) + 8 * j, 8)
                dots[j] = dots[j] + signed_dot(key, query)
        query_scale = splat(query_scales[unit * layout.groups + group], "float32x4")
        for j in range(_VECTORS):
            key_scale = load(cache.key_scales, scale_base + group * PAGE_TOKENS + 4 * j)
            sums[j] = sums[j] + (T.Cast("float32x4", dots[j]) * key_scale) * query_scale
    return sums


def _float_values(cache: CacheBuffers, scratch: Buffer, weights: Expr, page: Expr, head: Expr, mixed: Floats) -> None:
    dim = cache.layout.head_dim
    base = bind(cache.value_index(page, head))
    with T.serial(0, PAGE_TOKENS) as token:
        weight = splat(scratch[weights + token], "float32x4")
        with T.serial(0, dim // 4) as i:
            value = load(cache.values, base + token * dim + i * 4)
            mixed.set_vector(i * 4, mixed.vector(i * 4) + weight * value)


def _integer_values(cache: CacheBuffers, scratch: Buffer, weights: Expr, page: Expr, head: Expr, mixed: Floats) -> None:
    """Add one page: lanes are features, one step multiplies a pair of tokens."""
    dim = cache.layout.head_dim
    scale_base = cache.value_scale_index(page, head)
    scaled = Registers(_VECTORS, "float32x4")
    for j in range(_VECTORS):
        scaled[j] = load(scratch, weights + 4 * j) * load(cache.value_scales, scale_base + 4 * j)
    lanes = Floats(4)
    lanes.set_vector(0, tree_max([scaled[j] for j in range(_VECTORS)]))
    peak = bind(tree_max([lanes[i] for i in range(4)]))
    tiny = peak < T.float32(1e-30)
    inverse = splat(bind(tirx.Select(tiny, T.float32(0.0), T.float32(_WEIGHT_LEVELS) / peak)), "float32x4")
    step = splat(bind(tirx.Select(tiny, T.float32(0.0), peak / T.float32(_WEIGHT_LEVELS))), "float32x4")
    codes = Integers(PAGE_TOKENS)
    for j in range(_VECTORS):
        codes.set_vector(4 * j, T.Cast("int32x4", T.nearbyint(scaled[j] * inverse)))
    pairs = Registers(PAGE_TOKENS // 2, "int32")  # two int16 codes each
    for pair in range(PAGE_TOKENS // 2):
        low, high = codes[2 * pair], codes[2 * pair + 1]
        pairs[pair] = T.bitwise_or(T.bitwise_and(low, T.int32(0xFFFF)), T.shift_left(high, T.int32(16)))
    base = bind(cache.value_index(page, head))
    with T.serial(0, dim // 8) as block:
        dots = Registers(2, "int32x4")
        dots.fill(2, 0)
        for pair in range(PAGE_TOKENS // 2):
            weight = T.reinterpret("int16x8", splat(pairs[pair], "int32x4"))
            codes8 = load(cache.values, base + pair * (2 * dim) + block * 16, 16)
            for part, half in enumerate(widen_halves(T.reinterpret("int32x4", codes8), signed=True)):
                dots[part] = dots[part] + signed_dot(half, weight)
        for part in range(2):
            at = block * 8 + 4 * part
            mixed.set_vector(at, mixed.vector(at) + T.Cast("float32x4", dots[part]) * step)
