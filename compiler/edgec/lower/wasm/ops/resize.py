"""`Resize` by nearest, linear or cubic interpolation: images at once, anything else one axis after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgec.errors import UnsupportedError
from edgec.lower.wasm.graph_context import GraphContext, label
from edgec.lower.wasm.graph_dims import symbols
from edgec.lower.wasm.graph_values import TensorView
from edgec.lower.wasm.kernels.resample import resample, weighted_places
from edgec.lower.wasm.ops.conv import channels_first, channels_last
from edgec.passes import dims as d
from edgec.passes.base import constant
from edgec.passes.dims import Dim
from edgec.passes.shape_context import axis_of

Table = tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]


def lower(context: GraphContext, node: ir.Node) -> None:
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    before, after = context.shape(source), context.shape(output)
    factors = _repetitions(node, before, after)
    if factors is not None:
        _repeat(context, source, output, factors)
        return
    if _is_image(context, node, source, output):
        _resize_image(context, node, source, output)
        return
    old, new = [dim for dim in before if isinstance(dim, int)], [dim for dim in after if isinstance(dim, int)]
    if not len(old) == len(new) == len(before):
        raise UnsupportedError(f"{label(node)} resizes a tensor of variable size", hint="fix the model's input size")
    scales = _scales(node, len(old), old, new)
    regions = _regions(node, len(old))
    view = context.view(source)
    for axis in range(len(old)):
        if old[axis] == new[axis] and scales[axis] == 1.0 and regions[axis] == (0.0, 1.0):
            continue
        view = _resize_axis(context, node, view, axis, new[axis], scales[axis], regions[axis])
    context.define(output, view)


def _repetitions(node: ir.Node, before: Sequence[Dim], after: Sequence[Dim]) -> list[int] | None:
    """How often each element of a tensor of variable size is repeated along each axis, where that is all."""
    if all(isinstance(dim, int) for dim in before) or node.attributes.get_string("mode", "nearest") != "nearest":
        return None
    scales = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    if scales is None or scales.size == 0:
        return None
    axes = [axis_of(a, len(before)) for a in node.attributes.get_ints("axes") or range(len(before))]
    given = dict(zip(axes, scales.reshape(-1).tolist(), strict=True))
    factors = [round(given.get(axis, 1.0)) for axis in range(len(before))]
    if any(given.get(axis, 1.0) != factor or factor < 1 for axis, factor in enumerate(factors)):
        return None
    if not all(d.same(d.multiply(a, factor), b) for a, b, factor in zip(before, after, factors, strict=True)):
        return None
    for factor in set(factors):
        for old in (4, 7):  # the places do not depend on the size
            places, _ = resampling_table(node, old, old * factor, float(factor))
            if places[:, 0].tolist() != [place // factor for place in range(old * factor)]:
                return None
    return factors


def _repeat(context: GraphContext, source: ir.Value, output: ir.Value, factors: Sequence[int]) -> None:
    """Every axis twice, the second time with a stride of 0; images lie channels last as elsewhere."""
    rank = len(factors)
    order = [0, *range(2, rank), 1] if rank == 4 else list(range(rank))
    view = context.view(source).transposed(order)
    counts = [factors[axis] for axis in order]
    shape = [size for dim, count in zip(view.shape, counts, strict=True) for size in (dim, count)]
    strides = [step for stride in view.strides for step in (stride, 0)]
    repeated = context.copied(TensorView(view.storage, view.dtype, tuple(shape), tuple(strides), view.offset))
    merged = [d.multiply(dim, count) for dim, count in zip(view.shape, counts, strict=True)]
    back = [order.index(axis) for axis in range(rank)]
    context.define(output, TensorView.whole(repeated.storage, view.dtype, merged).transposed(back))


def _is_image(context: GraphContext, node: ir.Node, source: ir.Value, output: ir.Value) -> bool:
    """Whether only height and width change, by tables that do not reach outside."""
    before, after = context.shape(source), context.shape(output)
    return (
        len(before) in (3, 4)
        and before[:2] == after[:2]
        and isinstance(before[1], int)
        and context.view(source).dtype == "float32"
        and not node.attributes.get_int("antialias", 0)
        and node.attributes.get_string("coordinate_transformation_mode", "half_pixel") != "tf_crop_and_resize"
    )


def _regions(node: ir.Node, rank: int) -> list[tuple[float, float]]:
    """The part of each axis that `tf_crop_and_resize` looks at."""
    regions = [(0.0, 1.0)] * rank
    given = constant(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] is not None else None
    if node.attributes.get_string("coordinate_transformation_mode", "half_pixel") != "tf_crop_and_resize":
        return regions
    if given is None:
        raise UnsupportedError(f"{label(node)} crops to a region that is computed")
    axes = [axis_of(a, rank) for a in node.attributes.get_ints("axes") or range(rank)]
    for i, axis in enumerate(axes):
        regions[axis] = (float(given[i]), float(given[len(axes) + i]))
    return regions


def _resize_axis(
    context: GraphContext,
    node: ir.Node,
    view: TensorView,
    axis: int,
    size: int,
    scale: float,
    region: tuple[float, float],
) -> TensorView:
    old = view.shape[axis]
    assert isinstance(old, int)
    places, weights = resampling_table(node, old, size, scale, region)
    name = f"{node.outputs[0].name}#{axis}"
    operands = [view]
    for part, table in (("places", places), ("weights", weights)):
        storage = context.weight(f"{name}.{part}", lambda table=table: table)  # type: ignore[misc]
        operands.append(TensorView.whole(storage, str(table.dtype), table.shape))
    shape = [*view.shape[:axis], size, *view.shape[axis + 1 :]]
    target = context.allocate(name, view.dtype, shape)
    outside = node.attributes.get_float("extrapolation_value", 0.0)
    attributes = (axis, node.attributes.get_string("mode", "nearest") == "nearest", outside)
    context.generic("resize_axis", attributes, operands, [target], weighted_places(*attributes))
    return target


def _resize_image(context: GraphContext, node: ir.Node, source: ir.Value, output: ir.Value) -> None:
    before, after = context.shape(source), context.shape(output)
    batch, channels = before[0], before[1]
    assert isinstance(channels, int)
    old = [1, *(dim for dim in before[2:] if isinstance(dim, int))]
    new = [1, *(dim for dim in after[2:] if isinstance(dim, int))]
    if not len(old) == len(new) == len(before) - 1:
        raise UnsupportedError(f"{label(node)} resizes an image of variable size", hint="fix the model's input size")
    scales = [1.0, *_scales(node, len(before), [1, 1, *old[1:]], [1, 1, *new[1:]])[2:]]
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


def _check_corners(node: ir.Node, length: float) -> None:
    """ONNX's text divides by the length of the result, its tests by what that was before rounding down."""
    if abs(length - round(length)) > 1e-4:
        raise UnsupportedError(
            f"{label(node)} aligns corners by a scale that makes {length:g} elements of an axis",
            hint="give the sizes instead of the scales, or scales that make whole sizes",
        )


