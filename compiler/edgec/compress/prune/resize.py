"""Initializers of which a part stays, read when they are asked for; and how many elements they have together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir

from edgec.ir.weight_use import mark_grid
from edgec.passes.base import static_shape


def take(value: onnx_ir.Value, axis: int, indices: npt.NDArray[np.int64] | Sequence[int]) -> None:
    """Keep `indices` of the initializer `value` along `axis`, in this order."""
    tensor = value.const_value
    assert tensor is not None
    kept = np.asarray(indices, np.int64)
    shape = list(tensor.shape.numpy())
    shape[axis] = len(kept)

    def read() -> onnx_ir.TensorProtocol:
        return onnx_ir.Tensor(np.ascontiguousarray(np.take(tensor.numpy(), kept, axis)), name=value.name)

    value.const_value = onnx_ir.LazyTensor(read, tensor.dtype, onnx_ir.Shape(shape), name=value.name)
    value.shape = onnx_ir.Shape(shape)
    mark_grid(value, None)  # columns of several groups may have come together


def initializer_elements(graph: onnx_ir.Graph) -> int:
    """Floats in all initializers."""
    total = 0
    for value in graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype.is_floating_point():
            total += math.prod(static_shape(value.const_value))
    return total


__all__ = ["initializer_elements", "take"]
