"""What packed tensors mean, as float32: the reference that the kernels and onnxruntime are held to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir

from edgec.compress.pack import unpack_nibbles
from edgec.compress.quantize import Grid, QuantizedRows
from edgec.ir.compressed import GROUP, ROWS, CompressedModel, PackedTensor
from edgec.ir.model import ModelIR
from edgec.ir.plan import TensorPlan
from edgec.ir.weight_use import WeightUse, weight_uses

_BLOCKS_PER_SLAB = 64


def dequantize(packed: PackedTensor, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float32]:
    """Rows `start` to `stop` (all by default) as float32 `[stop - start, columns]`; every value is exact."""
    stop = packed.rows if stop is None else stop
    result = np.empty((stop - start, packed.columns), np.float32)
    for block in range(start // ROWS, -(-stop // ROWS), _BLOCKS_PER_SLAB):
        rows = _dequantize_blocks(packed, block, min(block + _BLOCKS_PER_SLAB, packed.blocks))
        first = max(start, block * ROWS)
        last = min(stop, block * ROWS + rows.shape[0])
        result[first - start : last - start] = rows[first - block * ROWS : last - block * ROWS, : packed.columns]
    return result


def _dequantize_blocks(packed: PackedTensor, first: int, last: int) -> npt.NDArray[np.float32]:
    codes = unpack_nibbles(packed.high[first:last]).astype(np.float32) * 16
    if packed.low is not None:
        codes += unpack_nibbles(packed.low[first:last])
    codes -= _of_groups(packed, packed.zeros[first:last])
    codes *= _of_groups(packed, packed.scales[first:last].astype(np.float32) / 16)
    # [feature, block, group, row] -> [block, row, group, feature]
    return codes.transpose(1, 3, 2, 0).reshape((last - first) * ROWS, packed.groups * GROUP)


def stored_rows(packed: PackedTensor, planned: TensorPlan) -> QuantizedRows:
    """The codes of a tensor that was so planned, row by row again."""
    codes = unpack_nibbles(packed.high) << np.uint8(4)
    if packed.low is not None:
        codes |= unpack_nibbles(packed.low)
    ordered = (codes >> np.uint8(8 - planned.bits)).transpose(1, 3, 2, 0)
    ordered = ordered.reshape(packed.blocks * ROWS, packed.groups * GROUP)

    def rows(parameters: npt.NDArray[Any]) -> npt.NDArray[Any]:
        ordered = parameters.transpose(0, 2, 1).reshape(packed.blocks * ROWS, -1)
        return np.ascontiguousarray(ordered[: packed.rows])

    codes = np.ascontiguousarray(ordered[: packed.rows, : packed.columns])
    grid = Grid(planned.bits, planned.compact, packed.group_size, ternary=planned.ternary)
    return QuantizedRows(grid, codes, rows(packed.scales), rows(packed.zeros))


def _of_groups(packed: PackedTensor, parameters: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`[blocks, spans, 8]` repeated for each group."""
    return parameters if packed.span == 1 else np.repeat(parameters, packed.span, axis=1)[:, : packed.groups]


def dequantized_model(compressed: CompressedModel) -> ModelIR:
    """A copy of the model whose packed initializers hold their dequantized values, read lazily."""
    source = compressed.model
    copy = source.model.clone()
    uses = weight_uses(source.model)
    for name, packed in compressed.packed.items():
        value = copy.graph.initializers[name]
        original = value.const_value
        assert original is not None
        value.const_value = onnx_ir.LazyTensor(
            _reader(packed, uses[name], original.dtype),
            dtype=original.dtype,
            shape=onnx_ir.Shape(uses[name].shape),
            name=name,
        )
    return ModelIR(copy, source.kind, source.facts, source.decoder, source.tokenizer, source.generation, source.task)


def _reader(packed: PackedTensor, use: WeightUse, dtype: onnx_ir.DataType) -> Callable[[], onnx_ir.TensorProtocol]:
    def read() -> onnx_ir.TensorProtocol:
        array = use.from_matrix(dequantize(packed)).astype(dtype.numpy(), copy=False)
        return onnx_ir.Tensor(array, dtype=dtype, name=packed.name)

    return read


__all__ = ["dequantize", "dequantized_model", "stored_rows"]
