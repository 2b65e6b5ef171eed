"""Output shapes that follow from the values of tensors: dimensions that the compiled module computes while it runs.

A rule names the new dimensions and says what they are bounded by. `plan/dims.py` turns that into numbers, `lower/`
computes the dimensions, and a value outside its bound ends the run with an error (docs/runtime-abi.md).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

import onnx_ir as ir

from edgec.passes import dims as d
from edgec.passes.dims import Dim
from edgec.passes.shape_context import Context, Shape, Unknown, axis_of

COMPUTED = "edgec.computed"  # key of `Node.meta`: the new dimensions, each with what it is at most one of
DECLARED = "edgec.declared"  # key of `Graph.meta`: the shapes that the model declares for its outputs

Bounds = dict[str, tuple[Dim, ...]]
"""Name -> expressions of which the largest is the bound; none where the values alone decide."""

_LONGEST = 48  # characters of a name, so that expressions stay readable
_NO_NAME = re.compile(r"[^A-Za-z0-9_.]")


class Names:
    """Names for new dimensions of one graph: `VALUE.dimAXIS`, each for one value."""

    def __init__(self) -> None:
        self._owners: dict[str, ir.Value] = {}

    def of(self, value: ir.Value) -> str:
        """The first part of the names of a value's own numbers."""
        text = _NO_NAME.sub("_", value.name or "")[-_LONGEST:]
        base = text if text[:1].isalpha() or text[:1] == "_" else f"_{text}"
        name, count = base, 1
        while self._owners.setdefault(name, value) is not value:
            count += 1
            name = f"{base}_{count}"
        return name


class NewDims:
    """Makes the new dimensions of one node: `new(output, axis, *bounds)`."""

    def __init__(self, node: ir.Node, names: Names) -> None:
        self._node, self._names = node, names
        self.bounds: Bounds = {}

    def __call__(self, output: int, axis: int, *bounds: Dim) -> Dim:
        name = f"{self._names.of(self._node.outputs[output])}.dim{axis}"
        self.bounds[name] = bounds
        return ir.SymbolicDim(name)


def computed_shapes(context: Context, names: Names) -> list[Shape]:
    """Shapes of the node's outputs with new dimensions, which are noted in its `meta`.

    Raises `Unknown` where the node has no rule or not even the number of dimensions is known.
    """
    rule = RULES.get(context.node.op_type)
    if rule is None:
        raise Unknown
    new = NewDims(context.node, names)
    shapes = rule(context, new)
    context.node.meta[COMPUTED] = new.bounds
    return shapes


def _length(c: Context, index: int) -> int:
    """Elements of a vector."""
    shape = c.shape(index)
    if not shape:
        return 1
    if not isinstance(shape[0], int):
        raise Unknown
    return shape[0]


def _reshape(c: Context, new: NewDims) -> list[Shape]:
    total = d.product(c.shape(0))
    bounds = (total,) if total != 0 else ()  # without elements the other dimensions are free
    return [[new(0, axis, *bounds) for axis in range(_length(c, 1))]]


def _squeeze(c: Context, new: NewDims) -> list[Shape]:
    shape = c.shape(0)
    return [[new(0, axis, *shape) for axis in range(len(shape) - _length(c, 1))]]


def _unsqueeze(c: Context, new: NewDims) -> list[Shape]:
    shape = c.shape(0)
    return [[new(0, axis, 1, *shape) for axis in range(len(shape) + _length(c, 1))]]


def _expand(c: Context, new: NewDims) -> list[Shape]:
    """An axis of more than 1 element keeps its size."""
    shape, rank = c.shape(0), _length(c, 1)
    own = [1] * (rank - len(shape)) + shape
    return [[dim if isinstance(dim, int) and dim != 1 else new(0, axis) for axis, dim in enumerate(own)]]


def _all_by_value(c: Context, new: NewDims) -> list[Shape]:
    return [[new(0, axis) for axis in range(len(c.shape(0)))]]


def _constant_of_shape(c: Context, new: NewDims) -> list[Shape]:
    return [[new(0, axis) for axis in range(_length(c, 0))]]


