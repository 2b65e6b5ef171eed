"""Linear layers: activations by a weight matrix, quantized or float32, with bias, activation and residual."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.ir.compressed import GROUP, PackedTensor
from edgec.ir.work import Arithmetic
from edgec.lower.wasm.graph_context import GraphContext
from edgec.lower.wasm.graph_dims import to_amount, to_scalar, upper_bound
from edgec.lower.wasm.graph_values import TensorView
from edgec.lower.wasm.kernels.epilogue import Epilogue, padded
from edgec.lower.wasm.kernels.linear import linear
from edgec.lower.wasm.kernels.linear_float import linear_float, pack_float
from edgec.lower.wasm.kernels.linear_pairs import linear_pairs, pack_pairs
from edgec.lower.wasm.kernels.quantize import groups_of, quantize, quantized_bytes, row_bytes
from edgec.lower.wasm.program import Storage
from edgec.lower.wasm.work import Work
from edgec.passes import dims as d
from edgec.passes.dims import Dim

ROWS_OF_8 = 8


class Matrix:
    """A weight matrix `[rows, columns]` in memory, in the order in which the kernels read it."""

    def __init__(
        self,
        context: GraphContext,
        name: str,
        packed: PackedTensor | None,
        read: Callable[[], npt.NDArray[Any]],
        shape: tuple[int, int],
        *,
        pairs: bool = False,
    ) -> None:
        """`pairs`: floats are multiplied as codes of 16 bits."""
        self.rows, self.columns = shape
        self.bits = packed.bits if packed is not None else 32
        self.span = packed.span if packed is not None else 1  # groups that share a scale
        self.levels: int | None = None  # largest code of a feature, where 16 bits meet 16 bits
        if packed is None and pairs:
            codes, scales, self.levels = pack_pairs(np.asarray(read(), np.float32))
            self.storages = [
                context.weight(f"{name}#pairs", lambda: codes),
                context.weight(f"{name}#scales", lambda: scales),
            ]
            return
        if packed is None:
            self.storages = [context.weight(f"{name}#float", lambda: pack_float(np.asarray(read(), np.float32)))]
            return
        self.storages = list(context.constants.packed(packed))


def rows_and_stride(view: TensorView) -> tuple[Dim, int] | None:
    """Number of rows and the distance between them, when the last axis is adjacent and the others are one."""
    *outer, columns = view.shape
    if columns != 1 and view.strides[-1] != 1:
        return None
    kept = [(dim, stride) for dim, stride in zip(outer, view.strides, strict=False) if dim != 1]
    if not kept:
        return d.product(outer), int(columns) if isinstance(columns, int) else 0
    stride = kept[-1][1]
    step: Dim = stride
    for dim, own in reversed(kept):
        if not d.same(own, step):
            return None
        step = d.multiply(own, dim)
    return (d.product(outer), stride) if isinstance(stride, int) else None


def as_rows(context: GraphContext, view: TensorView) -> tuple[TensorView, Dim, int]:
    """The view, copied if its rows are not regular; number of rows and their stride."""
    if isinstance(view.offset, int):
        found = rows_and_stride(view)
        if found is not None:
            return view, *found
    copy = context.copied(view)
    found = rows_and_stride(copy)
    assert found is not None
    return copy, *found


def quantized_rows(context: GraphContext, view: TensorView, columns: int, span: int) -> list[TensorView]:
    """Codes, scales and sums of the rows of `view`; made once however many layers read them."""

    def make() -> list[TensorView]:
        rows_view, rows, stride = as_rows(context, view)
        buffers = quantized_buffers(context, columns, rows, span)
        moved = 4 * columns + row_bytes(columns, outliers=False, span=span)
        context.call(
            ("quantize", columns, stride, span),
            lambda isa: quantize(isa, columns=columns, stride=stride, outliers=False, span=span),
            [rows_view, *buffers],
            [to_scalar(rows)],
            work=Work(activations=to_amount(rows, moved), shape=f"{columns}"),
        )
        return buffers

    result: list[TensorView] = context.once(("quantized", view, span), make)
    return result


def quantized_buffers(context: GraphContext, columns: int, rows: Dim, span: int) -> list[TensorView]:
    """Codes, scales and sums for `rows` rows."""
    sizes = quantized_bytes(columns, upper_bound(rows, context.bounds), outliers=False, span=span)
    return [context.scratch(f"quantized.{part}", "uint8", size) for part, size in sizes.items()]


def bias_vector(context: GraphContext, name: str, read: Callable[[], npt.NDArray[Any]], rows: int) -> Storage:
    """A bias padded with zeros to whole blocks of 8 rows."""

    def filled() -> npt.NDArray[np.float32]:
        data = np.asarray(read(), np.float32).reshape(-1)
        return np.concatenate([data, np.zeros(-rows % ROWS_OF_8, np.float32)])

    return context.weight(f"{name}#bias", filled)


def call_linear(
    context: GraphContext,
    matrix: Matrix,
    activations: Sequence[TensorView],
    stride: int,
    rows: Dim,
    epilogue: Epilogue,
    tail: Sequence[TensorView | Storage],
) -> None:
    """The kernel call; `activations` are quantized buffers, or one float view of `stride` per row.

    `tail` is bias, residual and output, as far as the epilogue has them; outputs are dense rows.
    """
    buffers = [*activations, *matrix.storages, *tail]
    read = 4 * stride if matrix.bits == 32 else row_bytes(matrix.columns, outliers=False, span=matrix.span)
    written = 4 * matrix.rows * (2 if epilogue.residual else 1)
    floats: Arithmetic = "float32" if matrix.levels is None else "int16"
    work = Work(
        macs=to_amount(rows, matrix.rows, matrix.columns),
        arithmetic=floats if matrix.bits == 32 else "codes",
        bits=matrix.bits,
        activations=to_amount(rows, read + written),
        padded=to_amount(rows, padded(matrix.rows), groups_of(matrix.columns) * GROUP) if matrix.bits != 32 else None,
        group_size=GROUP * matrix.span,
        results=to_amount(rows, matrix.rows),
        functions=to_amount(rows, epilogue.exponentials(matrix.rows)),
        shape=f"{matrix.rows}x{matrix.columns}",
    )
    if matrix.levels is not None:
        context.call(
            ("linear_pairs", epilogue),
            lambda isa: linear_pairs(epilogue),
            buffers,
            [to_scalar(rows), matrix.rows, matrix.columns, stride, matrix.levels],
            work=work,
        )
    elif matrix.bits == 32:
        context.call(
            ("linear_float", epilogue),
            lambda isa: linear_float(epilogue=epilogue),
            buffers,
            [to_scalar(rows), matrix.rows, matrix.columns, stride],
            work=work,
        )
    else:
        bits = matrix.bits
        span = matrix.span if matrix.span < groups_of(matrix.columns) else None
        context.call(
            ("linear", bits, span, epilogue),
            lambda isa: linear(isa, bits=bits, epilogue=epilogue, outliers=False, span=span),
            buffers,
            [to_scalar(rows), matrix.rows, groups_of(matrix.columns)],
            work=work,
        )


def apply_linear(
    context: GraphContext,
    matrix: Matrix,
    source: TensorView,
    epilogue: Epilogue,
    bias: Storage | None,
    residual: TensorView | None,
    target: TensorView,
) -> None:
    """`target = epilogue(source @ matrix^T)` over all rows of `source`."""
    if matrix.bits == 32:
        view, rows, stride = as_rows(context, source)
        activations: Sequence[TensorView] = [view]
    else:
        activations = quantized_rows(context, source, matrix.columns, matrix.span)
        rows, stride = d.product(source.shape[:-1]), matrix.columns
    tail = [part for part in (bias, residual, target) if part is not None]
    call_linear(context, matrix, activations, stride, rows, epilogue, tail)
