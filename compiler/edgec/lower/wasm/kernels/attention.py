"""Causal attention over the paged KV cache: one row at a time, the query heads of a KV head together, or several rows
(`attention_tiles.py`), which gives the same bits.

At 16 bits both products are exact integer dot products: 12-bit queries by 12-bit keys, and softmax
weights (times the values' scales, 15 bits per block) by 12-bit values. Blocks are added in order, so
a head's result depends on nothing but its row.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.ir.plan import BLOCK_TOKENS
from edgec.lower.wasm.abi import THREAD
from edgec.lower.wasm.kernels import math
from edgec.lower.wasm.kernels.attention_parts import MASKED, VECTORS, WEIGHT_LEVELS, Visible, exponentials, weighted
from edgec.lower.wasm.kernels.attention_tiles import Tiles, rows_together
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
from edgec.lower.wasm.kernels.kv_cache import BLOCKS, Block, CacheBuffers, PageLayout
from edgec.lower.wasm.kernels.softcap import capped

_STEP = 2  # pairs per turn of an inner loop; more, and LLVM's order of loads leaves no register free
_LINE_BYTES = 64  # of most caches
_TOGETHER = 4  # query heads that share one pass over keys and values; more would not fit the registers


def scratch_floats(layout: PageLayout, heads: int, context_length: int) -> int:
    """Floats of scratch per thread: the scores of all queries that are handled together, and sums of their values."""
    longest = _longest(context_length)
    largest = _portions(heads // layout.kv_heads)[0]
    if layout.bits == 32:
        return largest * longest
    return rows_together(largest) * largest * (longest + layout.head_dim)


def _longest(context_length: int) -> int:
    """From the scores of a query to the next one's. A block more than there are: a multiple of 4 KiB apart, they would
    get in each other's way in the cache of a processor."""
    return (-(-context_length // BLOCK_TOKENS) + 1) * BLOCK_TOKENS


def _portions(heads: int) -> list[int]:
    """`heads` query heads of one KV head in portions of nearly the same size, larger ones first."""
    count = -(-heads // _TOGETHER)
    return [heads // count + (number < heads % count) for number in range(count)]


def attention(
    *,
    layout: PageLayout,
    heads: int,
    context_length: int,
    sliding_window: int | None = None,
    softcap: float | None = None,
) -> PrimFunc:
    """Parameters: queries, [query scales], cache buffers, scratch (`scratch_floats` per thread), output [m, heads *
    head_dim], position, m. With a `softcap` c, scores s become c * tanh(s / c).
    """
    dim, integers = layout.head_dim, layout.bits == 16
    shared = heads // layout.kv_heads
    portions = _portions(shared)
    longest, own_scratch = _longest(context_length), scratch_floats(layout, heads, context_length)
    with KernelBuilder() as k:
        queries = k.buffer("queries", "int32" if integers else "float32")  # int16 pairs
        query_scales = k.buffer("query_scales", "float32") if integers else None
        cache = CacheBuffers.declare(k, layout)
        scratch = k.buffer("scratch", "float32")
        output = k.buffer("output", "float32")
        position = k.scalar("position")
        m = k.scalar("m")

        def one(row: Expr, kv_head: Expr, head: Expr, count: int) -> None:
            """Heads `head` to `head + count - 1` of a row."""
            last = bind(position + row)
            sight = Visible.of(last, last, sliding_window)
            first, first_block, blocks = sight.first_of(last), sight.first_block, sight.blocks
            scores = [bind(THREAD * own_scratch + h * longest) for h in range(count)]
            unit = bind(row * heads + head)

            largest = Registers(count, "float32x4")
            largest.fill(count, MASKED)
            score = (
                _FloatScores(layout, queries, unit, count)
                if query_scales is None
                else _IntegerScores(layout, queries, query_scales, unit, count)
            )
            ahead = _Ahead(cache, kv_head, first_block, blocks, m == 1)
            with T.serial(0, blocks) as b:
                ahead.touch(cache.keys, b)
                found = score(cache.block(first_block + b, kv_head))
                if softcap is not None:
                    for i in range(count * VECTORS):
                        found[i] = capped(found[i], softcap)
                for j in range(VECTORS):
                    token = (first_block + b) * BLOCK_TOKENS + 4 * j
                    for h in range(count):
                        visible = bind(sight.shown(token, last, first, found[h * VECTORS + j]))
                        store(scratch, scores[h] + b * BLOCK_TOKENS + 4 * j, visible)
                        largest[h] = tirx.max(largest[h], visible)

            inverses = [exponentials(scratch, scores[h], blocks, largest[h]) for h in range(count)]

            mixed = [Floats(dim) for _ in range(count)]
            with T.serial(0, dim // 4) as i:
                for h in range(count):
                    mixed[h].set_vector(i * 4, splat(0.0, "float32x4"))
            add = _IntegerValues(scratch, mixed) if integers else _FloatValues(scratch, mixed)
            with T.serial(0, blocks) as b:
                ahead.touch(cache.values, b)
                add(cache.block(first_block + b, kv_head), [at + b * BLOCK_TOKENS for at in scores])
            ahead.finish(scratch, scores[0])

            for h in range(count):
                inverse = splat(inverses[h], "float32x4")
                with T.serial(0, dim // 4) as i:
                    store(output, (unit + h) * dim + i * 4, mixed[h].vector(i * 4) * inverse)

        larger = portions.count(portions[0])

        def one_of(row: Expr, kv_head: Expr, head: Expr, place: Expr) -> None:
            if larger == len(portions):
                one(row, kv_head, head, portions[0])
                return
            with T.If(place < larger):
                with T.Then():
                    one(row, kv_head, head, portions[0])
                with T.Else():
                    one(row, kv_head, head, portions[-1])

        # KV heads outside, so that threads get about the same number of tokens to attend to.
        each = rows_together(portions[0]) if integers else 1
        parts = bind(tirx.truncdiv(m + (each - 1), each))
        with math.computed_constants(m), T.parallel(0, layout.kv_heads * len(portions) * parts) as work:
            row = bind(tirx.truncmod(work, parts) * each)
            number = bind(tirx.truncdiv(work, parts))
            kv_head = bind(tirx.truncdiv(number, len(portions)))
            place = bind(tirx.truncmod(number, len(portions)))
            head = bind(kv_head * shared + place * portions[0] - tirx.max(place - larger, 0))  # others have one less
            if query_scales is None:
                one_of(row, kv_head, head, place)
            else:
                count = bind(tirx.Select(place < larger, portions[0], portions[-1]))
                together = each * portions[0]
                tiles = Tiles(
                    queries, query_scales, cache, scratch, output, heads, together, longest, sliding_window, softcap
                )
                with T.If(m == 1):
                    with T.Then():
                        one_of(row, kv_head, head, place)
                    with T.Else():
                        rows = bind(tirx.min(m - row, each))
                        tiles.attend(position, row, rows, kv_head, head, count, bind(THREAD * own_scratch))
    return k.func


class _Ahead:
    """Reads a line of memory here and there from all blocks of a head that follow each other, all lines at once.

    When a single token attends, the cache comes from memory, and the kernels themselves ask for one line after the
    other. WebAssembly has no prefetch; what is read must be used, so `finish` writes it where the scores were.
    """

    def __init__(self, cache: CacheBuffers, kv_head: Expr, first_block: Expr, blocks: Expr, wanted: Expr) -> None:
        self._cache, self._kv_head, self._wanted = cache, kv_head, wanted
        self._first, self._last = first_block, bind(first_block + blocks - 1)
        self._read = Registers(1, "int32")
        self._read[0] = T.int32(0)

    def touch(self, codes: Buffer, block: Expr) -> None:
        layout = self._cache.layout
        line = _LINE_BYTES // layout.element
        number = self._first + block
        inside = tirx.truncmod(number, BLOCKS)
        with T.If(tirx.all(self._wanted, tirx.any(inside == 0, block == 0))), T.Then():
            run = tirx.min(BLOCKS - inside, self._last + 1 - number)
            start = bind(self._cache.block(number, self._kv_head).codes)
            with T.serial(0, run) as i:
                here = window(codes, start + i * (layout.head_dim * BLOCK_TOKENS))
                found = [_as_integer(here[at]) for at in range(0, layout.head_dim * BLOCK_TOKENS, line)]
                self._read[0] = self._read[0] + tree_sum(found)

    def finish(self, scratch: Buffer, place: Expr) -> None:
        with T.If(self._wanted), T.Then():
            store(scratch, place, T.reinterpret("float32", self._read[0]), 1)


def _as_integer(element: Expr) -> Expr:
    return T.Cast("int32", element) if str(element.ty.dtype) == "int16" else T.reinterpret("int32", element)


class _FloatScores:
    """Called with a block: its 16 scores per head, as registers `head * 4 + vector`."""

    def __init__(self, layout: PageLayout, queries: Buffer, unit: Expr, count: int) -> None:
        self._layout, self._queries, self._unit, self._count = layout, queries, unit, count

    def __call__(self, block: Block) -> Registers:
        dim = self._layout.head_dim
        sums = Registers(self._count * VECTORS, "float32x4")
        sums.fill(self._count * VECTORS, 0.0)
        base = bind(block.codes)
        for h in range(self._count):
            with T.serial(0, dim) as d:
                query = splat(self._queries[(self._unit + h) * dim + d], "float32x4")
                for j in range(VECTORS):
                    i = h * VECTORS + j
                    sums[i] = sums[i] + query * load(block.cache.keys, base + d * BLOCK_TOKENS + 4 * j)
        return sums


class _IntegerScores:
    """As `_FloatScores`. Lanes are tokens, one step multiplies a pair of features, of the query in all lanes."""

    def __init__(self, layout: PageLayout, queries: Buffer, scales: Buffer, unit: Expr, count: int) -> None:
        self._layout, self._scales, self._unit, self._count = layout, scales, unit, count
        pairs = layout.group // 2
        self._repeated = [[Registers(pairs, "int32x4") for _ in range(layout.groups)] for _ in range(count)]
        for h, groups in enumerate(self._repeated):
            for number, group in enumerate(groups):
                start = bind(((unit + h) * layout.groups + number) * pairs)
                with T.serial(0, pairs) as pair:
                    group[pair] = splat(queries[start + pair], "int32x4")

    def __call__(self, block: Block) -> Registers:
        layout, count, cache = self._layout, self._count, block.cache
        pairs = layout.group // 2
        wide = VECTORS if count <= 2 else 2  # vectors of tokens whose sums fit the registers
        sums = Registers(count * VECTORS, "float32x4")
        sums.fill(count * VECTORS, 0.0)
        keys = window(cache.keys, block.codes)
        key_scales = window(cache.key_scales, block.key_scales)
        for group in range(layout.groups):
            for first in range(0, VECTORS, wide):
                dots = Registers(count * wide, "int32x4")
                dots.fill(count * wide, 0)
                with T.serial(0, pairs // _STEP) as some:
                    here = window(keys, (group * pairs + some * _STEP) * (2 * BLOCK_TOKENS))
                    for i in range(_STEP):
                        loaded = [bind(load(here, i * (2 * BLOCK_TOKENS) + 8 * (first + j), 8)) for j in range(wide)]
                        for h in range(count):
                            query = bind(T.reinterpret("int16x8", self._repeated[h][group][some * _STEP + i]))
                            for j in range(wide):
                                dots[h * wide + j] = dots[h * wide + j] + signed_dot(loaded[j], query)
                for h in range(count):
                    scale = splat(self._scales[(self._unit + h) * layout.groups + group], "float32x4")
                    for j in range(wide):
                        key_scale = load(key_scales, group * BLOCK_TOKENS + 4 * (first + j))
                        i = h * VECTORS + first + j
                        sums[i] = sums[i] + (T.Cast("float32x4", dots[h * wide + j]) * key_scale) * scale
        return sums


class _FloatValues:
    """Called with a block and where the weights of its tokens start: adds the weighted values to `mixed`."""

    def __init__(self, scratch: Buffer, mixed: Sequence[Floats]) -> None:
        self._scratch, self._mixed = scratch, mixed

    def __call__(self, block: Block, weights: Sequence[Expr]) -> None:
        dim = block.cache.layout.head_dim
        base = bind(block.codes)
        for h, mixed in enumerate(self._mixed):
            with T.serial(0, BLOCK_TOKENS) as token:
                weight = bind(splat(self._scratch[weights[h] + token], "float32x4"))
                with T.serial(0, dim // 4) as i:
                    value = load(block.cache.values, base + token * dim + i * 4)
                    mixed.set_vector(i * 4, mixed.vector(i * 4) + weighted(weight, value))


class _IntegerValues:
    """As `_FloatValues`. Lanes are features, one step multiplies a pair of tokens."""

    def __init__(self, scratch: Buffer, mixed: Sequence[Floats]) -> None:
        self._scratch, self._mixed = scratch, mixed
        # Pairs of weights in all lanes, heads side by side.
        self._repeated = Registers(BLOCK_TOKENS // 2 * len(mixed), "int32x4")

    def __call__(self, block: Block, weights: Sequence[Expr]) -> None:
        cache, count, mixed = block.cache, len(self._mixed), self._mixed
        dim = cache.layout.head_dim
        value_scales = window(cache.value_scales, block.value_scales)
        steps = [self._weights(h, weights[h], value_scales) for h in range(count)]
        values = window(cache.values, block.codes)
        with T.serial(0, dim // 8) as some:
            dots = Registers(2 * count, "int32x4")
            dots.fill(2 * count, 0)
            here = window(values, some * 16)
            with T.serial(0, BLOCK_TOKENS // 2 // _STEP) as pairs:
                now = window(here, pairs * (_STEP * 2 * dim))
                for i in range(_STEP):
                    loaded = [bind(load(now, i * (2 * dim) + 8 * part, 8)) for part in range(2)]
                    for h in range(count):
                        weight = bind(T.reinterpret("int16x8", self._repeated[(pairs * _STEP + i) * count + h]))
                        for part in range(2):
                            dots[2 * h + part] = dots[2 * h + part] + signed_dot(loaded[part], weight)
            for h in range(count):
                for part in range(2):
                    at = some * 8 + 4 * part
                    total = mixed[h].vector(at) + T.Cast("float32x4", dots[2 * h + part]) * steps[h]
                    mixed[h].set_vector(at, total)

    def _weights(self, head: int, weights: Expr, value_scales: Buffer) -> Expr:
        """Quantize the weights of a block; returns what a step of them is worth, in all lanes."""
        scaled = Registers(VECTORS, "float32x4")
        for j in range(VECTORS):
            scaled[j] = weighted(bind(load(self._scratch, weights + 4 * j)), load(value_scales, 4 * j))
        lanes = Floats(4)
        lanes.set_vector(0, tree_max([scaled[j] for j in range(VECTORS)]))
        peak = bind(tree_max([lanes[i] for i in range(4)]))
        tiny = peak < T.float32(1e-30)
        inverse = splat(bind(tirx.Select(tiny, T.float32(0.0), T.float32(WEIGHT_LEVELS) / peak)), "float32x4")
        codes = [bind(math.nearest_integer(scaled[j] * inverse)) for j in range(VECTORS)]
        for first in range(0, VECTORS, 2):
            halfwords = T.call_llvm_pure_intrin("int16x8", "llvm.wasm.narrow.signed", codes[first], codes[first + 1])
            four = bind(T.reinterpret("int32x4", halfwords))
            for i in range(4):
                self._repeated[(first * 2 + i) * len(self._mixed) + head] = lane(four, i)
        return splat(bind(tirx.Select(tiny, T.float32(0.0), peak / T.float32(WEIGHT_LEVELS))), "float32x4")
