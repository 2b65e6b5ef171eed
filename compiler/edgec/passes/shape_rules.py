"""What each ONNX operator does to shapes, with symbolic dimensions, and to small integer tensors.

A rule takes a `Context` and returns the shapes of the outputs. Integer tensors of at most
`MAX_ELEMENTS` elements and rank 0 or 1 are followed by content too, because exporters compute the
targets of Reshape, Expand, Slice and Range with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgec.passes import dims as d
from edgec.passes.dims import Dim
from edgec.passes.einsum_terms import einsum_terms
from edgec.passes.shape_context import Context, Shape, Unknown, axis_of
from edgec.passes.shape_windows import conv, conv_transpose, global_pool, pool, resize


def _same(c: Context) -> list[Shape]:
    return [c.shape(0)] * len(c.node.outputs)


def _broadcast(c: Context) -> list[Shape]:
    return [d.broadcast([c.shape(i) for i in range(len(c.node.inputs))])]


def _reduce(c: Context) -> list[Shape]:
    shape = c.shape(0)
    axes = c.numbers(1) if c.has(1) else c.integers("axes", [])
    if not axes and c.integer("noop_with_empty_axes", 0):
        return [shape]
    chosen = {axis_of(a, len(shape)) for a in axes} or set(range(len(shape)))
    if c.integer("keepdims", 1):
        return [[1 if i in chosen else dim for i, dim in enumerate(shape)]]
    return [[dim for i, dim in enumerate(shape) if i not in chosen]]


def _arg_reduce(c: Context) -> list[Shape]:
    shape = c.shape(0)
    axis = axis_of(c.integer("axis", 0), len(shape))
    if c.integer("keepdims", 1):
        return [[1 if i == axis else dim for i, dim in enumerate(shape)]]
    return [[dim for i, dim in enumerate(shape) if i != axis]]


def _matmul(c: Context) -> list[Shape]:
    a, b = c.shape(0), c.shape(1)
    left = [1, *a] if len(a) == 1 else a
    right = [*b, 1] if len(b) == 1 else b
    result = d.broadcast([left[:-2], right[:-2]])
    return [result + ([] if len(a) == 1 else [left[-2]]) + ([] if len(b) == 1 else [right[-1]])]


def _gemm(c: Context) -> list[Shape]:
    a, b = c.shape(0), c.shape(1)
    return [[a[1] if c.integer("transA", 0) else a[0], b[0] if c.integer("transB", 0) else b[1]]]


def _concat(c: Context) -> list[Shape]:
    shapes = [c.shape(i) for i in range(len(c.node.inputs))]
    axis = axis_of(c.integer("axis", 0), len(shapes[0]))
    result = d.broadcast(shapes)
    total: Dim = 0
    for shape in shapes:
        total = d.add(total, shape[axis])
    result[axis] = total
    return [result]


def _split(c: Context) -> list[Shape]:
    shape = c.shape(0)
    axis = axis_of(c.integer("axis", 0), len(shape))
    count = len(c.node.outputs)
    sizes: Sequence[Dim]
    if c.has(1):
        sizes = c.content(1)
    else:
        whole = shape[axis]
        if isinstance(whole, int):
            part = -(-whole // count)
            sizes = [min(part, whole - part * i) for i in range(count)]
        else:
            sizes = [d.floor_divide(whole, count)] * count
    return [[*shape[:axis], size, *shape[axis + 1 :]] for size in sizes]


@dataclass(frozen=True)
class SliceRange:
    """`length` elements from `start` in steps of `step` (which may be negative)."""

    axis: int
    start: Dim
    step: int
    length: Dim


_FAR = 2**31 - 1  # exporters write "to the end" as the largest integer of some width


def slice_ranges(c: Context) -> list[SliceRange]:
    shape = c.shape(0)
    starts, ends = c.content(1), c.content(2)
    axes = c.numbers(3) if c.has(3) else list(range(len(starts)))
    steps = c.numbers(4) if c.has(4) else [1] * len(starts)
    ranges = []
    for start, end, raw_axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = axis_of(raw_axis, len(shape))
        size = shape[axis]
        if step < 0:
            if not (isinstance(size, int) and isinstance(start, int) and isinstance(end, int)):
                raise Unknown
            first = min(max(start + size if start < 0 else start, 0), size - 1)
            last = min(max(end + size if end < 0 else end, -1), size - 1) if end > -_FAR else -1
            ranges.append(SliceRange(axis, first, step, max(0, -(-(first - last) // -step))))
            continue
        first_dim, last_dim = _bound(start, size), _bound(end, size)
        span = d.subtract(last_dim, first_dim)
        length = d.floor_divide(d.add(span, step - 1), step) if step != 1 else span
        ranges.append(SliceRange(axis, first_dim, step, max(0, length) if isinstance(length, int) else length))
    return ranges


def _bound(position: Dim, size: Dim) -> Dim:
    if isinstance(position, int):
        if isinstance(size, int):
            return min(max(position + size if position < 0 else position, 0), size)
        if position >= _FAR:
            return size
        # A symbolic size is taken to reach a constant bound; a negative one counts from its end.
        return d.add(size, position) if position < 0 else position
    return position


def _slice(c: Context) -> list[Shape]:
    result = list(c.shape(0))
    for part in slice_ranges(c):
        result[part.axis] = part.length
    return [result]


def _gather(c: Context) -> list[Shape]:
    data, indices = c.shape(0), c.shape(1)
    axis = axis_of(c.integer("axis", 0), len(data))
    return [[*data[:axis], *indices, *data[axis + 1 :]]]


def _gather_elements(c: Context) -> list[Shape]:
    return [c.shape(1)]


def _gather_nd(c: Context) -> list[Shape]:
    data, indices = c.shape(0), c.shape(1)
    last = indices[-1]
    if not isinstance(last, int):
        raise Unknown
    return [[*indices[:-1], *data[c.integer("batch_dims", 0) + last :]]]


def _transpose(c: Context) -> list[Shape]:
    shape = c.shape(0)
    return [[shape[i] for i in c.integers("perm", range(len(shape))[::-1])]]


def _reshape(c: Context) -> list[Shape]:
    shape, target = c.shape(0), list(c.content(1))
    keep = not c.integer("allowzero", 0)
    result = [shape[i] if keep and isinstance(dim, int) and dim == 0 else dim for i, dim in enumerate(target)]
    free = [i for i, dim in enumerate(result) if isinstance(dim, int) and dim == -1]
    if free:
        result[free[0]] = d.quotient(shape, [dim for i, dim in enumerate(result) if i != free[0]])
    return [result]


def _flatten(c: Context) -> list[Shape]:
    shape = c.shape(0)
    axis = axis_of(c.integer("axis", 1), len(shape))
    return [[d.product(shape[:axis]), d.product(shape[axis:])]]


def _squeeze(c: Context) -> list[Shape]:
    shape = c.shape(0)
    axes = {axis_of(a, len(shape)) for a in c.numbers(1)} if c.has(1) else {i for i, s in enumerate(shape) if s == 1}
    return [[dim for i, dim in enumerate(shape) if i not in axes]]


def _unsqueeze(c: Context) -> list[Shape]:
    shape = list(c.shape(0))
    axes = c.numbers(1)
    rank = len(shape) + len(axes)
    for axis in sorted(axis_of(a, rank) for a in axes):
        shape.insert(axis, 1)
    return [shape]


def _expand(c: Context) -> list[Shape]:
    return [d.broadcast([c.shape(0), list(c.content(1))])]


def _tile(c: Context) -> list[Shape]:
    return [[d.multiply(dim, times) for dim, times in zip(c.shape(0), c.content(1), strict=True)]]


def pad_amounts(c: Context) -> list[tuple[Dim, Dim]]:
    """(before, after) of every axis of a Pad."""
    rank = len(c.shape(0))
    pads = c.content(1)
    axes = [axis_of(a, rank) for a in c.numbers(3)] if c.has(3) else list(range(rank))
    amounts: list[tuple[Dim, Dim]] = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        amounts[axis] = (pads[i], pads[i + len(axes)])
    return amounts


def _pad(c: Context) -> list[Shape]:
    return [[d.add(d.add(dim, a), b) for dim, (a, b) in zip(c.shape(0), pad_amounts(c), strict=True)]]


def _depth_to_space(c: Context) -> list[Shape]:
    n, channels, h, w = c.shape(0)
    block = c.integer("blocksize", 1)
    return [[n, d.floor_divide(channels, block * block), d.multiply(h, block), d.multiply(w, block)]]


def _space_to_depth(c: Context) -> list[Shape]:
    n, channels, h, w = c.shape(0)
    block = c.integer("blocksize", 1)
    return [[n, d.multiply(channels, block * block), d.floor_divide(h, block), d.floor_divide(w, block)]]


def _constant_of_shape(c: Context) -> list[Shape]:
    return [list(c.content(0))]


def _range(c: Context) -> list[Shape]:
    start, limit, delta = (c.content(i)[0] for i in range(3))
    if not isinstance(delta, int):
        raise Unknown
    span = d.subtract(limit, start)
    return [[span if delta == 1 else d.floor_divide(d.add(span, delta - 1 if delta > 0 else delta + 1), delta)]]


def _shape(c: Context) -> list[Shape]:
    rank = len(c.shape(0))
    return [[len(range(rank)[c.integer("start", 0) : c.integer("end", rank)])]]


def _layer_norm(c: Context) -> list[Shape]:
    shape = c.shape(0)
    axis = axis_of(c.integer("axis", -1), len(shape))
    statistics = [*shape[:axis], *[1] * (len(shape) - axis)]
    return [shape, statistics, statistics][: len(c.node.outputs)]


def _attention(c: Context) -> list[Shape]:
    query, key, value = c.shape(0), c.shape(1), c.shape(2)
    past = c.shapes[4] if len(c.shapes) > 4 else None
    if len(query) == 4:
        total = d.add(key[2], past[2]) if past else key[2]
        output = [*query[:3], value[3]]
        present_key, present_value = [*key[:2], total, key[3]], [*value[:2], total, value[3]]
    else:
        heads, kv_heads = c.integer("q_num_heads", 0), c.integer("kv_num_heads", 0)
        if not heads or not kv_heads:
            raise Unknown
        total = d.add(key[1], past[2]) if past else key[1]
        width = d.floor_divide(value[2], kv_heads)
        output = [*query[:2], d.multiply(width, heads)]
        present_key = [key[0], kv_heads, total, d.floor_divide(key[2], kv_heads)]
        present_value = [key[0], kv_heads, total, width]
    if len(c.node.outputs) > 3:
        raise Unknown
    return [output, present_key, present_value][: len(c.node.outputs)]


def _one_hot(c: Context) -> list[Shape]:
    shape = list(c.shape(0))
    shape.insert(axis_of(c.integer("axis", -1), len(shape) + 1), c.content(1)[0])
    return [shape]


def _compress(c: Context) -> list[Shape]:
    shape = list(c.shape(0))
    condition = c.array(1)
    if "axis" not in c.node.attributes:
        return [[int(condition.astype(bool).sum())]]
    axis = axis_of(c.integer("axis", 0), len(shape))
    shape[axis] = int(condition.astype(bool).sum())
    return [shape]


def _einsum(c: Context) -> list[Shape]:
    shapes = [c.shape(i) for i in range(len(c.node.inputs))]
    try:
        terms, result = einsum_terms(c.text("equation", ""), [len(shape) for shape in shapes])
    except ValueError as error:
        raise Unknown from error
    sizes: dict[str, Dim] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for letter, dim in zip(term, shape, strict=True):
            if letter not in sizes or sizes[letter] == 1:
                sizes[letter] = dim
    return [[sizes[letter] for letter in result]]


def _top_k(c: Context) -> list[Shape]:
    shape = list(c.shape(0))
    shape[axis_of(c.integer("axis", -1), len(shape))] = c.content(1)[0]
    return [shape, shape]


def _stft(c: Context) -> list[Shape]:
    signal = c.shape(0)
    length = c.numbers(3)[0] if c.has(3) else c.shape(2)[0]
    if not isinstance(length, int):
        raise Unknown
    frames = d.add(d.floor_divide(d.subtract(signal[1], length), c.numbers(1)[0]), 1)
    return [[signal[0], frames, length // 2 + 1 if c.integer("onesided", 1) else length, 2]]


Rule = Callable[[Context], list[Shape]]

ELEMENTWISE_UNARY = frozenset(
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid "
    "HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Sigmoid Sign Sin Sinh "
    "Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu".split()
)
ELEMENTWISE_MANY = frozenset(
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min "
    "Mod Mul Or PRelu Pow Sub Sum Where Xor".split()
)

RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE_UNARY, _same),
    **dict.fromkeys(ELEMENTWISE_MANY, _broadcast),
    **dict.fromkeys(
        "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
        "ReduceSumSquare".split(),
        _reduce,
    ),
    **dict.fromkeys(
        "CastLike Clip CumSum Dropout GroupNormalization InstanceNormalization LogSoftmax "
        "RMSNormalization RotaryEmbedding ScatterElements ScatterND Softmax Trilu".split(),
        _same,
    ),
    "ArgMax": _arg_reduce,
    "ArgMin": _arg_reduce,
    "Attention": _attention,
    "AveragePool": pool,
    "BatchNormalization": lambda c: [c.shape(0), c.shape(3), c.shape(4)],
    "Compress": _compress,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "DepthToSpace": _depth_to_space,
    "Einsum": _einsum,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Gemm": _gemm,
    "GlobalAveragePool": global_pool,
    "GlobalMaxPool": global_pool,
    "LayerNormalization": _layer_norm,
    "LpPool": pool,
    "MatMul": _matmul,
    "MaxPool": pool,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Resize": resize,
    "Shape": _shape,
    "Size": lambda _: [[]],
    "Slice": _slice,
    "STFT": _stft,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "TopK": _top_k,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
