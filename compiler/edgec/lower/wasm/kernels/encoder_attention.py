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
    splat,
    store,
    tree_sum,
)
from edgec.lower.wasm.kernels.elementwise import dot
from edgec.lower.wasm.kernels.softmax import exponentials
from edgec.passes.dims import Dim

_TILE = 4  # queries, and keys
_HIDDEN = -1e30  # the score of a masked key


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

                def score(j: Expr, i: int, value: Expr) -> None:
                    value = bind(value * T.float32(shape.scale))
                    if shape.softcap:
                        value = math.tanh(bind(value * T.float32(1 / shape.softcap))) * T.float32(shape.softcap)
                    if mask is not None and shape.mask_strides is not None:
                        place = mask_base + (start + i) * tir(shape.mask_strides[2]) + j * tir(shape.mask_strides[3])
                        value = _masked(value, mask[place], shape.mask_dtype)
                    if shape.causal:
                        value = tirx.Select(j > start + i, T.float32(_HIDDEN), value)
                    store(scratch, scores + i * row + j, value, 1)

                whole = bind(tirx.truncdiv(length, _TILE))
                with T.serial(0, whole) as block:
                    place = bind(key_base + block * _TILE * tir(shape.key_strides[2]))
                    starts = [place + j * tir(shape.key_strides[2]) for j in range(_TILE)]
                    for j, column in enumerate(_dots(queries, keys, q, starts, shape.width)):
                        for i in range(size):
                            score(block * _TILE + j, i, column[i])
                with T.serial(0, length - whole * _TILE) as rest:
                    j = bind(whole * _TILE + rest)
                    place = bind(key_base + j * tir(shape.key_strides[2]))
                    column = _dots(queries, keys, q, [place], shape.width)[0]
                    for i in range(size):
                        score(j, i, column[i])
                inverse = []
                for i in range(size):
                    peak, total = exponentials(scratch, bind(scores + i * row), length)
                    # A query that may see nothing gets zeros.
                    inverse.append(bind(tirx.Select(peak > T.float32(_HIDDEN), T.float32(1.0) / total, T.float32(0.0))))

                def mix(feature: Expr, lanes: int) -> None:
                    sums = Registers(size, "float32x4" if lanes == 4 else "float32")
                    sums.fill(size, 0.0)
                    with T.serial(0, length) as j:
                        place = value_base + j * tir(shape.value_strides[2]) + feature
                        value = bind(load(values, place) if lanes == 4 else values[place])
                        for i in range(size):
                            weight = scratch[scores + i * row + j]
                            sums[i] = sums[i] + (splat(weight, "float32x4") if lanes == 4 else weight) * value
                    for i in range(size):
                        place = output_base + (start + i) * tir(shape.output_strides[2]) + feature
                        factor = splat(inverse[i], "float32x4") if lanes == 4 else inverse[i]
                        store(output, place, sums[i] * factor, lanes)

                with T.serial(0, shape.value_width // 4) as feature:
                    mix(feature * 4, 4)
                for tail in range(shape.value_width // 4 * 4, shape.value_width):
                    mix(T.int32(tail), 1)

            with T.If(first + _TILE <= count):
                with T.Then():
                    tile(first, _TILE)
                with T.Else(), T.serial(0, count - first) as i:
                    tile(first + i, 1)
    return k.func


def _masked(value: Expr, mask: Expr, dtype: str) -> Expr:
    if dtype == "bool":
        return tirx.Select(mask != T.uint8(0), value, T.float32(_HIDDEN))
    return tirx.max(value + mask, T.float32(_HIDDEN))


def _dots(queries: Buffer, keys: Buffer, q: Sequence[Expr], k: Sequence[Expr], width: int) -> list[list[Expr]]:
    """`result[j][i]` = query i . key j over `width` features, with four partial sums each."""
    sums = Registers(len(q) * len(k), "float32x4")
    sums.fill(len(q) * len(k), 0.0)
    with T.serial(0, width // 4) as d:
        right = [bind(load(keys, place + d * 4)) for place in k]
        for i, place in enumerate(q):
            left = bind(load(queries, place + d * 4))
            for j in range(len(k)):
                at = j * len(q) + i
                sums[at] = sums[at] + left * right[j]
    result: list[list[Expr]] = []
    lanes = Floats(4)
    for j in range(len(k)):
        column = []
        for i in range(len(q)):
            lanes.set_vector(0, sums[j * len(q) + i])
            total = tree_sum([lanes[lane] for lane in range(4)])
            for tail in range(width // 4 * 4, width):
                total = total + queries[q[i] + tail] * keys[k[j] + tail]
            column.append(bind(total))
        result.append(column)
    return result
