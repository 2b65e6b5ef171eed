"""More operators for random graphs: what `tests.conformance.random_graphs` draws from besides its own.

Where a result jumps (rounding, comparing, choosing), the operator reads inputs of the graph alone, which are the same
to the bit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

if TYPE_CHECKING:
    from tests.conformance.random_graphs import Graph, Value

_INTEGERS = {
    "int8": onnx.TensorProto.INT8,
    "uint8": onnx.TensorProto.UINT8,
    "int32": onnx.TensorProto.INT32,
    "int64": onnx.TensorProto.INT64,
}
_FLOAT = onnx.TensorProto.FLOAT
_EQUATIONS = (
    *("ij,jk->ik", "bij,bjk->bik", "bij,bkj->bik", "bhid,bhjd->bhij", "bij,jk->bik", "ij->ji", "bij->bi", "ij,ij->i"),
    *("...i,ij->...j", "i,j->ij", "bij,bij->b", "abc,cd->adb", "bchw,co->bohw", "ij->", "nct,ncp->ntp"),
)


def pick(g: Graph, rank: int, most: int = 7) -> Value:
    """A value of the rank whose sides are at most `most`."""
    fitting = [value for value in g.values if len(value.shape) == rank and max(value.shape, default=1) <= most]
    if fitting:
        return fitting[int(g.random.integers(len(fitting)))]
    return g.input(tuple(int(size) for size in g.random.integers(1, min(most, 7) + 1, rank)))


def choose(g: Graph, *options: Any) -> Any:
    return options[int(g.random.integers(len(options)))]


def recurrent(g: Graph) -> None:
    value = pick(g, 3)
    steps, batch, width = value.shape
    kind = choose(g, "LSTM", "GRU", "RNN")
    direction = choose(g, "forward", "reverse", "bidirectional")
    hidden, gates, ways = int(g.random.integers(1, 6)), {"LSTM": 4, "GRU": 3, "RNN": 1}[kind], 1 + (direction[0] == "b")
    inputs = [value.name, g.floats(ways, gates * hidden, width), g.floats(ways, gates * hidden, hidden)]
    if g.random.random() < 0.6:
        inputs.append(g.floats(ways, 2 * gates * hidden))
        if g.random.random() < 0.5:
            inputs += ["", g.floats(ways, batch, hidden)]
            if kind == "LSTM":
                inputs.append(g.floats(ways, batch, hidden))
    extra = {"linear_before_reset": int(g.random.integers(2))} if kind == "GRU" else {}
    shapes = [(steps, ways, batch, hidden), (ways, batch, hidden), *([(ways, batch, hidden)] if kind == "LSTM" else [])]
    g.add_all(kind, inputs, shapes, hidden_size=hidden, direction=direction, **extra)


def einsum(g: Graph) -> None:
    equation = choose(g, *_EQUATIONS)
    terms, result = equation.split("->")
    operands = terms.split(",")
    rank = len(operands[0].replace("...", "xy" if len(operands) > 1 else "x"))
    value = pick(g, rank)
    sizes: dict[str, int] = {}
    letters = operands[0].replace("...", "*" * (rank - len(operands[0].replace("...", ""))))
    for letter, size in zip(letters, value.shape, strict=True):
        if letter != "*" and sizes.setdefault(letter, size) != size:
            return
    inputs = [value.name]
    for term in operands[1:]:
        for letter in term:
            sizes.setdefault(letter, int(g.random.integers(1, 6)))
        inputs.append(g.floats(*(sizes[letter] for letter in term)))
    spread = value.shape[: letters.count("*")]
    shape = (*(spread if "..." in result else ()), *(sizes[letter] for letter in result.replace("...", "")))
    g.add("Einsum", inputs, shape, equation=equation)


def scatter(g: Graph) -> None:
    value = pick(g, int(g.random.integers(1, 4)))
    rank = len(value.shape)
    kind = choose(g, "ScatterElements", "ScatterND", "GatherElements", "GatherND")
    axis = int(g.random.integers(-rank, rank))
    size = value.shape[axis]
    count = int(g.random.integers(1, size + 1))
    places = g.random.permutation(size)[:count]
    if kind in ("ScatterElements", "GatherElements"):
        shape = list(value.shape)
        shape[axis] = count
        turned = np.moveaxis(np.broadcast_to(places, (*np.delete(shape, axis % rank), count)), -1, axis % rank)
        index = g.weight(np.where(g.random.random(shape) < 0.3, turned - size, turned).astype(np.int64))
        if kind == "GatherElements":
            g.add(kind, [value.name, index], tuple(shape), axis=axis)
            return
        reduction = choose(g, "none", "add", "mul", "max", "min")
        g.add(kind, [value.name, index, g.floats(*shape)], value.shape, axis=axis, reduction=reduction)
        return
    first = g.random.permutation(value.shape[0])[: int(g.random.integers(1, value.shape[0] + 1))]
    index = g.weight(first[:, None].astype(np.int64))
    if kind == "GatherND":
        g.add(kind, [value.name, index], (len(first), *value.shape[1:]))
        return
    reduction = choose(g, "none", "add", "mul", "max", "min")
    g.add(kind, [value.name, index, g.floats(len(first), *value.shape[1:])], value.shape, reduction=reduction)


def top_k(g: Graph) -> None:
    value = g.pick()
    if not value.shape:
        return
    axis = g.axis(value)
    shape = list(value.shape)
    shape[axis] = int(g.random.integers(1, shape[axis] + 1))
    largest = int(g.random.integers(2))
    g.add("TopK", [value.name, g.integers(shape[axis])], tuple(shape), outputs=2, axis=axis, largest=largest)


def computed_shape(g: Graph) -> None:
    """A shape that the graph itself reads off a value."""
    value = pick(g, int(g.random.integers(2, 4)))
    whole = g.node("Shape", [value.name])
    first = g.node("Slice", [whole, g.integers(0), g.integers(1)])
    kind = choose(g, "Reshape", "Expand", "Zeros", "Range", "Tile")
    if kind == "Reshape":
        g.add(
            "Reshape",
            [value.name, g.node("Concat", [first, g.integers(-1)], axis=0)],
            (value.shape[0], math.prod(value.shape[1:])),
        )
    elif kind == "Expand":
        count = int(g.random.integers(1, 4))
        target = g.node("Concat", [g.integers(count), whole], axis=0)
        g.add("Expand", [value.name, target], (count, *value.shape))
    elif kind == "Tile":
        repeats = [int(n) for n in g.random.integers(1, 3, len(value.shape))]
        g.add(
            "Tile",
            [value.name, g.integers(*repeats)],
            tuple(n * size for n, size in zip(repeats, value.shape, strict=True)),
        )
    elif kind == "Zeros":
        ones = g.node("ConstantOfShape", [whole], value=onnx.numpy_helper.from_array(np.ones(1, np.float32)))
        g.add("Add", [value.name, ones], value.shape)
    else:
        count = g.node("Squeeze", [first, g.integers(0)])
        scalars = [g.weight(np.array(number, np.int64)) for number in (0, 1)]
        floats = g.node("Cast", [g.node("Range", [scalars[0], count, scalars[1]])], to=_FLOAT)
        column = g.node("Reshape", [floats, g.integers(-1, *[1] * (len(value.shape) - 1))])
        g.add("Mul", [value.name, column], value.shape)


def quantized(g: Graph) -> None:
    """Codes of an input, multiplied with codes; scales for all, per row or per block."""
    value = g.input((int(g.random.integers(1, 6)), 2 * int(g.random.integers(1, 8))))
    rows, width = value.shape
    outputs = int(g.random.integers(1, 9))
    kind = choose(g, "qdq", "integer", "dynamic", "blocked", "unsigned")
    codes = g.random.integers(-127, 128, (width, outputs)).astype(np.int8)
    scale, zero = g.weight(np.float32(0.02)), g.weight(np.int8(g.random.integers(-9, 10)))
    if kind == "blocked":
        scales = g.weight(g.random.uniform(0.01, 0.02, (width // 2, outputs)).astype(np.float32))
        weight = g.node("DequantizeLinear", [g.weight(codes), scales], axis=0, block_size=2)
        g.add("MatMul", [value.name, weight], (rows, outputs))
        return
    scales = g.weight(g.random.uniform(0.01, 0.02, outputs).astype(np.float32))
    if kind == "dynamic":
        parts = g.nodes_of("DynamicQuantizeLinear", [value.name], 3)
        product = g.node("MatMulInteger", [parts[0], g.weight(codes), parts[2]])
        floats = g.node("Mul", [g.node("Cast", [product], to=_FLOAT), parts[1]])
        g.add("Mul", [floats, scales], (rows, outputs))
        return
    if kind == "unsigned":
        zero = g.weight(np.uint8(g.random.integers(100, 140)))
    taken = g.node("QuantizeLinear", [value.name, scale, zero])
    if kind == "integer":
        product = g.node("MatMulInteger", [taken, g.weight(codes), zero])
        g.add("Mul", [g.node("Cast", [product], to=_FLOAT), scales], (rows, outputs))
        return
    weight = g.node("DequantizeLinear", [g.weight(codes), scales, g.weight(np.zeros(outputs, np.int8))], axis=1)
    g.add("MatMul", [g.node("DequantizeLinear", [taken, scale, zero]), weight], (rows, outputs))


def quantized_convolution(g: Graph) -> None:
    value = g.input((1, int(g.random.integers(1, 5)), int(g.random.integers(3, 8)), int(g.random.integers(3, 8))))
    channels, group = value.shape[1], choose(g, 1, value.shape[1])
    outputs = group * int(g.random.integers(1, 4))
    codes = g.weight(g.random.integers(-127, 128, (outputs, channels // group, 3, 3)).astype(np.int8))
    scale, zero = g.weight(np.float32(0.02)), g.weight(np.uint8(g.random.integers(100, 140)))
    pads = [int(n) for n in g.random.integers(0, 2, 4)]
    shape = (1, outputs, value.shape[2] + pads[0] + pads[2] - 2, value.shape[3] + pads[1] + pads[3] - 2)
    taken = g.node("QuantizeLinear", [value.name, scale, zero])
    if g.random.random() < 0.5:
        product = g.node("ConvInteger", [taken, codes, zero], pads=pads, group=group)
        g.add("Cast", [product], shape, to=_FLOAT)
        return
    scales = g.weight(g.random.uniform(0.01, 0.02, outputs).astype(np.float32))
    weight = g.node("DequantizeLinear", [codes, scales, g.weight(np.zeros(outputs, np.int8))], axis=0)
    g.add("Conv", [g.node("DequantizeLinear", [taken, scale, zero]), weight], shape, pads=pads, group=group)


def choice(g: Graph) -> None:
    """Where and comparisons with broadcasting on every side; the choice depends on an input alone."""
    value = pick(g, int(g.random.integers(1, 4)))
    decided = g.input(tuple(choose(g, 1, size) for size in value.shape))
    mask = g.node(choose(g, "Greater", "Less", "GreaterOrEqual"), [decided.name, g.weight(np.float32(0.25))])
    if g.random.random() < 0.3:
        mask = g.node(choose(g, "And", "Or", "Xor"), [mask, g.weight(g.random.random(decided.shape) < 0.5)])
    if g.random.random() < 0.3:
        mask = g.node("Not", [mask])
    other = g.floats(*value.shape[int(g.random.integers(len(value.shape))) :])
    pair = [value.name, other] if g.random.random() < 0.5 else [other, value.name]
    g.add("Where", [mask, *pair], value.shape)


def integers(g: Graph) -> None:
    """A few steps in a kind of integers, back to floats."""
    kind = choose(g, *_INTEGERS)
    shape = tuple(int(size) for size in g.random.integers(1, 7, int(g.random.integers(1, 4))))
    low = 0 if kind == "uint8" else -9
    name = g.integer_input(g.random.integers(low, 10, shape).astype(kind))
    for _ in range(int(g.random.integers(1, 5))):
        step = choose(
            g,
            "Add",
            "Mul",
            "Sub",
            "Max",
            "Min",
            "Div",
            "Mod",
            "Abs",
            "Neg",
            "Sign",
            "Clip",
            "ReduceSum",
            "Where",
            "CumSum",
        )
        if step in ("Max", "Min", "CumSum", "Neg", "ReduceSum", "Abs", "Sign", "Where") and kind in ("int8", "uint8"):
            step = "Add"  # what onnxruntime has of them is patchy
        operand = g.weight(np.asarray(g.random.integers(1, 6, shape[int(g.random.integers(len(shape))) :]), kind))
        if step in ("Add", "Mul", "Sub", "Max", "Min", "Div", "Mod"):
            if kind == "uint8" and step == "Sub":
                continue
            name = g.node(step, [name, operand])
        elif step == "Clip":
            name = g.node(step, [name, g.weight(np.asarray(1, kind)), g.weight(np.asarray(7, kind))])
        elif step == "ReduceSum":
            name = g.node(step, [name, g.integers(-1)], keepdims=1)
            shape = (*shape[:-1], 1)
        elif step == "CumSum":
            name = g.node(step, [name, g.weight(np.array(0, np.int64))])
        elif step == "Where":
            name = g.node(step, [g.node("Less", [name, operand]), name, operand])
        else:
            name = g.node(step, [name])
    g.add("Cast", [name], tuple(shape), to=_FLOAT)


def split(g: Graph) -> None:
    value = g.pick()
    if not value.shape:
        return
    axis = g.axis(value)
    size = value.shape[axis]
    first = int(g.random.integers(1, size + 1))
    sizes = [first, size - first] if first < size else [size]
    shapes = []
    for part in sizes:
        shape = list(value.shape)
        shape[axis] = part
        shapes.append(tuple(shape))
    g.add_all("Split", [value.name, g.integers(*sizes)], shapes, axis=axis)


def attention(g: Graph) -> None:
    """Heads by reshaping and transposing, scaled before or after, with a mask or none, queries of fewer heads' keys."""
    batch, steps, heads, width = (int(n) for n in g.random.integers(1, 5, 4))
    value = next((v for v in g.values if v.shape == (batch, steps, heads * width)), None) or g.input(
        (batch, steps, heads * width)
    )
    groups = choose(g, *(n for n in range(1, heads + 1) if heads % n == 0))

    def project(count: int) -> str:
        flat = g.node("MatMul", [value.name, g.floats(heads * width, count * width)])
        split_ = g.node("Reshape", [flat, g.integers(batch, steps, count, width)])
        return g.node("Transpose", [split_], perm=[0, 2, 1, 3])

    query, keys, values = project(heads), project(groups), project(groups)
    if groups < heads:
        keys, values = (_repeat(g, name, (batch, groups, steps, width), heads // groups) for name in (keys, values))
    scale = g.weight(np.float32(width**-0.5))
    if g.random.random() < 0.5:
        query = g.node("Mul", [query, scale])
    scores = g.node("MatMul", [query, g.node("Transpose", [keys], perm=[0, 1, 3, 2])])
    form = choose(g, "scale", "divide", "none")
    if form != "none":
        scores = g.node(
            *(("Mul", [scores, scale]) if form == "scale" else ("Div", [scores, g.weight(np.float32(width**0.5))]))
        )
    if g.random.random() < 0.6:
        causal = np.where(np.tri(steps, dtype=np.bool_), 0.0, -1e4).astype(np.float32)
        scores = g.node("Add", [scores, g.weight(causal) if g.random.random() < 0.6 else g.floats(batch, 1, 1, steps)])
    mixed = g.node("MatMul", [g.node("Softmax", [scores], axis=-1), values])
    merged = g.node("Transpose", [mixed], perm=[0, 2, 1, 3])
    g.add("Reshape", [merged, g.integers(batch, steps, heads * width)], (batch, steps, heads * width))


def _repeat(g: Graph, name: str, shape: tuple[int, int, int, int], times: int) -> str:
    """Each head `times` times, as exports of grouped attention write it."""
    batch, groups, steps, width = shape
    wide = g.node("Unsqueeze", [name, g.integers(2)])
    wide = g.node("Expand", [wide, g.integers(batch, groups, times, steps, width)])
    return g.node("Reshape", [wide, g.integers(batch, groups * times, steps, width)])


def norm(g: Graph) -> None:
    """Norms by one operator, and as exports write them out."""
    kind = choose(
        g, "layer", "rms", "RMSNormalization", "InstanceNormalization", "GroupNormalization", "BatchNormalization"
    )
    if kind in ("layer", "rms", "RMSNormalization"):
        value = pick(g, int(g.random.integers(2, 5)))
        width = value.shape[-1]
        if width < 2:
            return
        scale = g.floats(width)
        if kind == "RMSNormalization":
            g.add(kind, [value.name, scale], value.shape, axis=-1, epsilon=0.1)
            return
        centred = value.name
        if kind == "layer":
            centred = g.node("Sub", [value.name, g.node("ReduceMean", [value.name, g.integers(-1)], keepdims=1)])
        square = (
            g.node("Pow", [centred, g.weight(np.float32(2))])
            if g.random.random() < 0.5
            else g.node("Mul", [centred, centred])
        )
        mean = g.node("ReduceMean", [square, g.integers(-1)], keepdims=1)
        root = g.node("Sqrt", [g.node("Add", [mean, g.weight(np.float32(0.1))])])
        if g.random.random() < 0.5:
            result = g.node("Div", [centred, root])
        else:
            result = g.node("Mul", [centred, g.node("Reciprocal", [root])])
        g.add("Mul", [result, scale], value.shape)
        return
    value = pick(g, int(g.random.integers(3, 5)))
    channels = value.shape[1]
    if math.prod(value.shape[2:]) < 2:
        return
    scale, bias = g.floats(channels), g.floats(channels)
    if kind == "BatchNormalization":
        inputs = [scale, bias, g.floats(channels), g.weight(g.random.uniform(0.5, 2, channels).astype(np.float32))]
        g.add(kind, [value.name, *inputs], value.shape, epsilon=0.01)
    elif kind == "InstanceNormalization":
        g.add(kind, [value.name, scale, bias], value.shape, epsilon=0.1)
    else:
        groups = choose(g, *(n for n in range(1, channels + 1) if channels % n == 0))
        g.add(kind, [value.name, scale, bias], value.shape, num_groups=groups, epsilon=0.1)


def convolution(g: Graph) -> None:
    """Dilated, depthwise, grouped, padded by rule; and transposed."""
    value = pick(g, int(g.random.integers(3, 6)), 6)
    channels, spatial = value.shape[1], value.shape[2:]
    dims = len(spatial)
    group = choose(g, *(n for n in range(1, channels + 1) if channels % n == 0))
    kernel, strides, dilations = ([int(n) for n in g.random.integers(1, most, dims)] for most in (4, 3, 3))
    each = int(g.random.integers(1, 4))
    bias = g.random.random() < 0.5
    if g.random.random() < 0.5:
        extra = [int(g.random.integers(0, max(1, min(step, 2)))) for step in strides]
        pads = [int(n) for n in g.random.integers(0, 2, 2 * dims)]
        sizes = [
            strides[i] * (size - 1) + extra[i] + (kernel[i] - 1) * dilations[i] + 1 - pads[i] - pads[dims + i]
            for i, size in enumerate(spatial)
        ]
        if min(sizes) < 1:
            return
        inputs = [value.name, g.floats(channels, each, *kernel), *([g.floats(each * group)] if bias else [])]
        settings = {"strides": strides, "dilations": dilations, "pads": pads, "output_padding": extra, "group": group}
        g.add("ConvTranspose", inputs, (value.shape[0], each * group, *sizes), **settings)
        return
    inputs = [
        value.name,
        g.floats(each * group, channels // group, *kernel),
        *([g.floats(each * group)] if bias else []),
    ]
    rule = choose(g, "SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET")
    reach = [(kernel[i] - 1) * dilations[i] + 1 for i in range(dims)]
    padding: dict[str, Any] = {"auto_pad": rule}
    if rule.startswith("SAME"):
        if any(d > 1 for d in dilations):
            dilations = [1] * dims
        sizes = [-(-size // strides[i]) for i, size in enumerate(spatial)]
    else:
        pads = [0] * (2 * dims) if rule == "VALID" else [int(n) for n in g.random.integers(0, 3, 2 * dims)]
        sizes = [(size + pads[i] + pads[dims + i] - reach[i]) // strides[i] + 1 for i, size in enumerate(spatial)]
        if min(sizes) < 1:
            return
        if rule == "NOTSET":
            padding = {"pads": pads}
    g.add(
        "Conv",
        inputs,
        (value.shape[0], each * group, *sizes),
        strides=strides,
        dilations=dilations,
        group=group,
        **padding,
    )


def resize(g: Graph) -> None:
    value = pick(g, choose(g, 3, 4))
    spatial = len(value.shape) - 2
    mode = choose(g, "nearest", "linear", "cubic") if spatial == 2 else choose(g, "nearest", "linear")
    where = choose(g, "half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")
    extra = {"nearest_mode": choose(g, "floor", "round_prefer_floor", "ceil")} if mode == "nearest" else {}
    sizes = [int(n) for n in g.random.integers(1, 10, spatial)]
    inputs = [value.name, "", "", g.integers(*value.shape[:2], *sizes)]
    g.add("Resize", inputs, (*value.shape[:2], *sizes), mode=mode, coordinate_transformation_mode=where, **extra)


def moved(g: Graph) -> None:
    """Elements go elsewhere."""
    value = pick(g, 4)
    n, c, h, w = value.shape
    kind = choose(g, "DepthToSpace", "SpaceToDepth", "Flatten", "Squeeze", "Unsqueeze", "ReverseSequence", "Reflect")
    if kind == "DepthToSpace" and c % 4 == 0:
        g.add(kind, [value.name], (n, c // 4, 2 * h, 2 * w), blocksize=2, mode=choose(g, "DCR", "CRD"))
    elif kind == "SpaceToDepth" and h % 2 == 0 and w % 2 == 0:
        g.add(kind, [value.name], (n, 4 * c, h // 2, w // 2), blocksize=2)
    elif kind == "Flatten":
        axis = int(g.random.integers(5))
        g.add(kind, [value.name], (math.prod(value.shape[:axis]), math.prod(value.shape[axis:])), axis=axis)
    elif kind == "Squeeze":
        ones = [i for i, size in enumerate(value.shape) if size == 1]
        if ones:
            g.add(kind, [value.name, g.integers(*ones)], tuple(size for size in value.shape if size != 1))
    elif kind == "Unsqueeze":
        g.add(kind, [value.name, g.integers(-1, 1)], (n, 1, c, h, w, 1))
    elif kind == "ReverseSequence":
        lengths = g.weight(g.random.integers(1, n + 1, c).astype(np.int64))
        g.add(kind, [value.name, lengths], value.shape, batch_axis=1, time_axis=0)
    elif kind == "Reflect" and h > 1 and w > 1:
        g.add("Pad", [value.name, g.integers(0, 0, 1, 0, 0, 0, 0, 1)], (n, c, h + 1, w + 1), mode="reflect")


def pooled(g: Graph) -> None:
    value = pick(g, int(g.random.integers(3, 6)), 6)
    spatial = value.shape[2:]
    kind = choose(g, "AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool", "LpPool")
    if kind.startswith("Global"):
        g.add(kind, [value.name], (*value.shape[:2], *[1] * len(spatial)))
        return
    kernel = [int(g.random.integers(1, min(3, size) + 1)) for size in spatial]
    pads = [int(g.random.integers(0, k)) for k in kernel * 2]
    strides = [int(n) for n in g.random.integers(1, 3, len(spatial))]
    sizes = [(size + pads[i] + pads[len(spatial) + i] - kernel[i]) // strides[i] + 1 for i, size in enumerate(spatial)]
    extra = {"count_include_pad": int(g.random.integers(2))} if kind == "AveragePool" else {}
    g.add(kind, [value.name], (*value.shape[:2], *sizes), kernel_shape=kernel, pads=pads, strides=strides, **extra)


def curved(g: Graph) -> None:
    """Elementwise functions that need their arguments in a range."""
    value = g.pick()
    kind = choose(
        g,
        "Sqrt",
        "Log",
        "Exp",
        "Pow",
        "Reciprocal",
        "Div",
        "Celu",
        "Selu",
        "HardSwish",
        "PRelu",
        "Clip",
        "Atan",
        "Asinh",
        "Sinh",
    )
    if kind in ("Celu", "Selu", "HardSwish", "Atan", "Asinh"):
        g.add(kind, [value.name], value.shape)
    elif kind == "PRelu":
        g.add(kind, [value.name, g.floats(*value.shape[-1:])], value.shape)
    elif kind == "Clip":
        g.add(kind, [value.name, "", g.weight(np.float32(0.5))], value.shape)
    elif kind in ("Exp", "Sinh"):
        bounded = g.node("Clip", [value.name, g.weight(np.float32(-3)), g.weight(np.float32(3))])
        g.add(kind, [bounded], value.shape)
    else:
        positive = g.node("Add", [g.node("Abs", [value.name]), g.weight(np.float32(0.5))])
        if kind == "Pow":
            g.add(kind, [positive, g.weight(np.float32(choose(g, 0.5, 2.0, 3.0, -1.0, 1.5)))], value.shape)
        elif kind == "Div":
            g.add(kind, [g.floats(*value.shape[1:]), positive], value.shape)
        else:
            g.add(kind, [positive], value.shape)


def one_hot(g: Graph) -> None:
    shape = tuple(int(size) for size in g.random.integers(1, 5, int(g.random.integers(1, 3))))
    depth = int(g.random.integers(2, 6))
    places = g.integer_input(g.random.integers(-depth, depth, shape).astype(np.int64))
    values = g.weight(np.array([-0.5, 1.5], np.float32))
    axis = choose(g, -1, 0)
    result = (*shape, depth) if axis == -1 else (depth, *shape)
    g.add("OneHot", [places, g.weight(np.array(depth, np.int64)), values], result, axis=axis)


MAKERS = (
    *(recurrent, einsum, scatter, top_k, computed_shape, quantized, quantized_convolution, choice, integers, split),
    *(attention, attention, norm, norm, convolution, convolution, resize, moved, pooled, curved, one_hot),
)
