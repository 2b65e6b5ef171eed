"""Second moments of a matrix's inputs, added up sample by sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir

from edgec.compress.calibration.sites import Site
from edgec.compress.quantize import InputStatistics
from edgec.errors import ModelError

_MOST_PATCHES = 4096  # of one image; neighbours say much the same


class Moment:
    """The sum of x x^T over all vectors `x` seen, in double; of its diagonal alone if not `whole`."""

    def __init__(self, columns: int, *, whole: bool) -> None:
        self._power = np.zeros(columns, np.float64)
        self._total = np.zeros((columns, columns), np.float64) if whole else None
        self._count = 0

    def add(self, vectors: npt.NDArray[np.float32]) -> None:
        """`vectors` `[n, columns]`."""
        self._power += np.einsum("nk,nk->k", vectors, vectors, dtype=np.float64)
        if self._total is not None:
            self._total += vectors.T @ vectors
        self._count += vectors.shape[0]

    def statistics(self, weight: str) -> InputStatistics:
        if not np.isfinite(self._power).all():
            raise ModelError(
                f"the inputs of `{weight}` are not finite on the calibration data",
                hint="check the data, or compile with `--quantizer rtn`",
            )
        count = max(self._count, 1)
        total = None if self._total is None else self._total / count
        return InputStatistics(self._power / count, total, self._count)


def vectors(site: Site, value: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """What the site's matrix is multiplied with, as rows `[n, columns]` in the order of the matrix's columns."""
    array = np.asarray(value, np.float32)
    if site.node.op_type == "Conv":
        return _patches(site.node, array)
    if site.node.op_type == "Gemm" and _integer(site.node, "transA"):
        array = array.T
    return np.ascontiguousarray(array.reshape(-1, array.shape[-1]))


def _patches(node: onnx_ir.Node, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The patches of `[n, channels, *size]`, each `[*kernel, channels]` flattened, as im2col has them.

    Of large outputs only every some position is taken.
    """
    weight = node.inputs[1]
    assert weight is not None and weight.shape is not None
    kernel = [int(size) for size in weight.shape.numpy()[2:]]
    rank = len(kernel)
    strides = _integers(node, "strides", [1] * rank)
    dilations = _integers(node, "dilations", [1] * rank)
    pads = _pads(node, image.shape[2:], kernel, strides, dilations)
    padded = np.pad(image, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    spans = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    axes = tuple(range(2, 2 + rank))
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=axes)
    outputs = [-(-size // stride) for size, stride in zip(windows.shape[2 : 2 + rank], strides, strict=True)]
    total = int(np.prod(outputs))
    skip = 1
    while total > _MOST_PATCHES * skip**rank:
        skip += 1
    index: list[Any] = [slice(None), slice(None)]
    index += [slice(None, None, stride * skip) for stride in strides]
    index += [slice(None, None, dilation) for dilation in dilations]
    chosen = windows[tuple(index)]  # [n, channels, *positions, *kernel]
    order = (0, *range(2, 2 + 2 * rank), 1)
    columns = image.shape[1] * int(np.prod(kernel))
    return np.ascontiguousarray(chosen.transpose(order)).reshape(-1, columns)


def _pads(
    node: onnx_ir.Node, size: tuple[int, ...], kernel: list[int], strides: list[int], dilations: list[int]
) -> list[int]:
    attribute = node.attributes.get("auto_pad")
    auto = "NOTSET" if attribute is None else attribute.as_string()
    if auto == "NOTSET":
        return _integers(node, "pads", [0] * (2 * len(kernel)))
    if auto == "VALID":
        return [0] * (2 * len(kernel))
    before, after = [], []
    for extent, width, stride, dilation in zip(size, kernel, strides, dilations, strict=True):
        needed = max((-(-extent // stride) - 1) * stride + (width - 1) * dilation + 1 - extent, 0)
        small, large = needed // 2, needed - needed // 2
        before.append(small if auto == "SAME_UPPER" else large)
        after.append(large if auto == "SAME_UPPER" else small)
    return before + after


def _integers(node: onnx_ir.Node, name: str, default: list[int]) -> list[int]:
    attribute = node.attributes.get(name)
    return default if attribute is None else [int(i) for i in attribute.as_ints()]


def _integer(node: onnx_ir.Node, name: str) -> int:
    attribute = node.attributes.get(name)
    return 0 if attribute is None else int(attribute.as_int())


__all__ = ["Moment", "vectors"]
