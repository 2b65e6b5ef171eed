"""`Resize` of images by nearest, linear or cubic interpolation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgec.errors import UnsupportedError
from edgec.lower.wasm.graph_context import GraphContext
from edgec.lower.wasm.kernels.resample import resample
from edgec.lower.wasm.ops.conv import channels_first, channels_last
from edgec.passes.base import constant
from edgec.passes.shape_rules import axis_of

Table = tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]


def lower(context: GraphContext, node: ir.Node) -> None:
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    before, after = context.shape(source), context.shape(output)
    if len(before) not in (3, 4) or before[:2] != after[:2]:
        raise UnsupportedError(f"node `{node.name}` resizes other axes than height and width")
    if not all(isinstance(dim, int) for dim in (*before[2:], *after[2:])):
        raise UnsupportedError(
            f"node `{node.name}` resizes an image of variable size", hint="fix the model's input size"
        )
    sizes = [1, *before[2:]][-2:], [1, *after[2:]][-2:]
    scales = [1.0, *_scales(node, len(before), before, after)][-2:]
    tables = [
        resampling_table(node, int(old), int(new), scale)  # type: ignore[call-overload]
        for old, new, scale in zip(*sizes, scales, strict=True)
    ]
    view = channels_last(context, source)
    channels = before[1]
    assert isinstance(channels, int)
    operands = []
    for axis, (indices, weights) in enumerate(tables):
        operands.append(context.weight(f"{node.name}#{axis}.places", lambda indices=indices: indices))
        operands.append(context.weight(f"{node.name}#{axis}.weights", lambda weights=weights: weights))
    target = context.allocate(output.name or "resize", "float32", (before[0], *sizes[1], channels))
    size = (int(sizes[0][0]), int(sizes[0][1]))  # type: ignore[call-overload]
    new_size = (int(sizes[1][0]), int(sizes[1][1]))  # type: ignore[call-overload]
    taps = (tables[0][0].shape[1], tables[1][0].shape[1])
    batch = before[0]
    context.call(
        ("resize", batch, channels, size, new_size, taps),
        lambda isa: resample(batch=batch, channels=channels, size=size, output=new_size, taps=taps),
        [view, *operands, target],
        [] if isinstance(batch, int) else sorted(batch.free_symbols()),
    )
    context.define(output, channels_first(target, len(before)))


def _scales(node: ir.Node, rank: int, before: tuple[object, ...], after: tuple[object, ...]) -> list[float]:
    """Scale of each spatial axis: the one given, or the quotient of the sizes."""
    ratios = [float(b) / float(a) for a, b in zip(before[2:], after[2:], strict=True)]  # type: ignore[arg-type]
    array = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    if array is None or array.size == 0:
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
        raise UnsupportedError(f"node `{node.name}` resizes with antialiasing, which is not supported")
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
