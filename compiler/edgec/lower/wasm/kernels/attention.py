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
from edgec.lower.wasm.abi import THREAD, THREADS
from edgec.lower.wasm.kernels import math
from edgec.lower.wasm.kernels.attention_ahead import Ahead, Reading
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
    largest_lane,
    load,
    splat,
    store,
    tree_max,
    window,
)
from edgec.lower.wasm.kernels.dot import lane
from edgec.lower.wasm.kernels.kv_cache import Block, CacheBuffers, PageLayout
from edgec.lower.wasm.kernels.pairs import factors, in_turns, narrowed, repeated_products
from edgec.lower.wasm.kernels.softcap import capped

_PAIRS = BLOCK_TOKENS // 2
_STRAIGHT = 16  # pairs of features without a loop
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

        def one(row: Expr, kv_head: Expr, next_head: Expr, begins: Expr, head: Expr, count: int) -> None:
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
            ahead = Ahead(cache, first_block, blocks, m == 1)
            ahead.whole(cache.keys, kv_head, begins if integers else True)
            if not integers:
                ahead.whole(cache.values, kv_head, True)
            with T.serial(0, blocks) as b:
                found = score(
                    cache.block(first_block + b, kv_head),
                    lambda *part, b=b: ahead.some(cache.values, kv_head, b, *part),
                )
                if softcap is not None:
                    for i in range(count * VECTORS):
                        found.set_vector(4 * i, capped(found.vector(4 * i), softcap))
                for j in range(VECTORS):
                    token = (first_block + b) * BLOCK_TOKENS + 4 * j
                    for h in range(count):
                        visible = bind(sight.shown(token, last, first, found.vector(h * BLOCK_TOKENS + 4 * j)))
                        store(scratch, scores[h] + b * BLOCK_TOKENS + 4 * j, visible)
                        largest[h] = tirx.max(largest[h], visible)

            inverses = [exponentials(scratch, scores[h], blocks, largest[h]) for h in range(count)]

            mixed = [Floats(dim) for _ in range(count)]
            with T.serial(0, dim // 4) as i:
                for h in range(count):
                    mixed[h].set_vector(i * 4, splat(0.0, "float32x4"))
            add = _IntegerValues(scratch, mixed) if integers else _FloatValues(scratch, mixed)
            with T.serial(0, blocks) as b:
                add(
                    cache.block(first_block + b, kv_head),
                    [at + b * BLOCK_TOKENS for at in scores],
                    lambda *part, b=b: ahead.some(cache.keys, next_head, b, *part),
                )
            ahead.finish(scratch, scores[0])

            for h in range(count):
                inverse = splat(inverses[h], "float32x4")
                with T.serial(0, dim // 4) as i:
                    store(output, (unit + h) * dim + i * 4, mixed[h].vector(i * 4) * inverse)

        larger = portions.count(portions[0])

        def one_of(row: Expr, kv_head: Expr, next_head: Expr, begins: Expr, head: Expr, place: Expr) -> None:
            if larger == len(portions):
                one(row, kv_head, next_head, begins, head, portions[0])
                return
            with T.If(place < larger):
                with T.Then():
                    one(row, kv_head, next_head, begins, head, portions[0])
                with T.Else():
                    one(row, kv_head, next_head, begins, head, portions[-1])

        # KV heads outside, so that threads get about the same number of tokens to attend to.
        each = rows_together(portions[0]) if integers else 1
        parts = bind(tirx.truncdiv(m + (each - 1), each))
        with math.computed_constants(m), T.parallel(0, layout.kv_heads * len(portions) * parts) as work:
            row = bind(tirx.truncmod(work, parts) * each)
            share = bind(tirx.truncdiv(layout.kv_heads * len(portions) * parts + THREADS - 1, THREADS))
            begins = bind(work == THREAD * share)
            ends = bind(tirx.min((THREAD + 1) * share, layout.kv_heads * len(portions) * parts))
            next_head = bind(tirx.truncdiv(tirx.min(work + 1, ends - 1), len(portions) * parts))
            number = bind(tirx.truncdiv(work, parts))
            kv_head = bind(tirx.truncdiv(number, len(portions)))
            place = bind(tirx.truncmod(number, len(portions)))
            head = bind(kv_head * shared + place * portions[0] - tirx.max(place - larger, 0))  # others have one less
            if query_scales is None:
                one_of(row, kv_head, next_head, begins, head, place)
            else:
                count = bind(tirx.Select(place < larger, portions[0], portions[-1]))
                together = each * portions[0]
                tiles = Tiles(
                    queries, query_scales, cache, scratch, output, heads, together, longest, sliding_window, softcap
                )
                with T.If(m == 1):
                    with T.Then():
                        one_of(row, kv_head, next_head, begins, head, place)
                    with T.Else():
                        rows = bind(tirx.min(m - row, each))
                        tiles.attend(position, row, rows, kv_head, head, count, bind(THREAD * own_scratch))
    return k.func


class _FloatScores:
    """Called with a block: its 16 scores per head."""

    def __init__(self, layout: PageLayout, queries: Buffer, unit: Expr, count: int) -> None:
        self._layout, self._queries, self._unit, self._count = layout, queries, unit, count

    def __call__(self, block: Block, ahead: Reading) -> Floats:
        dim = self._layout.head_dim
        base, found = bind(block.codes), Floats(self._count * BLOCK_TOKENS)
        for h in range(self._count):
            sums = Registers(VECTORS, "float32x4")
            sums.fill(VECTORS, 0.0)
            with T.serial(0, dim) as d:
                query = splat(self._queries[(self._unit + h) * dim + d], "float32x4")
                for j in range(VECTORS):
                    sums[j] = sums[j] + query * load(block.cache.keys, base + d * BLOCK_TOKENS + 4 * j)
            for j in range(VECTORS):
                found.set_vector(h * BLOCK_TOKENS + 4 * j, sums[j])
        return found


class _IntegerScores:
    """As `_FloatScores`. Lanes are tokens, one step multiplies a pair of features, of the query in all lanes."""

    def __init__(self, layout: PageLayout, queries: Buffer, scales: Buffer, unit: Expr, count: int) -> None:
        self._layout, self._scales, self._unit, self._count = layout, scales, unit, count
        width = layout.head_dim // 2
        self._repeated = Registers(count * width, "int32x4")
        source = bind(unit * width)
        with T.serial(0, count * width) as pair:
            self._repeated[pair] = splat(queries[source + pair], "int32x4")

    def __call__(self, block: Block, ahead: Reading) -> Floats:
        layout, count, cache = self._layout, self._count, block.cache
        pairs = layout.group // 2
        straight, turns = in_turns(pairs, _STRAIGHT)
        codes, key_scales = bind(block.codes), bind(block.key_scales)
        here = [bind((self._unit + h) * layout.groups) for h in range(count)]
        sums = Floats(count * BLOCK_TOKENS)
        with T.serial(0, 2) as half, T.serial(0, layout.groups) as group:
            meanwhile = ahead(half * layout.groups + group, 2 * layout.groups, straight)
            starts = [bind((h * layout.groups + group) * pairs) for h in range(count)]
            keys = window(cache.keys, codes + group * (pairs * 2 * BLOCK_TOKENS) + half * 16)
            dots = repeated_products(
                self._repeated, starts, keys, straight, turns, stride=2 * BLOCK_TOKENS, meanwhile=meanwhile
            )
            scales = window(cache.key_scales, key_scales + group * BLOCK_TOKENS + half * 8)
            each = [bind(load(scales, 4 * part)) for part in range(2)]
            found = []
            for h in range(count):
                scale = bind(splat(self._scales[here[h] + group], "float32x4"))
                found += [bind((T.Cast("float32x4", dots[2 * h + part]) * each[part]) * scale) for part in range(2)]
            places = [i // 2 * BLOCK_TOKENS + 4 * (i % 2) + half * 8 for i in range(2 * count)]
            with T.If(group == 0):
                with T.Then():
                    for at, value in zip(places, found, strict=True):
                        sums.set_vector(at, value)
                with T.Else():
                    for at, value in zip(places, found, strict=True):
                        sums.set_vector(at, sums.vector(at) + value)
        return sums


class _FloatValues:
    """Called with a block and where the weights of its tokens start: adds the weighted values to `mixed`."""

    def __init__(self, scratch: Buffer, mixed: Sequence[Floats]) -> None:
        self._scratch, self._mixed = scratch, mixed

    def __call__(self, block: Block, weights: Sequence[Expr], ahead: Reading) -> None:
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
        self._repeated = Registers(_PAIRS * len(mixed), "int32x4")  # pairs of weights in all lanes

    def __call__(self, block: Block, weights: Sequence[Expr], ahead: Reading) -> None:
        cache, count, mixed = block.cache, len(self._mixed), self._mixed
        dim = cache.layout.head_dim
        value_scales = window(cache.value_scales, block.value_scales)
        steps = [bind(self._weights(h, weights[h], value_scales)) for h in range(count)]
        values = bind(block.codes)
        with T.serial(0, dim // 8) as some:
            columns = window(cache.values, values + some * 16)
            meanwhile = ahead(some, dim // 8, _PAIRS)
            starts = [h * _PAIRS for h in range(count)]
            dots = repeated_products(self._repeated, starts, columns, _PAIRS, stride=2 * dim, meanwhile=meanwhile)
            for h in range(count):
                for part in range(2):
                    at = some * 8 + 4 * part
                    total = mixed[h].vector(at) + T.Cast("float32x4", dots[2 * h + part]) * steps[h]
                    mixed[h].set_vector(at, total)

    def _weights(self, head: int, weights: Expr, value_scales: Buffer) -> Expr:
        """Quantize the weights of a block; returns what a step of them is worth, in all lanes."""
        scaled = [
            bind(weighted(bind(load(self._scratch, weights + 4 * j)), load(value_scales, 4 * j)))
            for j in range(VECTORS)
        ]
        inverse, step = factors(largest_lane(tree_max(scaled)), WEIGHT_LEVELS)
        codes = [bind(math.nearest_integer(scaled[j] * splat(inverse, "float32x4"))) for j in range(VECTORS)]
        for j in range(0, VECTORS, 2):
            four = bind(narrowed(codes[j], codes[j + 1]))
            for i in range(4):
                self._repeated[head * _PAIRS + 2 * j + i] = lane(four, i)
        return splat(step, "float32x4")
