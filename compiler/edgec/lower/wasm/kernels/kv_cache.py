"""Layout of the paged KV cache, rotary embedding, and appending keys and values to it.

A page holds 64 tokens of every layer, in blocks of 16. Per layer, KV head and block at 16 bits:

    keys    int16   [head_dim / 2, 16 tokens, 2]    values  int16   [8 token pairs, head_dim, 2]
    scales  float32 [groups, 16 tokens]             scales  float32 [16 tokens]

The blocks of a head in a page follow each other, so that attention reads runs of several KiB: with runs
of 2 KiB it waited for memory at the start of each.

Codes have 12 bits: with 8, attention scores were the largest error of the whole model, and values the
next (docs/decisions/0005-outlier-groups.md, 0006-outliers-one-by-one.md). In this layout both products
of attention are `int16x8` dot products without horizontal sums: lanes are tokens for scores, features
for the output. At 32 bits, per block: keys [head_dim, 16], values [16, head_dim].
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.ir.plan import BLOCK_TOKENS, PAGE_TOKENS
from edgec.lower.wasm.kernels import math
from edgec.lower.wasm.kernels.builder import (
    Buffer,
    Expr,
    Floats,
    KernelBuilder,
    PrimFunc,
    bind,
    largest_lane,
    load,
    splat,
    store,
    tree_max,
)

BLOCKS = PAGE_TOKENS // BLOCK_TOKENS  # of a page
QUERY_LEVELS = 2047.0
KEY_LEVELS = 2047.0  # 32 products of two 12-bit codes fit an int32
VALUE_LEVELS = 2047.0  # so do 16 products of a code and a 15-bit weight


@dataclass(frozen=True)
class PageLayout:
    """Byte offsets inside a page."""

    layers: int
    kv_heads: int
    head_dim: int
    bits: int  # 16 or 32

    @property
    def group(self) -> int:
        """Features that share one scale of a key."""
        return 32 if self.head_dim % 32 == 0 else self.head_dim

    @property
    def groups(self) -> int:
        return self.head_dim // self.group

    @property
    def element(self) -> int:
        """Bytes of a code."""
        return self.bits // 8

    @property
    def _codes(self) -> int:
        """Keys (or values) of one layer in a page."""
        return self.kv_heads * self.head_dim * PAGE_TOKENS

    @property
    def layer_bytes(self) -> int:
        scales = self.kv_heads * (self.groups + 1) * PAGE_TOKENS * 4 if self.bits == 16 else 0
        return 2 * self._codes * self.element + scales

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token in one layer."""
        return self.layer_bytes // PAGE_TOKENS

    @property
    def page_bytes(self) -> int:
        return self.layers * self.layer_bytes

    def buffers(self, layer: int) -> dict[str, int]:
        """Offset of each kernel buffer of `layer` in a page, in parameter order."""
        base = layer * self.layer_bytes
        offsets = {"keys": base, "values": base + self._codes * self.element}
        if self.bits == 16:
            offsets["key_scales"] = offsets["values"] + self._codes * self.element
            offsets["value_scales"] = offsets["key_scales"] + self.kv_heads * self.groups * PAGE_TOKENS * 4
        return offsets


@dataclass(frozen=True)
class CacheBuffers:
    """The cache as a kernel sees it: the same page base, as codes and as scales."""

    layout: PageLayout
    page_table: Buffer
    keys: Buffer
    values: Buffer
    key_scales: Buffer | None
    value_scales: Buffer | None

    @classmethod
    def declare(cls, k: KernelBuilder, layout: PageLayout) -> CacheBuffers:
        table = k.buffer("page_table", "int32")
        if layout.bits == 32:
            return cls(layout, table, k.buffer("keys", "float32"), k.buffer("values", "float32"), None, None)
        keys, values = k.buffer("keys", "int16"), k.buffer("values", "int16")
        return cls(layout, table, keys, values, k.buffer("key_scales", "float32"), k.buffer("value_scales", "float32"))

    def block(self, number: Expr, head: Expr) -> Block:
        """The block of a head that holds tokens from `number * BLOCK_TOKENS` on."""
        page = bind(self.page_table[tirx.truncdiv(number, BLOCKS)])
        return Block(self, page, bind(head * BLOCKS + tirx.truncmod(number, BLOCKS)))


