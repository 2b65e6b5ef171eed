"""Operators against onnxruntime; many in one graph, because a graph compiles as a whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest

from tests.lower.graph.harness import Arrays, check, make_model

RANDOM = np.random.default_rng(11)


def node(op_type: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return oh.make_node(op_type, inputs, [output], **attributes)


def floats(*shape: int, scale: float = 1.0) -> np.ndarray:
    return RANDOM.normal(0, scale, shape).astype(np.float32)


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


UNARY: dict[str, dict[str, Any]] = {
    **{
        name: {}
        for name in (
            "Abs Ceil Cos Erf Exp Floor HardSwish Mish Neg Relu Round Sigmoid Sign Sin Softplus Softsign Tanh".split()
        )
    },
    "Celu": {"alpha": 1.3},
    "Elu": {"alpha": 0.7},
    "Gelu": {"approximate": "tanh"},
    "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
    "LeakyRelu": {"alpha": 0.2},
    "Selu": {},
    "ThresholdedRelu": {"alpha": 0.4},
}


@pytest.mark.parametrize("operator", ["PRelu", "Where"])
def test_products_of_choices(operator: str) -> None:
    """Found by a random graph: TVM refused to compile the product."""
    inputs: dict[str, tuple[str, list[int | str]]] = {
        "flag": ("b", [7, 2, 2, 3]),
        "x": ("f", [7, 2, 2, 3]),
        "y": ("f", [2, 2, 3]),
        "z": ("f", [2, 1, 3]),
    }
    chosen = ["flag", "x", "y"] if operator == "Where" else ["x", "y"]
    nodes = [node(operator, chosen, "choice"), node("Mul", ["choice", "z"], "product")]
    feed = {
        "flag": RANDOM.random((7, 2, 2, 3)) < 0.5,
        "x": floats(7, 2, 2, 3),
        "y": floats(2, 2, 3),
        "z": floats(2, 1, 3),
    }
    check(make_model(nodes, inputs, {"product": "f"}), [feed])


def test_pointwise_convolutions_with_padding_behind() -> None:
    """Found by random graphs: a 1 x 1 kernel was taken to see every pixel once, the padding after the last was lost."""
    weights = {"w": floats(4, 3, 1), "w2": floats(4, 3, 1, 1)}
    nodes = [
        node("Conv", ["line", "w"], "y1", pads=[0, 1]),
        node("Conv", ["image", "w2"], "y2", pads=[0, 0, 0, 2]),
        node("Conv", ["image", "w2"], "y3", pads=[0, 0, 1, 0]),
    ]
    inputs: dict[str, tuple[str, list[int | str]]] = {"line": ("f", [2, 3, 6]), "image": ("f", [1, 3, 4, 5])}
    model = make_model(nodes, inputs, dict.fromkeys(("y1", "y2", "y3"), "f"), weights)
    check(model, [{"line": floats(2, 3, 6), "image": floats(1, 3, 4, 5)}])


def test_powers_of_negative_numbers() -> None:
    model = make_model([node("Pow", ["x", "y"], "z")], {"x": ("f", [12]), "y": ("f", [12])}, {"z": "f"})
    x = np.array([-2, -2, -2, -2, 2, 2, 0, 0, -1, -0.5, 3, -3], np.float32)
    y = np.array([2, 3, 0.5, -3, 0.5, -2, 2, 0, 1.5, -1, 0, 0], np.float32)
    check(model, [{"x": x, "y": y}])


def test_unary_operators() -> None:
    nodes = [node(name, ["x"], f"y_{name}", **attributes) for name, attributes in UNARY.items()]
    nodes += [node(name, ["positive"], f"y_{name}") for name in ("Log", "Sqrt", "Reciprocal")]
    outputs = {n.output[0]: "f" for n in nodes}
    model = make_model(nodes, {"x": ("f", [3, 7]), "positive": ("f", [9])}, outputs)
    check(model, [{"x": floats(3, 7, scale=3), "positive": np.abs(floats(9)) + 0.1}])


def test_binary_operators_broadcast() -> None:
    nodes = [
        node("Add", ["x", "row"], "add"),
        node("Sub", ["column", "x"], "sub"),
        node("Mul", ["x", "scalar"], "mul"),
        node("Div", ["x", "positive"], "div"),
        node("Max", ["x", "row", "scalar"], "max"),
        node("Min", ["x", "row"], "min"),
        node("Mean", ["x", "row", "column"], "mean"),
        node("Pow", ["positive", "x"], "pow"),
        node("PRelu", ["x", "row"], "prelu"),
        node("Mod", ["x", "positive"], "mod", fmod=1),
        node("Clip", ["x", "", "scalar"], "clip"),
        node("Sum", ["row", "column"], "sum"),
    ]
    inputs = {"x": ("f", [2, 5, "n"]), "positive": ("f", [2, 5, "n"]), "row": ("f", ["n"])}
    weights = {"column": floats(5, 1), "scalar": np.array(0.3, np.float32)}
    model = make_model(nodes, inputs, {n.output[0]: "f" for n in nodes}, weights)
    feeds: list[Arrays] = [
        {"x": floats(2, 5, n), "positive": np.abs(floats(2, 5, n)) + 0.2, "row": floats(n)} for n in (6, 4, 1)
    ]
    check(model, feeds, dims={"n": 6})


def test_logic_and_integers() -> None:
    nodes = [
        node("Less", ["x", "y"], "less"),
        node("GreaterOrEqual", ["x", "y"], "greater_equal"),
        node("Not", ["less"], "not"),
        node("And", ["less", "flag"], "and"),
        node("Or", ["less", "flag"], "or"),
        node("Xor", ["less", "flag"], "xor"),
        node("Where", ["flag", "x", "y"], "where"),
        node("Cast", ["x"], "as_integer", to=onnx.TensorProto.INT64),
        node("Cast", ["whole"], "as_float", to=onnx.TensorProto.FLOAT),
        node("Cast", ["whole"], "as_flag", to=onnx.TensorProto.BOOL),
        node("Add", ["whole", "as_integer"], "sum"),
        node("Mod", ["whole", "seven"], "remainder"),
        node("Equal", ["remainder", "three"], "equal"),
    ]
    kinds = {"where": "f", "as_float": "f", "as_integer": "i", "sum": "i", "remainder": "i"}
    outputs = {n.output[0]: kinds.get(n.output[0], "b") for n in nodes}
    shape = [4, 5]
    inputs = {"x": ("f", shape), "y": ("f", shape), "whole": ("i", shape), "flag": ("b", shape)}
    model = make_model(nodes, inputs, outputs, {"seven": integers(7), "three": integers(3)})
    feed: Arrays = {
        "x": floats(4, 5, scale=4),
        "y": floats(4, 5),
        "whole": RANDOM.integers(-20, 20, (4, 5)),
        "flag": RANDOM.integers(0, 2, (4, 5)).astype(bool),
    }
    check(model, [feed])


def test_reductions() -> None:
    nodes = []
    for name in "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare".split():
        source = "positive" if name == "LogSum" else "x"
        nodes.append(node(f"Reduce{name}", [source, "last"], f"last_{name}", keepdims=0))
        nodes.append(node(f"Reduce{name}", [source, "middle"], f"middle_{name}", keepdims=1))
    nodes.append(node("ReduceMean", ["x"], "all", keepdims=0))
    nodes += [node("ArgMax", ["x"], "argmax", axis=1), node("ArgMin", ["x"], "argmin", axis=-1, keepdims=0)]
    outputs = {n.output[0]: "i" if n.output[0].startswith("arg") else "f" for n in nodes}
    weights = {"last": integers(-1), "middle": integers(0, 1)}
    model = make_model(nodes, {"x": ("f", ["n", 6, 12]), "positive": ("f", ["n", 6, 12])}, outputs, weights)
    feeds: list[Arrays] = [{"x": floats(n, 6, 12, scale=2), "positive": np.abs(floats(n, 6, 12)) + 0.1} for n in (3, 1)]
    check(model, feeds, dims={"n": 3}, tolerance=2e-5)


@pytest.mark.parametrize("width", [2, 7, 8, 9, 16, 17])
def test_every_second_element(width: int) -> None:
    """Both halves, of floats and integers, up to the last element of memory."""
    weights = {
        "zero": integers(0),
        "first": integers(1),
        "end": integers(100),
        "axis": integers(-1),
        "two": integers(2),
    }
    nodes = [node("Cast", ["x"], "whole", to=6)]
    for source in ("x", "whole"):
        for start in ("zero", "first"):
            nodes.append(node("Slice", [source, start, "end", "axis", "two"], f"{source}_{start}"))
    outputs = {
        f"{source}_{start}": kind for source, kind in (("x", "f"), ("whole", "i4")) for start in ("zero", "first")
    }
    model = make_model(nodes, {"x": ("f", ["n", 3, width])}, outputs, weights)
    check(model, [{"x": floats(n, 3, width, scale=50)} for n in (1, 2)], dims={"n": 2})


def test_movement() -> None:
    weights = {
        "shape": integers(0, 4, 3, -1),
        "flat": integers(-1),
        "starts": integers(1, -1),
        "ends": integers(100, 0),
        "axes": integers(1, 2),
        "steps": integers(2, -2),
        "sizes": integers(2, 10),
        "times": integers(1, 2, 3),
        "pads": integers(0, 1, 2, 0, 3, -1),
        "edges": integers(0, 1, 2, 0, 0, 3),
        "one": integers(1),
        "target": integers(2, 1, 12, 6),
        "fill": np.array(1.5, np.float32),
    }
    nodes = [
        node("Reshape", ["x", "shape"], "reshape"),
        node("Transpose", ["reshape"], "transpose", perm=[0, 3, 1, 2]),
        node("Reshape", ["transpose", "flat"], "copied"),
        node("Slice", ["x", "starts", "ends", "axes", "steps"], "slice"),
        oh.make_node("Split", ["x", "sizes"], ["left", "right"], axis=1),
        node("Concat", ["right", "x", "left"], "concat", axis=1),
        node("Tile", ["x", "times"], "tile"),
        node("Pad", ["x", "pads", "fill"], "pad"),
        node("Pad", ["x", "edges"], "edge", mode="edge"),
        node("Pad", ["x", "edges"], "reflect", mode="reflect"),
        node("Unsqueeze", ["x", "one"], "unsqueeze"),
        node("Expand", ["unsqueeze", "target"], "expand"),
        node("Flatten", ["x"], "flatten", axis=2),
        node("Identity", ["x"], "identity"),
        node("DepthToSpace", ["image"], "space", blocksize=2),
        node("DepthToSpace", ["image"], "space_crd", blocksize=2, mode="CRD"),
        node("SpaceToDepth", ["image"], "depth", blocksize=2),
    ]
    outputs = {name: "f" for n in nodes for name in n.output}
    model = make_model(nodes, {"x": ("f", [2, 12, 6]), "image": ("f", [1, 8, 4, 6])}, outputs, weights)
    check(model, [{"x": floats(2, 12, 6), "image": floats(1, 8, 4, 6)}], tolerance=0.0)


def test_shapes_as_tensors() -> None:
    """Shape arithmetic that ends in an output, or decides what a kernel does."""
    nodes = [
        node("Shape", ["x"], "shape"),
        node("Gather", ["shape", "first"], "n"),
        node("Mul", ["shape", "two"], "double"),
        node("Concat", ["n", "three"], "target", axis=0),
        node("ConstantOfShape", ["target"], "zeros"),
        node("Concat", ["n", "minus"], "wanted", axis=0),
        node("Reshape", ["x", "wanted"], "rows"),
        node("Slice", ["table", "zero", "n"], "positions"),
        node("Gather", ["table", "ids"], "picked"),
        node("Squeeze", ["n"], "count"),
        node("Range", ["start", "count", "step"], "numbers"),
    ]
    outputs = {"shape": "i", "double": "i", "zeros": "f", "rows": "f", "positions": "f", "picked": "f", "numbers": "i"}
    weights = {
        "first": integers(0),
        "two": integers(2),
        "three": integers(3),
        "minus": integers(-1),
        "zero": integers(0),
        "start": np.array(-3, np.int64),
        "step": np.array(2, np.int64),
        "table": floats(8, 3),
    }
    model = make_model(nodes, {"x": ("f", ["n", 4]), "ids": ("i", ["n"])}, outputs, weights)
    feeds: list[Arrays] = [{"x": floats(n, 4), "ids": RANDOM.integers(-8, 8, n)} for n in (5, 2)]
    check(model, feeds, dims={"n": 5})


def test_matrix_products() -> None:
    nodes = [
        node("MatMul", ["a", "b"], "batched"),
        node("Transpose", ["b"], "bt", perm=[0, 2, 1]),
        node("MatMul", ["b", "a"], "other"),
        node("MatMul", ["bt", "bt2"], "transposed"),
        node("Transpose", ["a"], "bt2", perm=[0, 2, 1]),
        node("MatMul", ["a", "vector"], "by_vector"),
        node("MatMul", ["a", "weight"], "linear"),
        node("Add", ["linear", "bias"], "biased"),
        node("Tanh", ["biased"], "activated"),
        node("Add", ["activated", "same"], "residual"),
        node("Gemm", ["two", "weight", "bias"], "gemm", alpha=0.5, beta=2.0),
        node("Gemm", ["two", "other_weight"], "gemm_transposed", transB=1),
    ]
    nodes = [nodes[0], nodes[1], nodes[2], nodes[4], nodes[3], *nodes[5:]]
    outputs = dict.fromkeys(("batched", "other", "transposed", "by_vector", "residual", "gemm", "gemm_transposed"), "f")
    weights = {"weight": floats(9, 13), "bias": floats(13), "other_weight": floats(10, 9), "vector": floats(9)}
    inputs = {
        "a": ("f", ["n", 5, 9]),
        "b": ("f", ["n", 9, 5]),
        "same": ("f", ["n", 5, 13]),
        "two": ("f", [3, 9]),
    }
    model = make_model(nodes, inputs, outputs, weights)
    feeds: list[Arrays] = [
        {"a": floats(n, 5, 9), "b": floats(n, 9, 5), "same": floats(n, 5, 13), "two": floats(3, 9)} for n in (2, 1)
    ]
    check(model, feeds, dims={"n": 2})


def test_normalizations() -> None:
    nodes = [
        node("Softmax", ["x"], "softmax"),
        node("Softmax", ["x"], "softmax_middle", axis=1),
        node("LogSoftmax", ["x"], "log_softmax"),
        node("LayerNormalization", ["x", "scale", "shift"], "layer_norm", epsilon=1e-3),
        node("LayerNormalization", ["x", "scale2"], "layer_norm_2d", axis=1),
        node("RMSNormalization", ["x", "scale"], "rms_norm", epsilon=1e-3),
        node("InstanceNormalization", ["image", "channel", "channel_shift"], "instance_norm"),
        node("GroupNormalization", ["image", "channel", "channel_shift"], "group_norm", num_groups=2),
    ]
    weights = {
        "scale": floats(11),
        "shift": floats(11),
        "scale2": floats(5, 11),
        "channel": floats(6),
        "channel_shift": floats(6),
    }
    model = make_model(
        nodes, {"x": ("f", [3, 5, 11]), "image": ("f", [2, 6, 3, 4])}, {n.output[0]: "f" for n in nodes}, weights
    )
    check(model, [{"x": floats(3, 5, 11, scale=3), "image": floats(2, 6, 3, 4)}], tolerance=2e-5)


def test_convolutions() -> None:
    """Strides, dilations, paddings, groups, odd channel counts, one and two dimensions, activations."""
    cases: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
        ("pointwise", (9, 6, 1, 1), {}),
        ("strided_pointwise", (5, 6, 1, 1), {"strides": [2, 2]}),
        ("dense", (10, 6, 3, 3), {"pads": [1, 2, 0, 1], "strides": [2, 1]}),
        ("dilated", (4, 6, 3, 2), {"dilations": [2, 3], "pads": [2, 2, 2, 2]}),
        ("depthwise", (6, 1, 3, 3), {"group": 6, "pads": [1, 1, 1, 1]}),
        ("depthwise_strided", (6, 1, 5, 3), {"group": 6, "strides": [2, 3], "pads": [2, 0, 2, 1]}),
        ("depthwise_dilated", (6, 1, 3, 3), {"group": 6, "dilations": [2, 2], "pads": [2, 2, 2, 2]}),
        ("grouped", (8, 3, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
        ("multiplied", (12, 1, 3, 3), {"group": 6}),
    ]
    nodes, weights = [], {}
    activations = ["Relu", None, "Sigmoid", None, "HardSwish", "Relu", None, "Tanh", None]
    for (name, shape, attributes), activation in zip(cases, activations, strict=True):
        weights[f"{name}_weight"], weights[f"{name}_bias"] = floats(*shape, scale=0.4), floats(shape[0])
        nodes.append(node("Conv", ["image", f"{name}_weight", f"{name}_bias"], name, **attributes))
        if activation:
            nodes.append(node(activation, [name], f"{name}_activated"))
            if activation != "Sigmoid":
                nodes.append(node("Add", [f"{name}_activated", "shift"], f"{name}_shifted"))
    weights["shift"] = floats(1)
    weights["line_weight"] = floats(7, 5, 4)
    nodes.append(node("Conv", ["line", "line_weight"], "line_out", strides=[2], pads=[1, 2]))
    read = {name for n in nodes for name in n.input}
    outputs = {n.output[0]: "f" for n in nodes if n.output[0] not in read}
    model = make_model(nodes, {"image": ("f", ["n", 6, 9, 10]), "line": ("f", ["n", 5, 13])}, outputs, weights)
    feeds: list[Arrays] = [{"image": floats(n, 6, 9, 10), "line": floats(n, 5, 13)} for n in (2, 1)]
    check(model, feeds, dims={"n": 2})


def test_pools_and_resizes() -> None:
    weights = {
        "double": np.array([1, 1, 2, 2], np.float32),
        "uneven": np.array([1, 1, 1.7, 0.6], np.float32),
        "size": integers(1, 5, 9, 4),
    }
    half = {"coordinate_transformation_mode": "half_pixel"}
    floor = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    nodes = [
        node("MaxPool", ["x"], "max", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]),
        node("MaxPool", ["x"], "max_ceil", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
        node("AveragePool", ["x"], "average", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("AveragePool", ["x"], "counted", kernel_shape=[2, 3], pads=[1, 1, 0, 1], count_include_pad=1),
        node("GlobalAveragePool", ["x"], "global_average"),
        node("GlobalMaxPool", ["x"], "global_max"),
        node("Resize", ["x", "", "double"], "nearest", **floor),
        node("Resize", ["x", "", "uneven"], "linear", mode="linear", **half),
        node("Resize", ["x", "", "", "size"], "cubic", mode="cubic", cubic_coeff_a=-0.5, **half),
        node("Resize", ["x", "", "", "size"], "corners", mode="linear", coordinate_transformation_mode="align_corners"),
    ]
    model = make_model(nodes, {"x": ("f", [1, 5, 7, 8])}, {n.output[0]: "f" for n in nodes}, weights)
    check(model, [{"x": floats(1, 5, 7, 8)}])


def test_repeating_a_tensor_of_variable_size() -> None:
    """Nearest interpolation by whole factors needs no table, so the size may be open."""
    scales = {
        "image": np.array([1, 1, 2, 3], np.float32),
        "sequence": np.array([1, 1, 4], np.float32),
        "one_axis": np.array([3], np.float32),
    }
    half = {"coordinate_transformation_mode": "half_pixel"}
    floor = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    nodes = [
        node("Resize", ["x", "", "image"], "a", **floor),
        node("Resize", ["x", "", "image"], "b", **half),
        node("Resize", ["s", "", "sequence"], "c", **floor),
        node("Resize", ["x", "", "one_axis"], "e", axes=[3], **floor),
        node("Relu", ["a"], "f"),
    ]
    inputs: dict[str, Any] = {"x": ("f", ["n", 5, "h", "w"]), "s": ("f", ["n", 3, "w"])}
    model = make_model(nodes, inputs, {n.output[0]: "f" for n in nodes}, scales)
    feeds = [{"x": floats(n, 5, h, w), "s": floats(n, 3, w)} for n, h, w in ((1, 1, 1), (2, 3, 4), (1, 7, 5))]
    check(model, feeds, dims={"n": 2, "h": 7, "w": 5})


@pytest.mark.parametrize("masked", [False, True])
def test_attention(masked: bool) -> None:
    """Grouped heads, odd widths, different lengths; a mask over heads and queries, or a causal one."""
    mask = ["mask"] if masked else []
    nodes = [
        node("Attention", ["q", "k", "v", *mask], "packed", q_num_heads=4, kv_num_heads=2, scale=0.3),
        node("Attention", ["q4", "k4", "v4"], "spread", is_causal=0 if masked else 1, softcap=2.0),
    ]
    inputs: dict[str, Any] = {
        "q": ("f", ["n", "t", 4 * 6]),
        "k": ("f", ["n", "s", 2 * 6]),
        "v": ("f", ["n", "s", 2 * 5]),
        "q4": ("f", [1, 3, "t", 8]),
        "k4": ("f", [1, 3, "t", 8]),
        "v4": ("f", [1, 3, "t", 4]),
    }
    if masked:
        inputs["mask"] = ("f", ["n", 1, "t", "s"])
    model = make_model(nodes, inputs, {"packed": "f", "spread": "f"})
    feeds = []
    for n, t, s in ((2, 7, 9), (1, 1, 4)):
        feed: Arrays = {
            "q": floats(n, t, 24),
            "k": floats(n, s, 12),
            "v": floats(n, s, 10),
            "q4": floats(1, 3, t, 8),
            "k4": floats(1, 3, t, 8),
            "v4": floats(1, 3, t, 4),
        }
        if masked:
            feed["mask"] = np.where(RANDOM.random((n, 1, t, s)) < 0.3, -1e9, 0).astype(np.float32)
        feeds.append(feed)
    check(model, feeds, dims={"n": 2, "t": 7, "s": 9})


def test_gathers() -> None:
    nodes = [
        node("Gather", ["x", "ids"], "rows"),
        node("Gather", ["x", "ids"], "columns", axis=2),
        node("Gather", ["flags", "ids"], "bits"),
        node("GatherElements", ["x", "places"], "elements", axis=1),
    ]
    outputs = {"rows": "f", "columns": "f", "bits": "b", "elements": "f"}
    inputs = {"x": ("f", [4, 5, 6]), "ids": ("i", [2, 3]), "flags": ("b", [4]), "places": ("i", [2, 3, 6])}
    feed: Arrays = {
        "x": floats(4, 5, 6),
        "ids": RANDOM.integers(-4, 4, (2, 3)),
        "flags": np.array([True, False, True, True]),
        "places": RANDOM.integers(-5, 5, (2, 3, 6)),
    }
    check(make_model(nodes, inputs, outputs), [feed], tolerance=0.0)


@pytest.mark.parametrize("function", ["Log", "Softplus", "Acosh"])
def test_logarithm_on_one_side_of_a_choice(function: str) -> None:
    """As MPNet and T5 put distances into buckets: TVM lost track of the bounds of a variable in it."""
    nodes = [
        oh.make_node("Abs", ["x"], ["distance"]),
        oh.make_node("Less", ["distance", "eight"], ["near"]),
        oh.make_node("Cast", ["distance"], ["floats"], to=onnx.TensorProto.FLOAT),
        oh.make_node("Add", ["floats", "shift"], ["shifted"]),
        oh.make_node(function, ["shifted"], ["curved"]),
        oh.make_node("Mul", ["curved", "scale"], ["scaled"]),
        oh.make_node("Cast", ["scaled"], ["bucket"], to=onnx.TensorProto.INT64),
        oh.make_node("Min", ["bucket", "top"], ["kept"]),
        oh.make_node("Where", ["near", "distance", "kept"], ["out"]),
    ]
    weights = {"eight": np.int64(8), "top": np.int64(15), "shift": np.float32(1.25), "scale": np.float32(4.3)}
    model = make_model(nodes, {"x": ("i", (5, 7))}, {"out": "i"}, weights)
    check(model, [{"x": np.arange(-17, 18).reshape(5, 7)}])


@pytest.mark.parametrize("function", ["Elu", "Exp", "Sigmoid", "Tanh", "Erf", "Softplus", "Cos", "Mish"])
def test_curves_of_what_is_a_number(function: str) -> None:
    """TVM knows that x - x is 0, and failed on the variables of a polynomial that were bound to it twice."""
    nodes = [oh.make_node("Sub", ["x", "x"], ["zero"]), oh.make_node(function, ["zero"], ["y"])]
    check(make_model(nodes, {"x": ("f", [6, 3])}, {"y": "f"}), [{"x": floats(6, 3)}])


def test_a_float_made_of_a_choice_between_integers() -> None:
    nodes = [
        oh.make_node("Abs", ["x"], ["distance"]),
        oh.make_node("Cast", ["distance"], ["floats"], to=onnx.TensorProto.FLOAT),
        oh.make_node("Mul", ["floats", "y"], ["out"]),
        oh.make_node("Cast", ["distance"], ["some"], to=onnx.TensorProto.BOOL),
    ]
    feed = {"x": np.arange(-7, 8).reshape(5, 3), "y": floats(5, 1)}
    check(make_model(nodes, {"x": ("i", [5, 3]), "y": ("f", [5, 1])}, {"out": "f", "some": "b"}), [feed])
