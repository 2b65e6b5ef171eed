"""`Resize` of images by nearest, linear or cubic interpolation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgec.errors import UnsupportedError
from edgec.lower.wasm.graph_context import GraphContext, label
from edgec.lower.wasm.graph_dims import symbols
from edgec.lower.wasm.kernels.resample import resample
from edgec.lower.wasm.ops.conv import channels_first, channels_last
from edgec.passes.base import constant
from edgec.passes.shape_context import axis_of

Table = tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]


def lower(context: GraphContext, node: ir.Node) -> None:
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    before, after = context.shape(source), context.shape(output)
    batch, channels = before[0], before[1]
    if len(before) not in (3, 4) or before[:2] != after[:2] or not isinstance(channels, int):
        raise UnsupportedError(f"{label(node)} resizes other axes than height and width")
    old = [1, *(dim for dim in before[2:] if isinstance(dim, int))]
    new = [1, *(dim for dim in after[2:] if isinstance(dim, int))]
    if not len(old) == len(new) == len(before) - 1:
        raise UnsupportedError(f"{label(node)} resizes an image of variable size", hint="fix the model's input size")
    scales = [1.0, *_scales(node, len(before), old[1:], new[1:])]
    size, new_size = (old[-2], old[-1]), (new[-2], new[-1])
    rows, columns = (resampling_table(node, size[i], new_size[i], scales[i - 2]) for i in range(2))
    view = channels_last(context, source)
    operands = [
        context.weight(f"{output.name}#{name}", data)
        for name, data in (
            ("rows", lambda: rows[0]),
            ("row_weights", lambda: rows[1]),
            ("columns", lambda: columns[0]),
            ("column_weights", lambda: columns[1]),
        )
    ]
    target = context.allocate(output.name or "resize", "float32", (batch, *new_size, channels))
    taps = (rows[0].shape[1], columns[0].shape[1])
    context.call(
        ("resize", batch, channels, size, new_size, taps),
        lambda isa: resample(batch=batch, channels=channels, size=size, output=new_size, taps=taps),
        [view, *operands, target],
        symbols([batch]),
    )
    context.define(output, channels_first(target, len(before)))


def _scales(node: ir.Node, rank: int, old: list[int], new: list[int]) -> list[float]:
    """Scale of each spatial axis: the one given, or the quotient of the sizes."""
    ratios = [b / a for a, b in zip(old, new, strict=True)]
    given_scales = node.inputs[2] if len(node.inputs) > 2 else None
    if given_scales is None:
        return ratios
    array = constant(given_scales)
    if array is None:
        raise UnsupportedError(f"{label(node)} resizes by a factor that is computed")
    if array.size == 0:
        return ratios
    axes = [axis_of(a, rank) for a in node.attributes.get_ints("axes") or range(rank)]
    given = dict(zip(axes, array.reshape(-1).tolist(), strict=True))
    return [float(given.get(axis, 1.0)) for axis in range(2, rank)]


def resampling_table(node: ir.Node, old: int, new: int, scale: float) -> Table:
    """For each of `new` positions, which of `old` positions count how much: `[new, taps]` each."""
    mode = node.attributes.get_string("mode", "nearest")
    coordinates = _coordinates(
        node.attributes.get_string("coordinate_transformation_mode", "half_pixel"), old, new, scale
    )
    if mode == "nearest":
        rounded = _ROUNDING[node.attributes.get_string("nearest_mode", "round_prefer_floor")](coordinates)
        return np.clip(rounded, 0, old - 1).astype(np.int32)[:, None], np.ones((new, 1), np.float32)
    if node.attributes.get_int("antialias", 0):
        raise UnsupportedError(f"{label(node)} resizes with antialiasing, which is not supported")
    floor = np.floor(coordinates)
    fraction = coordinates - floor
    if mode == "linear":
        offsets, weights = [0, 1], [1 - fraction, fraction]
    else:
        offsets = [-1, 0, 1, 2]
        weights = _cubic(fraction, node.attributes.get_float("cubic_coeff_a", -0.75))
    places = np.stack([floor + offset for offset in offsets], axis=1)
    table = np.stack(weights, axis=1)
    if node.attributes.get_int("exclude_outside", 0):
        table = np.where((places < 0) | (places >= old), 0, table)
        table = table / table.sum(axis=1, keepdims=True)
    return np.clip(places, 0, old - 1).astype(np.int32), table.astype(np.float32)


def _coordinates(mode: str, old: int, new: int, scale: float) -> npt.NDArray[np.float64]:
    positions = np.arange(new, dtype=np.float64)
    if mode == "asymmetric":
        return positions / scale
    if mode == "align_corners":
        return positions * ((old - 1) / (new - 1) if new > 1 else 0.0)
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and new > 1):
        return (positions + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel":
        return positions * 0
    if mode == "half_pixel_symmetric":
        adjustment = new / (scale * old)
        centre = old / 2
        return centre * (1 - adjustment) + (positions + 0.5) / scale - 0.5
    raise UnsupportedError(f"resizing with coordinates `{mode}` is not supported")


def _cubic(fraction: npt.NDArray[np.float64], a: float) -> list[npt.NDArray[np.float64]]:
    """Keys' cubic convolution."""

    def near(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return [far(1 + fraction), near(fraction), near(1 - fraction), far(2 - fraction)]


_ROUNDING: dict[str, Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]] = {
    "ceil": np.ceil,
    "floor": np.floor,
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
}
