"""Attention of whole sequences by integers, for graphs whose matrices are quantized too.

Both products are exact: queries and keys have a scale per token and head and as many bits as their sum in 32 bits
allows (13 for 64 features), values 12 bits and a scale for 64 tokens, softmax weights 13 bits below the largest of
their 64. Blocks of 64 tokens are added in order, so a query's result depends on nothing but itself
(docs/decisions/0034-products-of-16-bits.md).

A first kernel writes the codes, two of int16 to an element:

    key codes    [batch, kv_heads, blocks, 8, pairs of features, 8]   group of 8 keys, pair, key
    key scales   [batch, kv_heads, blocks, 64]
    value codes  [batch, kv_heads, blocks, features / 8, 32, 8]       pair of keys, feature
    value scales [batch, kv_heads, blocks]

Keys past the last one are zeros in its group of 8, and not written after that.
"""

from __future__ import annotations

import math as numbers
from collections.abc import Sequence

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.graph_dims import to_tir
from edgec.lower.wasm.kernels import math
from edgec.lower.wasm.kernels.builder import (
    Expr,
    Floats,
    Integers,
    KernelBuilder,
    PrimFunc,
    Registers,
    bind,
    largest_lane,
    load,
    splat,
    store,
    tree_sum,
    wide,
    window,
)
from edgec.lower.wasm.kernels.elementwise import dot
from edgec.lower.wasm.kernels.encoder_attention import HIDDEN, AttentionShape, masked
from edgec.lower.wasm.kernels.pairs import factors, in_turns, narrowed, quantize_pairs, straight_products
from edgec.passes.dims import Dim

BLOCK = 64  # keys whose products are one sum
_GROUP = 8  # keys, or features of values, side by side
_QUERIES = 4  # that are multiplied together
_TILES = 4  # of them that share a pass over keys and values
_WEIGHT_LEVELS = 8191
_VALUE_LEVELS = 4095  # 64 * 8191 * 4095 < 2^31
_WIDEST = 128  # features; more do not fit a kernel's stack


def is_possible(shape: AttentionShape) -> bool:
    return all(width % _GROUP == 0 and width <= _WIDEST for width in (shape.width, shape.value_width))


