"""Shapes of operators that slide windows over images, and of resized images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgec.passes import dims as d
from edgec.passes.dims import Dim
from edgec.passes.shape_context import Context, Shape, Unknown, axis_of


def _pads(c: Context, size: Dim, axis: int, window: int, stride: int, rank: int) -> tuple[Dim, Dim]:
    auto = c.text("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        pads = c.integers("pads", [0] * (2 * rank))
        return pads[axis], pads[axis + rank]
    if auto == "VALID":
        return 0, 0
    if not isinstance(size, int):
        raise Unknown
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    small, large = total // 2, total - total // 2
    return (small, large) if auto == "SAME_UPPER" else (large, small)


def spatial_pads(c: Context, kernel: Sequence[int]) -> list[tuple[Dim, Dim]]:
    """(begin, end) of each spatial axis of a Conv or pool."""
    shape = c.shape(0)
    rank = len(shape) - 2
    strides, dilations = c.integers("strides", [1] * rank), c.integers("dilations", [1] * rank)
    windows = [(kernel[i] - 1) * dilations[i] + 1 for i in range(rank)]
    return [_pads(c, shape[2 + i], i, windows[i], strides[i], rank) for i in range(rank)]


def _windowed(c: Context, channels: Dim, kernel: Sequence[int]) -> list[Shape]:
    shape = c.shape(0)
    rank = len(shape) - 2
    strides, dilations = c.integers("strides", [1] * rank), c.integers("dilations", [1] * rank)
    pads = spatial_pads(c, kernel)
    result: Shape = [shape[0], channels]
    for i in range(rank):
        window = (kernel[i] - 1) * dilations[i] + 1
        free = d.subtract(d.add(d.add(shape[2 + i], pads[i][0]), pads[i][1]), window)
        if c.integer("ceil_mode", 0):
            steps = d.floor_divide(d.add(free, strides[i] - 1), strides[i])
            # A last window that would start in the end padding does not count.
            last_start = d.subtract(d.multiply(steps, strides[i]), d.add(shape[2 + i], pads[i][0]))
            if isinstance(last_start, int) and last_start >= 0:
                steps = d.subtract(steps, 1)
        else:
            steps = d.floor_divide(free, strides[i])
        result.append(d.add(steps, 1))
    return [result] * len(c.node.outputs)


def conv(c: Context) -> list[Shape]:
    weight = c.shape(1)
    kernel = [dim for dim in weight[2:] if isinstance(dim, int)]
    return _windowed(c, weight[0], kernel)


def conv_transpose(c: Context) -> list[Shape]:
    shape, weight = c.shape(0), c.shape(1)
    rank = len(shape) - 2
    strides, dilations = c.integers("strides", [1] * rank), c.integers("dilations", [1] * rank)
    output_padding = c.integers("output_padding", [0] * rank)
    pads = c.integers("pads", [0] * (2 * rank))
    automatic = c.text("auto_pad", "NOTSET")
    result: Shape = [shape[0], d.multiply(weight[1], c.integer("group", 1))]
    if "output_shape" in c.node.attributes:
        return [[*result, *c.integers("output_shape")[-rank:]]]
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        return [[*result, *(d.multiply(shape[2 + i], strides[i]) for i in range(rank))]]
    if automatic == "VALID":
        pads = [0] * (2 * rank)
    for i in range(rank):
        kernel = weight[2 + i]
        if not isinstance(kernel, int):
            raise Unknown
        extra = output_padding[i] + (kernel - 1) * dilations[i] + 1 - pads[i] - pads[i + rank] - strides[i]
        result.append(d.add(d.multiply(shape[2 + i], strides[i]), extra))
    return [result]


def pool(c: Context) -> list[Shape]:
    return _windowed(c, c.shape(0)[1], c.integers("kernel_shape"))


def global_pool(c: Context) -> list[Shape]:
    shape = c.shape(0)
    return [[*shape[:2], *[1] * (len(shape) - 2)]]


def resize(c: Context) -> list[Shape]:
    shape = c.shape(0)
    axes = [axis_of(a, len(shape)) for a in c.integers("axes", range(len(shape)))]
    result = list(shape)
    if c.has(3):
        policy = c.text("keep_aspect_ratio_policy", "stretch")
        sizes = c.content(3)
        if policy == "stretch":
            for axis, size in zip(axes, sizes, strict=True):
                result[axis] = size
            return [result]
        pairs = [(shape[axis], size) for axis, size in zip(axes, sizes, strict=True)]
        ratios = [size / dim for dim, size in pairs if isinstance(dim, int) and isinstance(size, int)]
        if len(ratios) != len(pairs):
            raise Unknown
        ratio = min(ratios) if policy == "not_larger" else max(ratios)
        for axis, (dim, _) in zip(axes, pairs, strict=True):
            result[axis] = int(np.floor(ratio * int(dim) + 0.5))  # type: ignore[arg-type]
        return [result]
    for axis, scale in zip(axes, c.array(2).reshape(-1), strict=True):
        dim = shape[axis]
        if isinstance(dim, int):
            result[axis] = int(np.floor(dim * scale))
        elif scale == int(scale):
            result[axis] = d.multiply(dim, int(scale))
        else:
            raise Unknown
    return [result]