def _scales(node: ir.Node, rank: int, old: list[int], new: list[int]) -> list[float]:
    """Scale of each axis: the one given, or the quotient of the sizes; one for all where their ratio is kept."""
    ratios = [b / a for a, b in zip(old, new, strict=True)]
    policy = node.attributes.get_string("keep_aspect_ratio_policy", "stretch")
    sizes = constant(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] is not None else None
    if policy != "stretch" and sizes is not None:
        axes = [axis_of(a, rank) for a in node.attributes.get_ints("axes") or range(rank)]
        wanted = [size / old[axis] for size, axis in zip(sizes.tolist(), axes, strict=True)]
        common = min(wanted) if policy == "not_larger" else max(wanted)
        return [common if axis in axes else 1.0 for axis in range(rank)]
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
    if node.attributes.get_string("coordinate_transformation_mode", "half_pixel") == "align_corners":
        for axis, scale in given.items():
            _check_corners(node, old[axis] * scale)
    return [float(given.get(axis, 1.0)) for axis in range(rank)]


def resampling_table(
    node: ir.Node, old: int, new: int, scale: float, region: tuple[float, float] = (0.0, 1.0)
) -> Table:
    """For each of `new` positions, which of `old` positions count how much: `[new, taps]` each.

    Positions outside of a cropped image have the place -1.
    """
    mode = node.attributes.get_string("mode", "nearest")
    transformation = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    coordinates = _coordinates(transformation, old, new, scale, region)
    places, weights = _table(node, mode, coordinates, old, scale)
    if transformation == "tf_crop_and_resize":
        places[(coordinates < 0) | (coordinates > old - 1)] = -1
    return places, weights


def _table(node: ir.Node, mode: str, coordinates: npt.NDArray[np.float64], old: int, scale: float) -> Table:
    new = len(coordinates)
    if mode == "nearest":
        rounded = _ROUNDING[node.attributes.get_string("nearest_mode", "round_prefer_floor")](coordinates)
        return np.clip(rounded, 0, old - 1).astype(np.int32)[:, None], np.ones((new, 1), np.float32)
    floor = np.floor(coordinates)
    fraction = coordinates - floor
    if node.attributes.get_int("antialias", 0) and scale < 1:
        reach = 1 if mode == "linear" else 2
        offsets = list(range(math.floor(-reach / scale) + 1, reach + 1 - math.floor(-reach / scale) - reach))
        distances = np.abs(np.array(offsets)[:, None] - fraction) * scale
        kernel = _triangle if mode == "linear" else _keys(node.attributes.get_float("cubic_coeff_a", -0.75))
        stacked = kernel(distances)
        weights = list(stacked / stacked.sum(axis=0))
    elif mode == "linear":
        offsets, weights = [0, 1], [1 - fraction, fraction]
    else:
        offsets = [-1, 0, 1, 2]
        kernel = _keys(node.attributes.get_float("cubic_coeff_a", -0.75))
        weights = list(kernel(np.abs(np.array(offsets)[:, None] - fraction)))
    places = np.stack([floor + offset for offset in offsets], axis=1)
    table = np.stack(weights, axis=1)
    if node.attributes.get_int("exclude_outside", 0):
        table = np.where((places < 0) | (places >= old), 0, table)
        table = table / table.sum(axis=1, keepdims=True)
    return np.clip(places, 0, old - 1).astype(np.int32), table.astype(np.float32)


def _coordinates(mode: str, old: int, new: int, scale: float, region: tuple[float, float]) -> npt.NDArray[np.float64]:
    positions = np.arange(new, dtype=np.float64)
    if mode == "tf_crop_and_resize":
        start, end = region
        if new == 1:
            return positions + 0.5 * (start + end) * (old - 1)
        return start * (old - 1) + positions * (end - start) * (old - 1) / (new - 1)
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


def _triangle(distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.clip(1 - distance, 0, 1)


def _keys(a: float) -> Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]:
    """Keys' cubic convolution as a function of the distance."""

    def kernel(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        return np.where(x <= 1, near, np.where(x < 2, far, 0.0))

    return kernel


_ROUNDING: dict[str, Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]] = {
    "ceil": np.ceil,
    "floor": np.floor,
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
}
