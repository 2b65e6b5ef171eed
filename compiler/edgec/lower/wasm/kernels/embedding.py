"""Rows of an embedding table, quantized (tile order) or float32."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.ir.compressed import GROUP, ROWS
from edgec.lower.wasm.kernels.builder import KernelBuilder, PrimFunc, bind, store
from edgec.lower.wasm.kernels.quantize import SCALE_FACTOR


def embedding(*, columns: int, bits: int, scale: float = 1.0) -> PrimFunc:
    """`output[i] = table[ids[i]] * scale`.

    Parameters: ids (int32), then codes, scales, zeros (4 or 7 bits) or table (32 bits),
    output with `columns` floats per row, m.
    """
    return _float_rows(columns, scale) if bits == 32 else _quantized_rows(columns, bits, scale)


def _float_rows(columns: int, scale: float) -> PrimFunc:
    """The table is packed as `linear_float.pack_float` does, so that a tied lm_head shares it."""
    with KernelBuilder() as k:
        ids = k.buffer("ids", "int32")
        table = k.buffer("table", "float32")
        output = k.buffer("output", "float32")
        m = k.scalar("m")
        with T.parallel(0, m) as row:
            token = bind(ids[row])
            source = bind(tirx.truncdiv(token, ROWS) * (columns * ROWS) + tirx.truncmod(token, ROWS))
            with T.serial(0, columns) as column:
                value = table[source + column * ROWS]
                store(output, row * columns + column, value if scale == 1.0 else value * T.float32(scale), 1)
    return k.func


def _quantized_rows(columns: int, bits: int, scale: float) -> PrimFunc:
    with KernelBuilder() as k:
        ids = k.buffer("ids", "int32")
        codes = k.buffer("codes", "uint8")
        scales = k.buffer("scales", "uint16")
        zeros = k.buffer("zeros", "uint8")
        output = k.buffer("output", "float32")
        m = k.scalar("m")
        groups = -(-columns // GROUP)
        with T.parallel(0, m) as row:
            token = bind(ids[row])
            block = bind(tirx.truncdiv(token, ROWS))
            lane = bind(tirx.truncmod(token, ROWS))
            with T.serial(0, columns) as column:
                group = tirx.truncdiv(column, GROUP)
                at = bind(block * groups + group)
                inside = bind(tirx.truncmod(column, GROUP))
                part = bind(tirx.truncdiv(inside, 16))
                t = tirx.truncdiv(tirx.truncmod(inside, 16), 4)
                half = tirx.truncdiv(lane, 4)
                inner = tirx.truncmod(lane, 4) * 4 + tirx.truncmod(inside, 4)
                if bits == 4:
                    byte = codes[at * 128 + (t * 2 + half) * 16 + inner]
                    code = T.bitwise_and(T.shift_right(T.Cast("int32", byte), part * 4), T.int32(15)) * 16
                else:
                    code = T.Cast("int32", codes[at * 256 + (t * 4 + part * 2 + half) * 16 + inner]) * 2
                exact = T.Cast("float32", code - T.Cast("int32", zeros[at * ROWS + lane]))
                bits16 = T.shift_left(T.Cast("int32", scales[at * ROWS + lane]), T.int32(13))
                # The scale's bits are 2^-112 too small, the code 16 times too large.
                value = exact * (T.reinterpret("float32", bits16) * T.float32(SCALE_FACTOR / 16))
                store(output, row * columns + column, value if scale == 1.0 else value * T.float32(scale), 1)
    return k.func