def _range(c: Context, new: NewDims) -> list[Shape]:
    return [[new(0, 0)]]


def _pad(c: Context, new: NewDims) -> list[Shape]:
    shape = c.shape(0)
    try:
        axes = {axis_of(axis, len(shape)) for axis in c.numbers(3)} if c.has(3) else set(range(len(shape)))
    except Unknown:
        axes = set(range(len(shape)))
    _length(c, 1)
    return [[new(0, axis) if axis in axes else dim for axis, dim in enumerate(shape)]]


def _slice(c: Context, new: NewDims) -> list[Shape]:
    shape = c.shape(0)
    axes = slice_axes(c)
    return [[new(0, axis, dim) if axis in axes else dim for axis, dim in enumerate(shape)]]


def slice_axes(c: Context) -> list[int]:
    """The axes that a Slice may cut."""
    rank, count = len(c.shape(0)), _length(c, 1)
    if not c.has(3):
        return list(range(count))
    try:
        return sorted(axis_of(axis, rank) for axis in c.numbers(3))
    except Unknown:
        return list(range(rank))


def _split(c: Context, new: NewDims) -> list[Shape]:
    shape = c.shape(0)
    axis = axis_of(c.integer("axis", 0), len(shape))
    outputs = range(len(c.node.outputs))
    return [[*shape[:axis], new(output, axis, shape[axis]), *shape[axis + 1 :]] for output in outputs]


def _reduce(c: Context, new: NewDims) -> list[Shape]:
    shape = c.shape(0)
    if c.integer("keepdims", 1):
        return [[1 if dim == 1 else new(0, axis, 1, dim) for axis, dim in enumerate(shape)]]
    return [[new(0, axis, *shape) for axis in range(len(shape) - _length(c, 1))]]


def _top_k(c: Context, new: NewDims) -> list[Shape]:
    shape = list(c.shape(0))
    axis = axis_of(c.integer("axis", -1), len(shape))
    shape[axis] = new(0, axis, shape[axis])
    return [shape, shape]


def _one_hot(c: Context, new: NewDims) -> list[Shape]:
    shape = list(c.shape(0))
    axis = axis_of(c.integer("axis", -1), len(shape) + 1)
    shape.insert(axis, new(0, axis))
    return [shape]


def _compress(c: Context, new: NewDims) -> list[Shape]:
    shape = list(c.shape(0))
    if "axis" not in c.node.attributes:
        return [[new(0, 0, d.product(shape))]]
    axis = axis_of(c.integer("axis", 0), len(shape))
    shape[axis] = new(0, axis, shape[axis])
    return [shape]


def _non_zero(c: Context, new: NewDims) -> list[Shape]:
    shape = c.shape(0)
    return [[max(1, len(shape)), new(0, 1, d.product(shape))]]


def _non_max_suppression(c: Context, new: NewDims) -> list[Shape]:
    """A box is chosen at most once for each class of each batch."""
    scores = c.shape(1)
    if not c.has(2):
        return [[0, 3]]
    per_class = scores[2]
    with contextlib.suppress(Unknown):
        most = max(0, c.numbers(2)[0])
        per_class = min(per_class, most) if isinstance(per_class, int) else per_class
    return [[new(0, 0, d.product([scores[0], scores[1], per_class])), 3]]


def _unique(c: Context, new: NewDims) -> list[Shape]:
    shape = list(c.shape(0))
    axis = axis_of(c.integer("axis", 0), len(shape)) if "axis" in c.node.attributes else 0
    if "axis" not in c.node.attributes:
        shape = [d.product(shape)]
    size = shape[axis]
    shape[axis] = new(0, axis, size)
    return [shape, [shape[axis]], [size], [shape[axis]]][: len(c.node.outputs)]


Rule = Callable[[Context, NewDims], list[Shape]]

RULES: dict[str, Rule] = {
    **dict.fromkeys(
        "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
        "ReduceSumSquare".split(),
        _reduce,
    ),
    "Compress": _compress,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "NonMaxSuppression": _non_max_suppression,
    "NonZero": _non_zero,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _all_by_value,
    "TopK": _top_k,
    "Unique": _unique,
    "Unsqueeze": _unsqueeze,
}
