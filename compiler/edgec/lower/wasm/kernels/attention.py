"""Causal attention over the paged KV cache: one row at a time, the query heads of a KV head together.

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

_MASKED = -1e30
_WEIGHT_LEVELS = 32767.0
_VECTORS = BLOCK_TOKENS // 4
_STEP = 2  # pairs per turn of an inner loop; more, and LLVM's order of loads leaves no register free
_LINE_BYTES = 64  # of most caches
_TOGETHER = 4  # query heads that share one pass over keys and values; more would not fit the registers


def scratch_floats(context_length: int) -> int:
    """Floats of scratch per thread: the scores of one row and as many heads as are handled together."""
    return _TOGETHER * -(-context_length // BLOCK_TOKENS) * BLOCK_TOKENS


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
    dim, bits = layout.head_dim, layout.bits
    shared = heads // layout.kv_heads
    portions = _portions(shared)
    longest = scratch_floats(context_length) // _TOGETHER
    with KernelBuilder() as k:
        queries = k.buffer("queries", "int32" if bits == 16 else "float32")  # int16 pairs
        query_scales = k.buffer("query_scales", "float32") if bits == 16 else None
        cache = CacheBuffers.declare(k, layout)
        scratch = k.buffer("scratch", "float32")
        output = k.buffer("output", "float32")
        position = k.scalar("position")
        m = k.scalar("m")

        def one(row: Expr, kv_head: Expr, head: Expr, count: int) -> None:
            """Heads `head` to `head + count - 1` of a row."""
            last = bind(position + row)
            first = bind(tirx.max(last - (sliding_window - 1), 0)) if sliding_window else T.int32(0)
            first_block = bind(tirx.truncdiv(first, BLOCK_TOKENS)) if sliding_window else T.int32(0)
            blocks = bind(tirx.truncdiv(last, BLOCK_TOKENS) + 1 - first_block)
            scores = [bind(THREAD * scratch_floats(context_length) + h * longest) for h in range(count)]
            unit = bind(row * heads + head)

            largest = Registers(count, "float32x4")
            largest.fill(count, _MASKED)
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
                    for i in range(count * _VECTORS):
                        found[i] = capped(found[i], softcap)
                for j in range(_VECTORS):
                    token = T.Ramp((first_block + b) * BLOCK_TOKENS + 4 * j, 1, 4)
                    hidden = token > splat(last, "int32x4")
                    if sliding_window:
                        hidden = tirx.any(hidden, token < splat(first, "int32x4"))
                    for h in range(count):
                        visible = bind(tirx.Select(hidden, splat(_MASKED, "float32x4"), found[h * _VECTORS + j]))
                        store(scratch, scores[h] + b * BLOCK_TOKENS + 4 * j, visible)
                        largest[h] = tirx.max(largest[h], visible)

            inverses = [_exponentials(scratch, scores[h], blocks, largest[h]) for h in range(count)]

            mixed = [Floats(dim) for _ in range(count)]
            with T.serial(0, dim // 4) as i:
                for h in range(count):
                    mixed[h].set_vector(i * 4, splat(0.0, "float32x4"))
            add = _FloatValues(scratch, mixed) if bits == 32 else _IntegerValues(scratch, mixed)
            with T.serial(0, blocks) as b:
                ahead.touch(cache.values, b)
                add(cache.block(first_block + b, kv_head), [at + b * BLOCK_TOKENS for at in scores])
            ahead.finish(scratch, scores[0])

            for h in range(count):
                inverse = splat(inverses[h], "float32x4")
                with T.serial(0, dim // 4) as i:
                    store(output, (unit + h) * dim + i * 4, mixed[h].vector(i * 4) * inverse)

        # KV heads outside, so that threads get about the same number of tokens to attend to.
        with T.parallel(0, layout.kv_heads * len(portions) * m) as work:
            row = bind(tirx.truncmod(work, m))
            number = bind(tirx.truncdiv(work, m))
            kv_head = bind(tirx.truncdiv(number, len(portions)))
            place = bind(tirx.truncmod(number, len(portions)))
            larger = portions.count(portions[0])
            head = bind(kv_head * shared + place * portions[0] - tirx.max(place - larger, 0))  # others have one less
            if larger == len(portions):
                one(row, kv_head, head, portions[0])
            else:
                with T.If(place < larger):
                    with T.Then():
                        one(row, kv_head, head, portions[0])
                    with T.Else():
                        one(row, kv_head, head, portions[-1])
    return k.func


def _exponentials(scratch: Buffer, scores: Expr, blocks: Expr, largest: Expr) -> Expr:
    """Scores become exp(score - largest); returns 1 / their sum."""
    lanes = Floats(4)
    lanes.set_vector(0, largest)
    peak = bind(tree_max([lanes[i] for i in range(4)]))
    sums = Registers(_VECTORS, "float32x4")
    sums.fill(_VECTORS, 0.0)
    with T.serial(0, blocks) as b:
        for j in range(_VECTORS):
            at = scores + b * BLOCK_TOKENS + 4 * j
            weight = bind(math.exp(bind(load(scratch, at) - splat(peak, "float32x4"))))
            store(scratch, at, weight)
            sums[j] = sums[j] + weight
    lanes.set_vector(0, tree_sum([sums[j] for j in range(_VECTORS)]))
    return bind(T.float32(1.0) / tree_sum([lanes[i] for i in range(4)]))


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
        sums = Registers(self._count * _VECTORS, "float32x4")
        sums.fill(self._count * _VECTORS, 0.0)
        base = bind(block.codes)
        for h in range(self._count):
            with T.serial(0, dim) as d:
                query = splat(self._queries[(self._unit + h) * dim + d], "float32x4")
                for j in range(_VECTORS):
                    i = h * _VECTORS + j
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
        wide = _VECTORS if count <= 2 else 2  # vectors of tokens whose sums fit the registers
        sums = Registers(count * _VECTORS, "float32x4")
        sums.fill(count * _VECTORS, 0.0)
        keys = window(cache.keys, block.codes)
        key_scales = window(cache.key_scales, block.key_scales)
        for group in range(layout.groups):
            for first in range(0, _VECTORS, wide):
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
                        i = h * _VECTORS + first + j
                        sums[i] = sums[i] + (T.Cast("float32x4", dots[h * wide + j]) * key_scale) * scale
        return sums


def _weighted(weight: Expr, value: Expr) -> Expr:
    """`weight * value`, but 0 where the weight is: a hidden token's place may hold anything, an older text's NaN."""
    zero = splat(0.0, "float32x4")
    return tirx.Select(tirx.EQ(weight, zero), zero, weight * value)


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
                    mixed.set_vector(i * 4, mixed.vector(i * 4) + _weighted(weight, value))


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
        scaled = Registers(_VECTORS, "float32x4")
        for j in range(_VECTORS):
            scaled[j] = _weighted(bind(load(self._scratch, weights + 4 * j)), load(value_scales, 4 * j))
        lanes = Floats(4)
        lanes.set_vector(0, tree_max([scaled[j] for j in range(_VECTORS)]))
        peak = bind(tree_max([lanes[i] for i in range(4)]))
        tiny = peak < T.float32(1e-30)
        inverse = splat(bind(tirx.Select(tiny, T.float32(0.0), T.float32(_WEIGHT_LEVELS) / peak)), "float32x4")
        codes = [bind(math.nearest_integer(scaled[j] * inverse)) for j in range(_VECTORS)]
        for first in range(0, _VECTORS, 2):
            halfwords = T.call_llvm_pure_intrin("int16x8", "llvm.wasm.narrow.signed", codes[first], codes[first + 1])
            four = bind(T.reinterpret("int32x4", halfwords))
            for i in range(4):
                self._repeated[(first * 2 + i) * len(self._mixed) + head] = lane(four, i)
        return splat(bind(tirx.Select(tiny, T.float32(0.0), peak / T.float32(_WEIGHT_LEVELS))), "float32x4")