@dataclass(frozen=True)
class Block:
    """Where 16 tokens of a head lie; indices count elements of their buffer."""

    cache: CacheBuffers
    page: Expr
    number: Expr  # among those of all heads of the layer in the page

    @property
    def codes(self) -> Expr:
        """Of the keys, and of the values."""
        layout = self.cache.layout
        return self.page * (layout.page_bytes // layout.element) + self.number * (layout.head_dim * BLOCK_TOKENS)

    @property
    def key_scales(self) -> Expr:
        layout = self.cache.layout
        return self.page * (layout.page_bytes // 4) + self.number * (layout.groups * BLOCK_TOKENS)

    @property
    def value_scales(self) -> Expr:
        return self.page * (self.cache.layout.page_bytes // 4) + self.number * BLOCK_TOKENS


def rope_angles(*, half: int, scale: float) -> PrimFunc:
    """Parameters: inverse frequencies [half], cosines, sines (both [m, half]), position, m.

    `half` is half the head dimension; angles are `float32(position) * inv_freq`.
    """
    with KernelBuilder() as k:
        frequencies = k.buffer("inv_freq", "float32", half)
        cosines = k.buffer("cosines", "float32")
        sines = k.buffer("sines", "float32")
        position = k.scalar("position")
        m = k.scalar("m")
        with T.parallel(0, m) as row:
            at = bind(T.Cast("float32", position + row))
            with T.serial(0, half) as i:
                angle = bind(at * frequencies[i])
                store(cosines, row * half + i, math.cos(angle) * T.float32(scale), 1)
                store(sines, row * half + i, math.sin(angle) * T.float32(scale), 1)
    return k.func


def _peak(values: Floats, start: int, count: int) -> Expr:
    return largest_lane(tree_max([tirx.abs(values.vector(start + i)) for i in range(0, count, 4)]))


def _inverse(peak: Expr, levels: float) -> Expr:
    return bind(tirx.Select(peak < T.float32(1e-30), T.float32(0.0), T.float32(levels) / peak))


def rope_and_append(
    *, layout: PageLayout, heads: int, stride: int, rotated: int | None = None, softmax_scale: float | None = None
) -> PrimFunc:
    """Rotate queries and keys, append keys and values, leave queries ready for `attention`.

    Parameters: qkv [m, stride] (queries, keys, values), [cosines, sines], cache buffers, queries
    (int16 at 16 bits, else float32), [query scales], position, m. Query scales include
    `softmax_scale`, by default 1 / sqrt(head_dim). The first `rotated` features of a head rotate (by default
    all); with 0 there are no cosines and sines.
    """
    dim = layout.head_dim
    half = (dim if rotated is None else rotated) // 2
    units = heads + 2 * layout.kv_heads
    with KernelBuilder() as k:
        qkv = k.buffer("qkv", "float32")
        cosines, sines = (k.buffer(name, "float32") if half else None for name in ("cosines", "sines"))
        cache = CacheBuffers.declare(k, layout)
        queries = k.buffer("queries", "int16" if layout.bits == 16 else "float32")
        query_scales = k.buffer("query_scales", "float32") if layout.bits == 16 else None
        position = k.scalar("position")
        m = k.scalar("m")
        scale = T.float32(dim**-0.5 if softmax_scale is None else softmax_scale)
        with T.parallel(0, m * units) as unit:
            row = bind(tirx.truncdiv(unit, units))
            head = bind(tirx.truncmod(unit, units))
            source = bind(row * stride + head * dim)
            token = bind(position + row)
            values = Floats(dim)

            def plain(first: int = 0) -> None:
                whole = (dim - first) // 4 * 4
                for i in range(first, first + whole, 4):
                    values.set_vector(i, load(qkv, source + i))
                for i in range(first + whole, dim):
                    values[i] = qkv[source + i]

            def rotate() -> None:
                if cosines is None or sines is None:
                    plain()
                    return
                for i in range(0, half // 4 * 4, 4):
                    first, second = bind(load(qkv, source + i)), bind(load(qkv, source + half + i))
                    cosine, sine = bind(load(cosines, row * half + i)), bind(load(sines, row * half + i))
                    values.set_vector(i, first * cosine - second * sine)
                    values.set_vector(half + i, second * cosine + first * sine)
                for i in range(half // 4 * 4, half):
                    first, second = bind(qkv[source + i]), bind(qkv[source + half + i])
                    cosine, sine = bind(cosines[row * half + i]), bind(sines[row * half + i])
                    values[i] = first * cosine - second * sine
                    values[half + i] = second * cosine + first * sine
                plain(2 * half)

            with T.If(head < heads):
                with T.Then():
                    rotate()
                    at = row * heads + head
                    _store_query(layout, values, queries, query_scales, at, scale)
                with T.Else(), T.If(head < heads + layout.kv_heads):
                    with T.Then():
                        rotate()
                        _append_key(cache, values, token, head - heads)
                    with T.Else():
                        plain()
                        _append_value(cache, values, token, head - heads - layout.kv_heads)
    return k.func


def _store_query(
    layout: PageLayout, values: Floats, queries: Buffer, scales: Buffer | None, at: Expr, softmax_scale: Expr
) -> None:
    dim = layout.head_dim
    if scales is None:
        for i in range(0, dim, 4):
            store(queries, at * dim + i, values.vector(i) * splat(softmax_scale, "float32x4"))
        return
    for group in range(layout.groups):
        start = group * layout.group
        peak = _peak(values, start, layout.group)
        inverse = _inverse(peak, QUERY_LEVELS)
        for i in range(start, start + layout.group, 4):
            code = T.nearbyint(values.vector(i) * splat(inverse, "float32x4"))
            store(queries, at * dim + i, T.Cast("int16x4", T.Cast("int32x4", code)))
        store(scales, at * layout.groups + group, peak / T.float32(QUERY_LEVELS) * softmax_scale, 1)


def _append_key(cache: CacheBuffers, values: Floats, token: Expr, head: Expr) -> None:
    layout = cache.layout
    block = cache.block(tirx.truncdiv(token, BLOCK_TOKENS), head)
    slot = bind(tirx.truncmod(token, BLOCK_TOKENS))
    base = bind(block.codes)
    if cache.key_scales is None:
        with T.serial(0, layout.head_dim) as d:
            store(cache.keys, base + d * BLOCK_TOKENS + slot, values[d], 1)
        return
    for group in range(layout.groups):
        start = group * layout.group
        peak = _peak(values, start, layout.group)
        inverse = _inverse(peak, KEY_LEVELS)
        with T.serial(0, layout.group // 2) as pair:
            for j in range(2):
                code = T.Cast("int16", math.nearest_integer(values[start + pair * 2 + j] * inverse))
                store(cache.keys, base + (start // 2 + pair) * (2 * BLOCK_TOKENS) + slot * 2 + j, code, 1)
        scale_at = block.key_scales + group * BLOCK_TOKENS + slot
        store(cache.key_scales, scale_at, peak / T.float32(KEY_LEVELS), 1)


def _append_value(cache: CacheBuffers, values: Floats, token: Expr, head: Expr) -> None:
    dim = cache.layout.head_dim
    block = cache.block(tirx.truncdiv(token, BLOCK_TOKENS), head)
    slot = bind(tirx.truncmod(token, BLOCK_TOKENS))
    base = bind(block.codes)
    if cache.value_scales is None:
        for i in range(0, dim, 4):
            store(cache.values, base + slot * dim + i, values.vector(i))
        return
    peak = _peak(values, 0, dim)
    inverse = _inverse(peak, VALUE_LEVELS)
    row = base + tirx.truncdiv(slot, 2) * (2 * dim) + tirx.truncmod(slot, 2)
    with T.serial(0, dim) as d:
        store(cache.values, row + d * 2, T.Cast("int16", math.nearest_integer(values[d] * inverse)), 1)
    store(cache.value_scales, block.value_scales + slot, peak / T.float32(VALUE_LEVELS), 1)