def code_bytes(shape: AttentionShape, batch: int, keys: int) -> tuple[int, int, int, int]:
    """Sizes of key codes, key scales, value codes and value scales for at most so many sequences and keys."""
    blocks = batch * shape.kv_heads * -(-keys // BLOCK)
    return 2 * BLOCK * shape.width * blocks, 4 * BLOCK * blocks, 2 * BLOCK * shape.value_width * blocks, 4 * blocks


def _levels(width: int) -> int:
    """Largest code of a query or key: `width` products of two fit 31 bits."""
    return min(32767, numbers.isqrt((2**31 - 1) // width))


class _Shape:
    """An `AttentionShape` inside of a kernel, which takes `shape.dimensions()` as its next parameters."""

    def __init__(self, k: KernelBuilder, shape: AttentionShape) -> None:
        self._variables = {name: k.scalar(name) for name in shape.dimensions()}
        self.batch, self.queries, self.keys = (self.tir(dim) for dim in (shape.batch, shape.queries, shape.keys))
        self.blocks = bind(tirx.truncdiv(self.keys + (BLOCK - 1), BLOCK))

    def tir(self, dim: Dim) -> Expr:
        return to_tir(dim, self._variables)

    def at(self, strides: Sequence[Dim], offset: Dim, indices: Sequence[Expr]) -> Expr:
        return bind(self.tir(offset) + dot(indices, [self.tir(stride) for stride in strides]))

    def groups(self, start: Expr) -> Expr:
        """Groups of 8 keys in the block that begins at `start`."""
        left = tirx.min(self.keys - start, BLOCK)
        return bind(tirx.truncdiv(left + (_GROUP - 1), _GROUP))


def attention_codes(shape: AttentionShape) -> PrimFunc:
    """Parameters: keys, values, key codes and scales, value codes and scales, `shape.dimensions()`."""
    with KernelBuilder() as k:
        keys, values = k.buffer("keys", "float32"), k.buffer("values", "float32")
        key_codes, key_scales = k.buffer("key_codes", "int32"), k.buffer("key_scales", "float32")
        value_codes, value_scales = k.buffer("value_codes", "int32"), k.buffer("value_scales", "float32")
        s = _Shape(k, shape)
        with math.computed_constants(s.batch), T.parallel(0, s.batch * shape.kv_heads * s.blocks) as unit:
            start = bind(tirx.truncmod(unit, s.blocks) * BLOCK)
            both = bind(tirx.truncdiv(unit, s.blocks))
            sequence = [tirx.truncdiv(both, shape.kv_heads), tirx.truncmod(both, shape.kv_heads), start]
            groups = s.groups(start)

            key_base, key_step = s.at(shape.key_strides, shape.offsets[1], sequence), s.tir(shape.key_strides[2])
            pairs = shape.width // 2
            with T.serial(0, groups * _GROUP) as key:
                group, place = bind(tirx.truncdiv(key, _GROUP)), bind(tirx.truncmod(key, _GROUP))
                target = bind(unit * (BLOCK * pairs) + group * (_GROUP * pairs) + place)
                exists = bind(start + key < s.keys)
                source = bind(key_base + tirx.Select(exists, key, 0) * key_step)

                def put(pair: Expr, four: Expr, target: Expr = target) -> None:
                    lanes = Integers(4)
                    lanes.set_vector(0, four)
                    for i in range(4):
                        store(key_codes, target + (pair + i) * _GROUP, lanes[i], 1)

                step = quantize_pairs(window(keys, source), shape.width, _levels(shape.width), put, exists)
                store(key_scales, unit * BLOCK + key, step, 1)

            base, step = s.at(shape.value_strides, shape.offsets[2], sequence), s.tir(shape.value_strides[2])
            peak = Registers(1, "float32x4")
            peak.fill(1, 0.0)
            with T.serial(0, tirx.min(s.keys - start, BLOCK)) as key, T.serial(0, shape.value_width // 4) as i:
                peak[0] = tirx.max(peak[0], tirx.abs(load(values, base + key * step + i * 4)))
            inverse, scale = factors(largest_lane(peak[0]), _VALUE_LEVELS)
            store(value_scales, unit, scale, 1)
            with T.serial(0, groups * (_GROUP // 2)) as pair:
                sources, inverses = [], []
                for key in (pair * 2, pair * 2 + 1):
                    exists = bind(start + key < s.keys)
                    sources.append(window(values, base + tirx.Select(exists, key, 0) * step))
                    inverses.append(bind(splat(tirx.Select(exists, inverse, T.float32(0.0)), "float32x4")))
                with T.serial(0, shape.value_width // _GROUP) as group:
                    target = bind(
                        (unit * (shape.value_width // _GROUP) + group) * (BLOCK // 2 * _GROUP) + pair * _GROUP
                    )
                    for i in range(0, _GROUP, 4):
                        low, high = (
                            bind(math.nearest_integer(load(source, group * _GROUP + i) * factor))
                            for source, factor in zip(sources, inverses, strict=True)
                        )
                        high = T.shift_left(high, splat(16, "int32x4"))
                        store(value_codes, target + i, T.bitwise_or(T.bitwise_and(low, splat(0xFFFF, "int32x4")), high))
    return k.func


def integer_attention(shape: AttentionShape) -> PrimFunc:
    """Parameters: queries, key codes and scales, value codes and scales, [mask], output, `shape.dimensions()`."""
    pairs, value_groups = shape.width // 2, shape.value_width // _GROUP
    together = _QUERIES * _TILES
    with KernelBuilder() as k:
        queries = k.buffer("queries", "float32")
        key_codes, key_scales = k.buffer("key_codes", "int32"), k.buffer("key_scales", "float32")
        value_codes, value_scales = k.buffer("value_codes", "int32"), k.buffer("value_scales", "float32")
        has_mask = shape.mask_strides is not None
        mask = k.buffer("mask", "uint8" if shape.mask_dtype == "bool" else "float32") if has_mask else None
        output = k.buffer("output", "float32")
        s = _Shape(k, shape)
        units = bind(tirx.truncdiv(s.queries + (together - 1), together))
        with math.computed_constants(s.batch), T.parallel(0, s.batch * shape.heads * units) as unit:
            first = bind(tirx.truncmod(unit, units) * together)
            both = bind(tirx.truncdiv(unit, units))
            batch, head = bind(tirx.truncdiv(both, shape.heads)), bind(tirx.truncmod(both, shape.heads))
            kv_head = bind(batch * shape.kv_heads + tirx.truncdiv(head, shape.heads // shape.kv_heads))
            sequence = [batch, head, T.int32(0)]
            query_base = s.at(shape.query_strides, shape.offsets[0], sequence)
            output_base = s.at(shape.output_strides, 0, sequence)
            mask_base = None
            if shape.mask_strides is not None:
                mask_base = s.at(shape.mask_strides[:3], shape.offsets[3], sequence)
            tiles = bind(tirx.min(tirx.truncdiv(s.queries - first + (_QUERIES - 1), _QUERIES), _TILES))

            def number_of(query: Expr) -> Expr:
                """Of the last tile the last query is repeated."""
                return bind(tirx.min(first + query, s.queries - 1))

            codes, scales = Integers(together * pairs), Floats(together)
            sums, peaks, totals = Floats(together * shape.value_width), Floats(together), Floats(together)
            with T.serial(0, tiles * _QUERIES) as query:
                source = query_base + number_of(query) * s.tir(shape.query_strides[2])

                def put(pair: Expr, four: Expr, query: Expr = query) -> None:
                    codes.set_vector(query * pairs + pair, four)

                scales[query] = (
                    quantize_pairs(window(queries, source), shape.width, _levels(shape.width), put) * shape.scale
                )
                peaks[query], totals[query] = T.float32(HIDDEN), T.float32(0.0)
                with T.serial(0, shape.value_width // 4) as i:
                    sums.set_vector(query * shape.value_width + i * 4, splat(0.0, "float32x4"))

            def scores_of(tile: Expr, start: Expr, groups: Expr, scores: Floats) -> None:
                """`scores[query * BLOCK + key]` of a tile and a block."""
                block = bind(kv_head * s.blocks * BLOCK + start)
                numbers_of = [number_of(tile * _QUERIES + i) for i in range(_QUERIES)]
                mask_rows = []
                if shape.mask_strides is not None:
                    step = s.tir(shape.mask_strides[2])
                    mask_rows = [bind(mask_base + number * step) for number in numbers_of]

                def finished(value: Expr, i: int, key: Expr, lanes: int) -> Expr:
                    if shape.softcap:
                        value = math.tanh(bind(value * wide(1 / shape.softcap, lanes))) * wide(shape.softcap, lanes)
                    if mask is not None and shape.mask_strides is not None:
                        place = mask_rows[i] + key * s.tir(shape.mask_strides[3])
                        value = masked(value, mask, place, lanes, shape.mask_dtype)
                    if shape.causal:
                        keys = T.Ramp(key, 1, lanes) if lanes > 1 else key
                        value = tirx.Select(keys > wide(numbers_of[i], lanes, "int32"), wide(HIDDEN, lanes), value)
                    return value

                # Masks whose keys are not neighbours are read one by one.
                together = shape.mask_strides is None or shape.mask_strides[3] == 1
                whole = bind(s.keys if together else T.int32(0))
                at = bind(tile * (_QUERIES * pairs))
                rows = [codes.window(at + i * pairs) for i in range(_QUERIES)]
                with T.serial(0, groups) as group:
                    columns = window(key_codes, block * pairs + group * (_GROUP * pairs), "int16")
                    products = straight_products(rows, columns, *in_turns(pairs))
                    found = {}
                    for half in range(2):
                        scale = bind(load(key_scales, block + group * _GROUP + 4 * half))
                        for i in range(_QUERIES):
                            own = splat(scales[tile * _QUERIES + i], "float32x4")
                            found[i, half] = bind(T.Cast("float32x4", products[2 * i + half]) * own * scale)
                    key = bind(start + group * _GROUP)
                    with T.If(key + _GROUP <= whole):
                        with T.Then():
                            for (i, half), value in found.items():
                                at = i * BLOCK + group * _GROUP + 4 * half
                                scores.set_vector(at, finished(value, i, key + 4 * half, 4))
                        with T.Else():
                            for (i, half), value in found.items():
                                scores.set_vector(i * BLOCK + group * _GROUP + 4 * half, value)
                            for i in range(_QUERIES):
                                with T.serial(0, _GROUP) as j:
                                    at = bind(i * BLOCK + group * _GROUP + j)
                                    with T.If(key + j < s.keys):
                                        with T.Then():
                                            scores[at] = finished(scores[at], i, key + j, 1)
                                        with T.Else():
                                            scores[at] = T.float32(HIDDEN)

            with T.serial(0, s.blocks) as number, T.serial(0, tiles) as tile:
                start = bind(number * BLOCK)
                groups = s.groups(start)
                scores = Floats(_QUERIES * BLOCK)
                scores_of(tile, start, groups, scores)
                at = bind(tile * _QUERIES)
                own = _largest_of_each(scores, groups)
                highest = bind(tirx.max(peaks.vector(at), own.vector(0)))
                kept, added = Floats(4), Floats(4)
                kept.set_vector(0, math.exp(bind(peaks.vector(at) - highest)))
                added.set_vector(0, math.exp(bind(own.vector(0) - highest)))
                peaks.set_vector(at, highest)
                weights = Integers(_QUERIES * BLOCK // 2)
                counts = _weights(scores, own, groups, weights)
                totals.set_vector(at, totals.vector(at) * kept.vector(0) + counts.vector(0) * added.vector(0))
                block = bind(kv_head * s.blocks + number)
                scale = bind(value_scales[block])
                old = [bind(splat(kept[i], "float32x4")) for i in range(_QUERIES)]
                new = [bind(splat(added[i] * scale, "float32x4")) for i in range(_QUERIES)]
                rows = [weights.window(T.int32(i * (BLOCK // 2))) for i in range(_QUERIES)]
                with T.serial(0, value_groups) as group:
                    columns = window(value_codes, (block * value_groups + group) * (BLOCK // 2 * _GROUP), "int16")
                    products = straight_products(rows, columns, _GROUP // 2, groups)
                    for i in range(_QUERIES):
                        for half in range(2):
                            place = (at + i) * shape.value_width + group * _GROUP + 4 * half
                            exact = T.Cast("float32x4", products[2 * i + half])
                            sums.set_vector(place, sums.vector(place) * old[i] + exact * new[i])

            with T.serial(0, tiles * _QUERIES) as query:
                # A query that may see nothing gets zeros.
                seen = peaks[query] > T.float32(HIDDEN)
                inverse = bind(tirx.Select(seen, T.float32(1.0) / totals[query], T.float32(0.0)))
                target = bind(output_base + number_of(query) * s.tir(shape.output_strides[2]))
                with T.serial(0, shape.value_width // 4) as i:
                    value = sums.vector(query * shape.value_width + i * 4)
                    store(output, target + i * 4, value * splat(inverse, "float32x4"))
    return k.func


def _largest_of_each(scores: Floats, groups: Expr) -> Floats:
    """The largest score of each query of a tile."""
    found = Floats(_QUERIES)
    largest = Registers(_QUERIES, "float32x4")
    largest.fill(_QUERIES, HIDDEN)
    with T.serial(0, groups) as group:
        for i in range(_QUERIES):
            for half in range(2):
                largest[i] = tirx.max(largest[i], scores.vector(i * BLOCK + group * _GROUP + 4 * half))
    for i in range(_QUERIES):
        found[i] = largest_lane(largest[i])
    return found


_EXP = (0.9999992847442627, 0.9999634027481079, 0.5000435709953308, 0.16790907084941864, 0.0414586067199707)  # 3e-6
_LOG2_E = numbers.log2(numbers.e)


def _weights(scores: Floats, peaks: Floats, groups: Expr, weights: Integers) -> Floats:
    """Codes of e^(score - peak), `weights[query * BLOCK / 2 + pair]`, and their sum for each query."""
    counts = Floats(4)

    def code(score: Expr, peak: Expr) -> Expr:
        power = tirx.max(score - peak, math.constant(-86.99, score))
        return math.let(
            power, lambda p: math.let(p * math.constant(_LOG2_E, p) + shift(p), lambda bits: with_whole(p, bits))
        )

    def shift(like: Expr) -> Expr:
        return math.constant(float(3 << 22), like)  # floats of this size have no digits behind the point

    def with_whole(power: Expr, shifted: Expr) -> Expr:
        bits = T.shift_left(T.reinterpret("int32x4", shifted), splat(23, "int32x4"))
        scale = T.reinterpret("float32x4", bits + math.constant(127 << 23, power, "int32"))
        rest = power - (shifted - shift(power)) * math.constant(1 / _LOG2_E, power)
        return math.let(rest, lambda rest: math.nearest_integer(fraction(rest) * scale))

    def fraction(rest: Expr) -> Expr:
        value = math.constant(_EXP[-1] * _WEIGHT_LEVELS, rest)
        for coefficient in reversed(_EXP[:-1]):
            value = value * rest + math.constant(coefficient * _WEIGHT_LEVELS, rest)
        return value

    with T.serial(0, _QUERIES) as i:
        total = Registers(1, "int32x4")
        total.fill(1, 0)
        peak = bind(splat(peaks[i], "float32x4"))
        with T.serial(0, groups) as group:
            halves = [bind(code(scores.vector(i * BLOCK + group * _GROUP + 4 * h), peak)) for h in range(2)]
            total[0] = total[0] + (halves[0] + halves[1])
            weights.set_vector(i * (BLOCK // 2) + group * 4, narrowed(*halves))
        lanes = Integers(4)
        lanes.set_vector(0, total[0])
        counts[i] = T.Cast("float32", tree_sum([lanes[j] for j in range(4)]))
    return counts
