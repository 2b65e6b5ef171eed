"""Rows of an embedding table, quantized (tile order) or float32."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.ir.compressed import GROUP, ROWS
from edgec.lower.wasm.kernels.builder import Expr, KernelBuilder, PrimFunc, bind, store
from edgec.lower.wasm.kernels.quantize import SCALE_FACTOR


def embedding(*, columns: int, bits: int, scale: float = 1.0) -> PrimFunc:
    """`output[i] = table[ids[i]] * scale`.

    Parameters: ids (int32), then high, [low], scales, zeros (4 or 8 bits) or table (32 bits),
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
        codes = [k.buffer("high", "uint8")]
        if bits == 8:
            codes.append(k.buffer("low", "uint8"))
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
                half_group = bind(tirx.truncdiv(inside, 16))
                t = tirx.truncdiv(tirx.truncmod(inside, 16), 4)
                j = tirx.truncmod(inside, 4)
                byte = bind(at * 128 + (t * 2 + tirx.truncdiv(lane, 4)) * 16 + tirx.truncmod(lane, 4) * 4 + j)
                code = _nibble(codes[0][byte], half_group) * 16
                if bits == 8:
                    code = code + _nibble(codes[1][byte], half_group)
                exact = T.Cast("float32", code - T.Cast("int32", zeros[at * ROWS + lane]))
                bits16 = T.shift_left(T.Cast("int32", scales[at * ROWS + lane]), T.int32(13))
                # The scale's bits are 2^-112 too small, the code 16 times too large.
                value = exact * (T.reinterpret("float32", bits16) * T.float32(SCALE_FACTOR / 16))
                store(output, row * columns + column, value if scale == 1.0 else value * T.float32(scale), 1)
    return k.func


def _nibble(byte: Expr, high: Expr) -> Expr:
    return T.bitwise_and(T.shift_right(T.Cast("int32", byte), high * 4), T.int32(15))
