"""Causal attention over the paged KV cache, one (row, head) at a time.

At 16 bits both products are exact integer dot products: 12-bit queries by 12-bit keys, and softmax
weights (times the values' scales, 15 bits per page) by 12-bit values. Pages are added in order.
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
    KernelBuilder,
    PrimFunc,
    Registers,
    bind,
    load,
    splat,
    store,
    tree_max,
    tree_sum,
    window,
)
from edgec.lower.wasm.kernels.dot import lane, signed_dot
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
    isa: Isa, *, layout: PageLayout, heads: int, context_length: int, quantized: bool, sliding_window: int | None = None
) -> PrimFunc:
    """Parameters: queries, [query scales], cache buffers, scratch (`scratch_floats` per thread), then
    quantized buffers or a float output [m, heads * head_dim], position, m.

    `quantized` (head_dim a multiple of 32) leaves the result as quantized activations.
    """
    dim, bits = layout.head_dim, layout.bits
    with KernelBuilder() as k:
        queries = k.buffer("queries", "int32" if bits == 16 else "float32")  # int16 pairs
        query_scales = k.buffer("query_scales", "float32") if bits == 16 else None
        cache = CacheBuffers.declare(k, layout)
        scratch = k.buffer("scratch", "float32")
        target = QuantizedBuffers.declare(k, isa.activation_dtype) if quantized else None
        output = None if quantized else k.buffer("output", "float32")
        position = k.scalar("position")
        m = k.scalar("m")
        with T.parallel(0, m * heads) as unit:
            row = bind(tirx.truncdiv(unit, heads))
            kv_head = bind(tirx.truncdiv(tirx.truncmod(unit, heads), heads // layout.kv_heads))
            last = bind(position + row)
            first = bind(tirx.max(last - (sliding_window - 1), 0)) if sliding_window else T.int32(0)
            first_page = bind(tirx.truncdiv(first, PAGE_TOKENS)) if sliding_window else T.int32(0)
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
                    if sliding_window:
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
                per_head = dim // GROUP
                first = bind(tirx.truncmod(unit, heads) * per_head)
                with T.serial(0, per_head) as group:
                    for i in range(0, GROUP, 4):
                        values.set_vector(i, mixed.vector(group * GROUP + i) * splat(inverse, "float32x4"))
                    quantize_group(isa, target, row, first + group, heads * per_head, values)
            else:
                with T.serial(0, dim // 4) as i:
                    store(output, unit * dim + i * 4, mixed.vector(i * 4) * splat(inverse, "float32x4"))
    return k.func


def _float_scores(cache: CacheBuffers, queries: Buffer, unit: Expr, page: Expr, head: Expr) -> Registers:
    dim = cache.layout.head_dim
    sums = Registers(_VECTORS, "float32x4")
    sums.fill(_VECTORS, 0.0)
    base = bind(cache.code_index(page, head))
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
    step = 4 if pairs % 4 == 0 else 1  # pairs of the query that are loaded together
    sums = Registers(_VECTORS, "float32x4")
    sums.fill(_VECTORS, 0.0)
    keys = window(cache.keys, cache.code_index(page, head))
    key_scales = window(cache.key_scales, cache.key_scale_index(page, head))
    query = window(queries, unit * (layout.head_dim // 2))
    for group in range(layout.groups):
        dots = Registers(_VECTORS, "int32x4")
        dots.fill(_VECTORS, 0)
        with T.serial(0, pairs // step) as block:
            start = group * pairs + block * step
            some = bind(load(query, start) if step > 1 else splat(query[start], "int32x4"))
            here = window(keys, start * (2 * PAGE_TOKENS))
            for i in range(step):
                pair = bind(T.reinterpret("int16x8", lane(some, i) if step > 1 else some))
                for j in range(_VECTORS):
                    key = load(here, i * (2 * PAGE_TOKENS) + 8 * j, 8)
                    dots[j] = dots[j] + signed_dot(key, pair)
        query_scale = splat(query_scales[unit * layout.groups + group], "float32x4")
        for j in range(_VECTORS):
            key_scale = load(key_scales, group * PAGE_TOKENS + 4 * j)
            sums[j] = sums[j] + (T.Cast("float32x4", dots[j]) * key_scale) * query_scale
    return sums


def _float_values(cache: CacheBuffers, scratch: Buffer, weights: Expr, page: Expr, head: Expr, mixed: Floats) -> None:
    dim = cache.layout.head_dim
    base = bind(cache.code_index(page, head))
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
    codes = [bind(T.Cast("int32x4", T.nearbyint(scaled[j] * inverse))) for j in range(_VECTORS)]
    weights_of = []  # pairs of tokens, repeated in all lanes
    for first in range(0, _VECTORS, 2):
        halfwords = T.call_llvm_pure_intrin("int16x8", "llvm.wasm.narrow.signed", codes[first], codes[first + 1])
        four = bind(T.reinterpret("int32x4", halfwords))
        weights_of += [bind(T.reinterpret("int16x8", lane(four, i))) for i in range(4)]
    values = window(cache.values, cache.code_index(page, head))
    with T.serial(0, dim // 8) as block:
        dots = Registers(2, "int32x4")
        dots.fill(2, 0)
        here = window(values, block * 16)
        for pair, weight in enumerate(weights_of):
            for part in range(2):
                dots[part] = dots[part] + signed_dot(load(here, pair * (2 * dim) + 8 * part, 8), weight)
        for part in range(2):
            at = block * 8 + 4 * part
            mixed.set_vector(at, mixed.vector(at) + T.Cast("float32x4", dots[part]) * step)
