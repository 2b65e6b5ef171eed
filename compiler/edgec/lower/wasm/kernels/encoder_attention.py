"""Attention of whole sequences in float32: `softmax(q k^T * scale + mask) v`, four queries at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.abi import THREAD
from edgec.lower.wasm.graph_dims import symbols, to_tir
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
    store,
    tree_sum,
    wide,
)
from edgec.lower.wasm.kernels.dot import even_odd_sum
from edgec.lower.wasm.kernels.elementwise import dot
from edgec.lower.wasm.kernels.softmax import exponentials
from edgec.passes.dims import Dim

_TILE = 4  # queries, and keys
_TOGETHER = 2  # queries whose products with four keys fit the registers
HIDDEN = -1e30  # the score of a masked key


@dataclass(frozen=True)
class AttentionShape:
    """Strides of `[batch, heads, tokens, features]`; features are adjacent."""

    batch: Dim
    heads: int
    kv_heads: int
    queries: Dim
    keys: Dim
    width: int  # of queries and keys
    value_width: int
    scale: float
    causal: bool
    softcap: float
    query_strides: tuple[Dim, Dim, Dim]
    key_strides: tuple[Dim, Dim, Dim]
    value_strides: tuple[Dim, Dim, Dim]
    output_strides: tuple[Dim, Dim, Dim]
    offsets: tuple[Dim, Dim, Dim, Dim]  # queries, keys, values, mask
    mask_strides: tuple[Dim, ...] | None = None  # of [batch, heads, queries, keys]
    mask_dtype: str = "float32"

    def dimensions(self) -> list[str]:
        strides = (*self.query_strides, *self.key_strides, *self.value_strides, *self.output_strides)
        masks = self.mask_strides or ()
        return symbols([self.batch, self.queries, self.keys, *strides, *masks, *self.offsets])


def scratch_floats(keys: int) -> int:
    """Floats of scratch per thread for at most `keys` keys: the scores of a tile of queries."""
    return _TILE * (-(-keys // _TILE) * _TILE)


def encoder_attention(shape: AttentionShape, scratch_per_thread: int) -> PrimFunc:
    """Parameters: queries, keys, values, [mask], scratch, output, `shape.dimensions()`."""
    with KernelBuilder() as k:
        queries = k.buffer("queries", "float32")
        keys = k.buffer("keys", "float32")
        values = k.buffer("values", "float32")
        has_mask = shape.mask_strides is not None
        mask = k.buffer("mask", "uint8" if shape.mask_dtype == "bool" else "float32") if has_mask else None
        scratch = k.buffer("scratch", "float32")
        output = k.buffer("output", "float32")
        variables = {name: k.scalar(name) for name in shape.dimensions()}

        def tir(dim: Dim) -> Expr:
            return to_tir(dim, variables)

        def at(strides: Sequence[Dim], offset: Dim, indices: Sequence[Expr]) -> Expr:
            return tir(offset) + dot(indices, [tir(stride) for stride in strides])

        count, length = tir(shape.queries), tir(shape.keys)
        tiles = bind(tirx.truncdiv(count + (_TILE - 1), _TILE))
        with T.parallel(0, tir(shape.batch) * shape.heads * tiles) as unit:
            first = bind(tirx.truncmod(unit, tiles) * _TILE)
            both = bind(tirx.truncdiv(unit, tiles))
            batch, head = bind(tirx.truncdiv(both, shape.heads)), bind(tirx.truncmod(both, shape.heads))
            kv_head = bind(tirx.truncdiv(head, shape.heads // shape.kv_heads))
            zero = T.int32(0)
            query_base = bind(at(shape.query_strides, shape.offsets[0], [batch, head, zero]))
            key_base = bind(at(shape.key_strides, shape.offsets[1], [batch, kv_head, zero]))
            value_base = bind(at(shape.value_strides, shape.offsets[2], [batch, kv_head, zero]))
            output_base = bind(at(shape.output_strides, 0, [batch, head, zero]))
            mask_base = None
            if shape.mask_strides is not None:
                mask_base = bind(at(shape.mask_strides[:3], shape.offsets[3], [batch, head, zero]))
            row = bind((length + (_TILE - 1)) // _TILE * _TILE)  # scores of one query
            scores = bind(THREAD * scratch_per_thread)

            def tile(start: Expr, size: int) -> None:
                q = [bind(query_base + (start + i) * tir(shape.query_strides[2])) for i in range(size)]

                def score(j: Expr, i: int, value: Expr, lanes: int) -> None:
                    """Of query i and the keys from j on; `value` has `lanes` of them."""
                    value = bind(value * wide(shape.scale, lanes))
                    if shape.softcap:
                        value = math.tanh(bind(value * wide(1 / shape.softcap, lanes))) * wide(shape.softcap, lanes)
                    if mask is not None and shape.mask_strides is not None:
                        place = mask_base + (start + i) * tir(shape.mask_strides[2]) + j * tir(shape.mask_strides[3])
                        value = masked(value, mask, place, lanes, shape.mask_dtype)
                    if shape.causal:
                        key = j if lanes == 1 else T.Ramp(j, 1, lanes)
                        hidden = key > wide(start + i, lanes, "int32")
                        value = tirx.Select(hidden, wide(HIDDEN, lanes), value)
                    store(scratch, scores + i * row + j, value, lanes)

                # Masks whose keys are not neighbours are read one by one.
                together = shape.mask_strides is None or shape.mask_strides[3] == 1
                whole = bind(tirx.truncdiv(length, _TILE))
                with T.serial(0, whole) as block:
                    place = bind(key_base + block * _TILE * tir(shape.key_strides[2]))
                    starts = [place + j * tir(shape.key_strides[2]) for j in range(_TILE)]
                    for first_query in range(0, size, _TOGETHER):
                        some = q[first_query : first_query + _TOGETHER]
                        for i, four in enumerate(_four_dots(queries, keys, some, starts, shape.width), first_query):
                            if together:
                                score(block * _TILE, i, four, _TILE)
                                continue
                            lanes = Floats(_TILE)
                            lanes.set_vector(0, four)
                            for j in range(_TILE):
                                score(block * _TILE + j, i, lanes[j], 1)
                with T.serial(0, length - whole * _TILE) as rest:
                    j = bind(whole * _TILE + rest)
                    place = bind(key_base + j * tir(shape.key_strides[2]))
                    for i, query in enumerate(q):
                        score(j, i, _dot(queries, keys, query, place, shape.width), 1)
                inverse = []
                for i in range(size):
                    peak, total = exponentials(scratch, bind(scores + i * row), length)
                    # A query that may see nothing gets zeros.
                    inverse.append(bind(tirx.Select(peak > T.float32(HIDDEN), T.float32(1.0) / total, T.float32(0.0))))

                def mix(feature: Expr, vectors: int, lanes: int) -> None:
                    """Features `feature` ... of all queries of the tile."""
                    sums = Registers(vectors * size, "float32x4" if lanes == 4 else "float32")
                    sums.fill(vectors * size, 0.0)
                    with T.serial(0, length) as j:
                        place = bind(value_base + j * tir(shape.value_strides[2]) + feature)
                        some = [
                            bind(load(values, place + 4 * v) if lanes == 4 else values[place]) for v in range(vectors)
                        ]
                        for i in range(size):
                            weight = bind(wide(scratch[scores + i * row + j], lanes))
                            for v in range(vectors):
                                sums[i * vectors + v] = sums[i * vectors + v] + weight * some[v]
                    for i in range(size):
                        place = output_base + (start + i) * tir(shape.output_strides[2]) + feature
                        for v in range(vectors):
                            store(output, place + 4 * v, sums[i * vectors + v] * wide(inverse[i], lanes), lanes)

                pairs, rest = divmod(shape.value_width, 8)
                with T.serial(0, pairs) as pair:
                    mix(pair * 8, 2, 4)
                if rest >= 4:
                    mix(T.int32(pairs * 8), 1, 4)
                for tail in range(shape.value_width // 4 * 4, shape.value_width):
                    mix(T.int32(tail), 1, 1)

            with T.If(first + _TILE <= count):
                with T.Then():
                    tile(first, _TILE)
                with T.Else(), T.serial(0, count - first) as i:
                    tile(first + i, 1)
    return k.func


def masked(value: Expr, mask: Buffer, place: Expr, lanes: int, dtype: str) -> Expr:
    found = load(mask, place, lanes) if lanes > 1 else mask[place]
    hidden = wide(HIDDEN, lanes)
    if dtype != "bool":
        return tirx.max(value + found, hidden)
    shown = T.Cast(f"int32x{lanes}", found) != wide(0, lanes, "int32") if lanes > 1 else found != T.uint8(0)
    return tirx.Select(shown, value, hidden)


def _dot(queries: Buffer, keys: Buffer, query: Expr, key: Expr, width: int) -> Expr:
    """Over `width` features, with four partial sums."""
    sums = _partial_sums(queries, keys, [query], [key], width)
    lanes = Floats(4)
    lanes.set_vector(0, sums[0])
    total = tree_sum([lanes[lane] for lane in range(4)])
    for tail in range(width // 4 * 4, width):
        total = total + queries[query + tail] * keys[key + tail]
    return bind(total)


def _four_dots(queries: Buffer, keys: Buffer, q: Sequence[Expr], k: Sequence[Expr], width: int) -> list[Expr]:
    """`float32x4` for each query, a lane for each of four keys; the same sums as `_dot`."""
    sums = _partial_sums(queries, keys, q, k, width)
    result = []
    for i, query in enumerate(q):
        first, second, third, fourth = (sums[j * len(q) + i] for j in range(4))
        total = bind(even_odd_sum(even_odd_sum(first, second), even_odd_sum(third, fourth)))
        if width % 4:
            lanes = Floats(4)
            lanes.set_vector(0, total)
            for tail in range(width // 4 * 4, width):
                for j, key in enumerate(k):
                    lanes[j] = lanes[j] + queries[query + tail] * keys[key + tail]
            total = bind(lanes.vector(0))
        result.append(total)
    return result


def _partial_sums(queries: Buffer, keys: Buffer, q: Sequence[Expr], k: Sequence[Expr], width: int) -> Registers:
    """Register `j * len(q) + i`: the products of query i and key j, features modulo 4 in lanes."""
    sums = Registers(len(q) * len(k), "float32x4")
    sums.fill(len(q) * len(k), 0.0)
    with T.serial(0, width // 4) as d:
        right = [bind(load(keys, place + d * 4)) for place in k]
        for i, place in enumerate(q):
            left = bind(load(queries, place + d * 4))
            for j in range(len(k)):
                at = j * len(q) + i
                sums[at] = sums[at] + left * right[j]
    return sums
