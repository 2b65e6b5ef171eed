"""Rows of a table of embeddings or learned positions, quantized (tile order) or float32."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.ir.compressed import GROUP, ROWS
from edgec.lower.wasm.kernels.builder import Expr, KernelBuilder, PrimFunc, bind, store
from edgec.lower.wasm.kernels.codes import place_of_group
from edgec.lower.wasm.kernels.quantize import SCALE_FACTOR


def embedding(
    *,
    rows: int,
    columns: int,
    bits: int,
    scale: float = 1.0,
    stride: int | None = None,
    learned: bool = False,
    span: int = 1,
) -> PrimFunc:
    """`output[i] = table[ids[i]] * scale`; for `learned` positions `output[i] += table[position + i]`.

    Parameters: ids (int32, unless `learned`), then codes, scales, zeros (4, 7 or 8 bits; `span` groups share a
    scale) or table (32 bits), output with `stride` floats per row (by default `columns`), position if `learned`, m.
    """
    stride = columns if stride is None else stride
    with KernelBuilder() as k:
        ids = None if learned else k.buffer("ids", "int32")
        read = _float_table(k, columns) if bits == 32 else _quantized_table(k, rows, columns, bits, span)
        output = k.buffer("output", "float32")
        position = k.scalar("position") if learned else None
        m = k.scalar("m")
        with T.parallel(0, m) as row:
            token = bind(position + row) if ids is None else bind(ids[row])
            at = read(token)
            with T.serial(0, columns) as column:
                value = at(column)
                if scale != 1.0:
                    value = value * T.float32(scale)
                if learned:
                    value = value + output[row * stride + column]
                store(output, row * stride + column, value, 1)
    return k.func


Row = Callable[[Expr], Expr]  # a column's value


def _float_table(k: KernelBuilder, columns: int) -> Callable[[Expr], Row]:
    """The table is packed as `linear_float.pack_float` does, so that a tied lm_head shares it."""
    table = k.buffer("table", "float32")

    def read(token: Expr) -> Row:
        source = bind(tirx.truncdiv(token, ROWS) * (columns * ROWS) + tirx.truncmod(token, ROWS))
        return lambda column: table[source + column * ROWS]

    return read


def _quantized_table(k: KernelBuilder, rows: int, columns: int, bits: int, span: int) -> Callable[[Expr], Row]:
    codes = k.buffer("codes", "uint8")
    scales = k.buffer("scales", "uint16")
    zeros = k.buffer("zeros", "uint8")
    groups = -(-columns // GROUP)
    spans = -(-groups // span)

    def read(token: Expr) -> Row:
        block = bind(tirx.truncdiv(token, ROWS))
        lane = bind(tirx.truncmod(token, ROWS))
        place = place_of_group(-(-rows // ROWS), groups, block)
        span_place = place if span == 1 else place_of_group(-(-rows // ROWS), spans, block)

        def value(column: Expr) -> Expr:
            group = tirx.truncdiv(column, GROUP)
            at = bind(place(group))
            parameters = (at if span == 1 else bind(span_place(tirx.truncdiv(group, span)))) * ROWS + lane
            inside = bind(tirx.truncmod(column, GROUP))
            part = bind(tirx.truncdiv(inside, 16))
            t = tirx.truncdiv(tirx.truncmod(inside, 16), 4)
            half = tirx.truncdiv(lane, 4)
            inner = tirx.truncmod(lane, 4) * 4 + tirx.truncmod(inside, 4)
            if bits == 4:
                byte = codes[at * 128 + (t * 2 + half) * 16 + inner]
                code = T.bitwise_and(T.shift_right(T.Cast("int32", byte), part * 4), T.int32(15)) * 16
            else:
                code = T.Cast("int32", codes[at * 256 + (t * 4 + part * 2 + half) * 16 + inner])
                code = code * (2 if bits == 7 else 1)
            exact = T.Cast("float32", code - T.Cast("int32", zeros[parameters]))
            bits16 = T.shift_left(T.Cast("int32", scales[parameters]), T.int32(13))
            # The scale's bits are 2^-112 too small, the code 16 times too large.
            return exact * (T.reinterpret("float32", bits16) * T.float32(SCALE_FACTOR / 16))

        return value

    return read
