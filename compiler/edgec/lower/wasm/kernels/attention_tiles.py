"""Causal attention of several rows together over the integer KV cache: the same bits as row by row, in less time.

A block of keys and values is loaded once for up to 16 queries, rows times query heads of a KV head. Four of them are
multiplied together by 8 tokens (or features), in the order that is stated here: eight sums stay in registers.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.ir.plan import BLOCK_TOKENS
from edgec.lower.wasm.kernels import math
from edgec.lower.wasm.kernels.attention_parts import (
    MASKED,
    VECTORS,
    WEIGHT_LEVELS,
    Visible,
    exponentials,
    weighted,
)
from edgec.lower.wasm.kernels.builder import (
    Buffer,
    Expr,
    Floats,
    Integers,
    Registers,
    bind,
    largest_lanes,
    load,
    splat,
    store,
    tree_max,
    window,
)
from edgec.lower.wasm.kernels.kv_cache import Block, CacheBuffers
from edgec.lower.wasm.kernels.pairs import in_turns, narrowed, straight_products
from edgec.lower.wasm.kernels.softcap import capped

_TILE = 4  # queries that are multiplied together
_MOST = 16  # that share a pass over keys and values
_PAIRS = BLOCK_TOKENS // 2


def rows_together(heads: int) -> int:
    """Rows that are handled with `heads` query heads each: their queries are whole tiles, at most `_MOST`."""
    return _MOST // (1 << (heads - 1).bit_length())


@dataclass(frozen=True)
class Tiles:
    """What the kernel works with. Of `scratch` a thread has the scores of `together` queries, `longest` floats from one
    query's to the next one's, and then the sums of their values.
    """

    queries: Buffer
    query_scales: Buffer
    cache: CacheBuffers
    scratch: Buffer
    output: Buffer
    heads: int
    together: int  # queries at most
    longest: int
    sliding_window: int | None
    softcap: float | None

    def attend(self, position: Expr, row: Expr, rows: Expr, kv_head: Expr, head: Expr, count: Expr, own: Expr) -> None:
        """For `rows` rows from `row` on, which stands at `position + row`: `count` query heads each, from `head` on,
        all of `kv_head`. `own` is where this thread's part of `scratch` begins."""
        dim = self.cache.layout.head_dim
        number = bind(rows * count)
        tiles = bind(tirx.truncdiv(number + (_TILE - 1), _TILE))
        sight = Visible.of(position + row, position + row + rows - 1, self.sliding_window)
        units, lasts, inverses = Integers(self.together), Integers(self.together), Floats(self.together)
        sums = bind(own + self.together * self.longest)
        with T.serial(0, tiles * _TILE) as query:
            valid = bind(tirx.min(query, number - 1))  # of the last tile the last query is repeated
            r = bind(tirx.truncdiv(valid, count))
            units[query] = (row + r) * self.heads + head + (valid - r * count)
            lasts[query] = position + row + r
            with T.serial(0, dim // 4) as i:
                store(self.scratch, sums + query * dim + i * 4, splat(0.0, "float32x4"))

        with T.serial(0, sight.blocks) as b:
            block = self.cache.block(sight.first_block + b, kv_head)
            with T.serial(0, tiles) as tile:
                self._scores(block, tile, units, own + b * BLOCK_TOKENS)
        with T.serial(0, tiles * _TILE) as query:
            scores = bind(own + query * self.longest)
            largest = self._hide(scores, sight, lasts[query])
            inverses[query] = exponentials(self.scratch, scores, sight.blocks, largest)

        codes, steps = Integers(self.together * _PAIRS), Floats(self.together)
        with T.serial(0, sight.blocks) as b:
            block = self.cache.block(sight.first_block + b, kv_head)
            scales = window(self.cache.value_scales, block.value_scales)
            with T.serial(0, tiles) as tile:
                self._weights(own + tile * (_TILE * self.longest) + b * BLOCK_TOKENS, scales, tile, codes, steps)
            values = bind(block.codes)
            with T.serial(0, tiles) as tile:
                self._add_values(values, tile, codes, steps, sums)

        with T.serial(0, number) as query:
            inverse = splat(bind(inverses[query]), "float32x4")
            target = bind(units[query] * dim)
            with T.serial(0, dim // 4) as i:
                store(self.output, target + i * 4, load(self.scratch, sums + query * dim + i * 4) * inverse)

    def _scores(self, block: Block, tile: Expr, units: Integers, target: Expr) -> None:
        """Of a tile and a block, none of them hidden; `target` is the place of query 0's."""
        layout = self.cache.layout
        pairs = layout.group // 2
        here = [bind(units[tile * _TILE + i] * layout.groups) for i in range(_TILE)]
        places = [bind(target + (tile * _TILE + i) * self.longest) for i in range(_TILE)]
        codes, key_scales = bind(block.codes), bind(block.key_scales)
        with T.serial(0, 2) as half, T.serial(0, layout.groups) as group:
            rows = [window(self.queries, (at + group) * pairs) for at in here]
            keys = window(self.cache.keys, codes + group * (pairs * 2 * BLOCK_TOKENS) + half * 16)
            dots = straight_products(rows, keys, *in_turns(pairs), stride=2 * BLOCK_TOKENS)
            scales = window(_key_scales(self.cache), key_scales + group * BLOCK_TOKENS + half * 8)
            each = [bind(load(scales, 4 * part)) for part in range(2)]
            found = []
            for i in range(_TILE):
                scale = bind(splat(self.query_scales[here[i] + group], "float32x4"))
                found += [bind((T.Cast("float32x4", dots[2 * i + part]) * each[part]) * scale) for part in range(2)]
            targets = [window(self.scratch, place + half * 8) for place in places]
            with T.If(group == 0):
                with T.Then():
                    for i, value in enumerate(found):
                        store(targets[i // 2], 4 * (i % 2), value)
                with T.Else():
                    for i, value in enumerate(found):
                        at = 4 * (i % 2)
                        store(targets[i // 2], at, load(targets[i // 2], at) + value)

    def _hide(self, scores: Expr, sight: Visible, last: Expr) -> Expr:
        """Of a query whose own token is `last`: caps its scores, hides what it may not see, and returns the largest of
        each lane."""
        first = sight.first_of(last)
        largest = Registers(1, "float32x4")
        largest[0] = splat(MASKED, "float32x4")
        with T.serial(0, sight.blocks) as b:
            target = window(self.scratch, scores + b * BLOCK_TOKENS)
            token = bind((sight.first_block + b) * BLOCK_TOKENS)
            found = [bind(load(target, 4 * j)) for j in range(VECTORS)]
            if self.softcap is not None:
                found = [bind(capped(value, self.softcap)) for value in found]
            inside = token + (BLOCK_TOKENS - 1) <= last
            if first is not None:
                inside = tirx.all(inside, token >= first)
            with T.If(inside):
                with T.Then():
                    if self.softcap is not None:
                        for j, value in enumerate(found):
                            store(target, 4 * j, value)
                    largest[0] = tirx.max(largest[0], tree_max(found))
                with T.Else():
                    for j, value in enumerate(found):
                        visible = bind(sight.shown(token + 4 * j, last, first, value))
                        store(target, 4 * j, visible)
                        largest[0] = tirx.max(largest[0], visible)
        return bind(largest[0])

    def _weights(self, weights: Expr, value_scales: Buffer, tile: Expr, codes: Integers, steps: Floats) -> None:
        """Codes of the weights of a tile and a block, in pairs, and what a step of each query's is worth."""
        scaled = Floats(_TILE * BLOCK_TOKENS)
        scales = [bind(load(value_scales, 4 * j)) for j in range(VECTORS)]
        peaks = []
        for i in range(_TILE):
            source = window(self.scratch, weights + i * self.longest)
            found = [bind(weighted(bind(load(source, 4 * j)), scales[j])) for j in range(VECTORS)]
            for j, value in enumerate(found):
                scaled.set_vector(i * BLOCK_TOKENS + 4 * j, value)
            peaks.append(bind(tree_max(found)))
        peak = bind(largest_lanes(peaks))
        tiny = peak < splat(1e-30, "float32x4")
        levels, zero = splat(WEIGHT_LEVELS, "float32x4"), splat(0.0, "float32x4")
        inverses = Floats(_TILE)
        inverses.set_vector(0, tirx.Select(tiny, zero, levels / peak))
        steps.set_vector(tile * _TILE, tirx.Select(tiny, zero, peak / levels))
        target = codes.window(tile * (_TILE * _PAIRS))
        for i in range(_TILE):
            inverse = bind(splat(inverses[i], "float32x4"))
            vectors = [
                bind(math.nearest_integer(scaled.vector(i * BLOCK_TOKENS + 4 * j) * inverse)) for j in range(VECTORS)
            ]
            for j in range(0, VECTORS, 2):
                store(target, i * _PAIRS + 2 * j, narrowed(vectors[j], vectors[j + 1]))

    def _add_values(self, values: Expr, tile: Expr, codes: Integers, steps: Floats, sums: Expr) -> None:
        dim = self.cache.layout.head_dim
        rows = [codes.window((tile * _TILE + i) * _PAIRS) for i in range(_TILE)]
        worth = [bind(splat(steps[tile * _TILE + i], "float32x4")) for i in range(_TILE)]
        here = bind(sums + tile * (_TILE * dim))
        with T.serial(0, dim // 8) as some:
            columns = window(self.cache.values, values + some * 16)
            dots = straight_products(rows, columns, _PAIRS, stride=2 * dim)
            target = window(self.scratch, here + some * 8)
            for i in range(_TILE):
                for part in range(2):
                    at = i * dim + 4 * part
                    store(target, at, load(target, at) + T.Cast("float32x4", dots[2 * i + part]) * worth[i])


def _key_scales(cache: CacheBuffers) -> Buffer:
    assert cache.key_scales is not None
    return cache.key_scales
