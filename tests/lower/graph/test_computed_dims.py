"""Shapes, axes and counts that follow from values: computed while running, checked, and the same as onnxruntime's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest

from edgec import bundle, profiles
from edgec.compress import compress
from edgec.errors import RunError, UsageError
from edgec.ir.model import ModelIR
from edgec.lower.wasm import lower
from edgec.passes import simplify
from edgec.plan import make_plan
from edgec.run import Model, load
from tests.lower.graph.harness import Arrays, assert_close, make_model
from tests.passes.graphs import run

RANDOM = np.random.default_rng(17)


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """`-` stands for an input that is left out."""
    return oh.make_node(op_type, [n if n != "-" else "" for n in inputs.split()], outputs.split(), **attributes)


def floats(*shape: int) -> np.ndarray:
    return RANDOM.normal(0, 1, shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@contextmanager
def compiled(model: ModelIR, folder: Path, dims: Mapping[str, int] | None = None, threads: int = 1) -> Iterator[Model]:
    source = simplify(model)
    plan = make_plan(source, profiles.load("node-server"), precision="float32", max_dims=dims)
    variant = "simd128-threads" if threads > 1 else "simd128"
    plan = replace(plan, variants=(variant,) if threads == 1 else ("simd128", variant), max_threads=threads)
    lowered = lower(compress(source, plan))
    written = bundle.write(lowered, model=source, plan=plan, accuracy={}, out=folder / f"{threads}.edgec")
    with load(written, variant=variant, threads=threads) as loaded:
        yield loaded


def check(
    model: ModelIR,
    folder: Path,
    feeds: Sequence[Arrays],
    *,
    dims: Mapping[str, int] | None = None,
    threads: Sequence[int] = (1,),
) -> None:
    for number in threads:
        with compiled(model, folder, dims, number) as loaded:
            for given in feeds:
                feed = {name: np.asarray(value) for name, value in given.items()}
                got = list(loaded.run(feed).values())
                assert_close(run(model.model, feed), got, 1e-5)


def one(op_type: str, inputs: Mapping[str, tuple[str, list[Any]]], kind: str = "f", **attributes: Any) -> ModelIR:
    """One operator between two others, so that nothing is an output's own memory."""
    nodes = [node("Neg", "x", "n"), node(op_type, "n " + " ".join(list(inputs)[1:]), "m", **attributes)]
    return make_model([*nodes, node("Abs", "m", "y")], inputs, {"y": kind})


def test_reshape(tmp_path: Path) -> None:
    model = one("Reshape", {"x": ("f", ["n", 6]), "s": ("i", [3])})
    feeds = [{"x": floats(n, 6), "s": s} for n, s in ((4, ints(2, 3, 4)), (5, ints(0, -1, 2)), (2, ints(1, 12, 1)))]
    check(model, tmp_path, feeds, dims={"n": 5}, threads=(1, 3))


def test_axes_that_appear_and_vanish(tmp_path: Path) -> None:
    for op_type, shapes in (
        ("Squeeze", [(ints(0, 2), (1, 3, 1)), (ints(-2, 0), (1, 1, 5))]),
        ("Unsqueeze", [(ints(0, 3), (2, 3, 4)), (ints(-1, 1), (2, 3, 4))]),
    ):
        model = one(op_type, {"x": ("f", ["a", "b", "c"]), "s": ("i", [2])})
        feeds = [{"x": floats(*shape), "s": axes} for axes, shape in shapes]
        check(model, tmp_path / op_type, feeds, dims={"a": 2, "b": 3, "c": 5})


@pytest.mark.parametrize("axes", [[-1, 0], None])
def test_slice(axes: list[int] | None, tmp_path: Path) -> None:
    inputs = {"x": ("f", ["n", 3, 7]), "b": ("i", [2]), "e": ("i", [2]), "a": ("i", [2]), "t": ("i", [2])}
    far = 2**63 - 1
    cuts = [
        ([1, -2], [far, far], [2, 1]),
        ([-1, 5], [-far, 0], [-1, -2]),
        ([0, 9], [-1, 20], [3, 1]),
        ([5, 5], [1, 5], [1, 1]),
    ]
    feeds = [{"x": floats(4, 3, 7), "b": ints(*b), "e": ints(*e), "a": ints(2, 0), "t": ints(*t)} for b, e, t in cuts]
    if axes is None:
        check(one("Slice", inputs), tmp_path, feeds, dims={"n": 4})
        return
    known = {name: value for name, value in inputs.items() if name != "a"}
    nodes = [node("Slice", "x b e a t", "m"), node("Abs", "m", "y")]
    model = make_model(nodes, known, {"y": "f"}, {"a": ints(*axes)})
    check(model, tmp_path, [{k: v for k, v in feed.items() if k != "a"} for feed in feeds], dims={"n": 4})


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_pad(mode: str, tmp_path: Path) -> None:
    model = one("Pad", {"x": ("f", [3, "n"]), "p": ("i", [4])}, mode=mode)
    amounts = [ints(0, 1, 2, 3), ints(1, 0, 0, 2)] + ([ints(-1, 2, 0, -3)] if mode == "constant" else [])
    dims = {"n": 5, "m.dim0": 8, "m.dim1": 12}
    check(model, tmp_path, [{"x": floats(3, 5), "p": p} for p in amounts], dims=dims, threads=(1, 2))


def test_pad_of_named_axes_with_a_value(tmp_path: Path) -> None:
    inputs = {"x": ("f", [2, 3, 4]), "p": ("i", [2]), "v": ("f", []), "a": ("i", [1])}
    feeds = [{"x": floats(2, 3, 4), "p": ints(1, 2), "v": np.float32(7), "a": ints(axis)} for axis in (0, -1)]
    check(one("Pad", inputs), tmp_path, feeds, dims=dict.fromkeys(("m.dim0", "m.dim1", "m.dim2"), 7))


def test_expand_tile_and_constants(tmp_path: Path) -> None:
    nodes = [
        node("Expand", "x s", "e"),
        node("Tile", "x t", "r"),
        node("ConstantOfShape", "s", "c", value=oh.make_tensor("v", 1, [1], [2.5])),
        node("Add", "e c", "y"),
        node("Abs", "r", "z"),
    ]
    model = make_model(nodes, {"x": ("f", [3, 1]), "s": ("i", [3]), "t": ("i", [2])}, {"y": "f", "z": "f"})
    feeds = [
        {"x": floats(3, 1), "s": ints(2, 3, 5), "t": ints(2, 3)},
        {"x": floats(3, 1), "s": ints(1, 3, 1), "t": ints(1, 4)},
    ]
    sizes = {"e.dim0": 2, "e.dim2": 5, "c.dim0": 2, "c.dim1": 3, "c.dim2": 5, "r.dim0": 6, "r.dim1": 4}
    check(model, tmp_path, feeds, dims=sizes, threads=(1, 2))


@pytest.mark.parametrize(("kind", "dtype"), [("i", np.int64), ("f", np.float32), ("i4", np.int32), ("d", np.float64)])
def test_range(kind: str, dtype: type, tmp_path: Path) -> None:
    nodes = [node("Range", "a b c", "m"), node("Neg", "m", "y")]
    model = make_model(nodes, {name: (kind, []) for name in "abc"}, {"y": kind})
    feeds = [dict(zip("abc", map(dtype, v), strict=True)) for v in ((2, 11, 3), (7, -4, -2), (3, 3, 1), (5, 2, 1))]
    check(model, tmp_path, feeds, dims={"m.dim0": 6})


def test_split(tmp_path: Path) -> None:
    nodes = [node("Split", "x s", "a b", axis=1), node("Neg", "a", "y"), node("ReduceSum", "b", "z", keepdims=0)]
    model = make_model(nodes, {"x": ("f", [2, 7]), "s": ("i", [2])}, {"y": "f", "z": "f"})
    check(model, tmp_path, [{"x": floats(2, 7), "s": ints(*s)} for s in ((3, 4), (7, 0), (1, 6))])


def test_top_k_and_one_hot(tmp_path: Path) -> None:
    nodes = [node("TopK", "x k", "v i", axis=0), node("OneHot", "i d w", "o"), node("Abs", "v", "y")]
    inputs = {"x": ("f", [5, 3]), "k": ("i", [1]), "d": ("i", []), "w": ("f", [2])}
    model = make_model(nodes, inputs, {"y": "f", "o": "f"})
    feeds = [
        {"x": floats(5, 3), "k": ints(k), "d": np.int64(d), "w": np.float32([0, 3])}
        for k, d in ((2, 5), (5, 7), (0, 5))
    ]
    check(model, tmp_path, feeds, dims={"o.dim2": 7})


REDUCTIONS = [
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
]


@pytest.mark.parametrize("op_type", REDUCTIONS)
def test_reductions_over_any_axes(op_type: str, tmp_path: Path) -> None:
    """The result with its axes meets the operand again, whichever axes were folded."""
    nodes = [
        node("Abs", "x", "p"),
        node(op_type, "p a", "r"),
        node("Sub", "p r", "y"),
        node(op_type, "p a", "z", keepdims=0),
    ]
    model = make_model(nodes, {"x": ("f", ["n", 3, 9]), "a": ("i", [2])}, {"y": "f", "z": "f"})
    feeds = [{"x": floats(4, 3, 9), "a": ints(*axes)} for axes in ((0, 1), (-1, 0), (2, 1))]
    check(model, tmp_path, feeds, dims={"n": 4}, threads=(1, 2))


def test_no_axes_are_all_axes_or_none(tmp_path: Path) -> None:
    for noop in (0, 1):
        model = one("ReduceSum", {"x": ("f", [2, 3]), "a": ("i", ["k"])}, noop_with_empty_axes=noop)
        feeds = [{"x": floats(2, 3), "a": ints(*axes)} for axes in ((0,), (0, 1))]
        check(model, tmp_path / str(noop), feeds, dims={"k": 2})


@pytest.mark.parametrize("attributes", [{}, {"exclusive": 1}, {"reverse": 1}])
def test_running_sums_along_any_axis(attributes: dict[str, int], tmp_path: Path) -> None:
    model = one("CumSum", {"x": ("f", [2, "n", 4]), "a": ("i", [])}, **attributes)
    feeds = [{"x": floats(2, 5, 4), "a": np.int64(axis)} for axis in (0, 1, -1)]
    check(model, tmp_path, feeds, dims={"n": 5})


def test_elements_that_pass_a_test(tmp_path: Path) -> None:
    """The typical end of a detector: where the scores are high, and the rows there."""
    nodes = [
        node("Greater", "x zero", "g"),
        node("NonZero", "g", "places"),
        node("Transpose", "places", "rows"),
        node("GatherND", "x rows", "kept"),
        node("ReduceMax", "x one", "best", keepdims=0),
        node("Greater", "best half", "good"),
        node("Compress", "x good", "chosen", axis=0),
        node("Shape", "chosen", "shape"),
        node("MatMul", "chosen w", "y"),
    ]
    weights = {
        "zero": np.float32(0), "half": np.float32(0.5), "one": ints(1), "w": floats(5, 3),
    }  # fmt: skip
    model = make_model(nodes, {"x": ("f", ["n", 5])}, {"kept": "f", "rows": "i", "y": "f", "shape": "i"}, weights)
    feeds = [{"x": floats(n, 5)} for n in (1, 4, 7)] + [{"x": -np.abs(floats(6, 5))}]
    check(model, tmp_path, feeds, dims={"n": 7}, threads=(1, 3))


@pytest.mark.parametrize("centred", [0, 1])
def test_boxes_that_stay(centred: int, tmp_path: Path) -> None:
    nodes = [
        node("NonMaxSuppression", "b s m o t", "kept", center_point_box=centred),
        node("Gather", "kept last", "places", axis=1),
        node("Gather", "b places", "y", axis=1),
    ]
    inputs = {"b": ("f", [2, "n", 4]), "s": ("f", [2, 3, "n"]), "m": ("i", []), "o": ("f", []), "t": ("f", [])}
    model = make_model(nodes, inputs, {"kept": "i", "y": "f"}, {"last": np.int64(2)})
    feeds = []
    for n, most, overlap, least in ((1, 5, 0.5, 0.0), (23, 4, 0.3, 0.4), (40, 100, 0.1, 0.2), (40, 0, 0.5, 0.5)):
        boxes = np.sort(RANDOM.uniform(0, 1, (2, n, 2, 2)), 2).reshape(2, n, 4).astype(np.float32)
        scores = RANDOM.uniform(0, 1, (2, 3, n)).astype(np.float32)
        feeds.append({"b": boxes, "s": scores, "m": np.int64(most), "o": np.float32(overlap), "t": np.float32(least)})
    check(model, tmp_path, feeds, dims={"n": 40})


@pytest.mark.parametrize("ordered", [0, 1])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_each_once(axis: int | None, ordered: int, tmp_path: Path) -> None:
    attributes = {} if axis is None else {"axis": axis}
    nodes = [node("Neg", "x", "n"), node("Unique", "n", "y i v c", sorted=ordered, **attributes)]
    model = make_model(nodes, {"x": ("f", ["n", 3])}, {"y": "f", "i": "i", "v": "i", "c": "i"})
    feeds = [{"x": RANDOM.integers(0, 2, (n, 3)).astype(np.float32)} for n in (1, 5, 12)]
    check(model, tmp_path, feeds, dims={"n": 12})


def test_sizes_follow_sizes(tmp_path: Path) -> None:
    """What depends on a computed dimension is an expression of it."""
    nodes = [
        node("NonZero", "x", "places"),
        node("Shape", "places", "shape"),
        node("Gather", "shape last", "count"),
        node("Add", "count last", "more"),
        node("Range", "zero more last", "steps"),
        node("Concat", "steps count1", "all", axis=0),
        node("Reshape", "count vector", "count1"),
    ]
    nodes = [*nodes[:4], nodes[6], *nodes[4:6]]
    weights = {"last": np.int64(1), "zero": np.int64(0), "vector": ints(1)}
    model = make_model(nodes, {"x": ("f", [2, 4])}, {"all": "i"}, weights)
    check(model, tmp_path, [{"x": np.float32(x)} for x in ([[0, 1, 0, 2], [3, 0, 0, 4]], np.zeros((2, 4)))])


def reshape_model() -> ModelIR:
    return one("Reshape", {"x": ("f", [2, 6]), "s": ("i", [2])})


def steps(*values: int) -> Arrays:
    return {name: np.array(value) for name, value in zip("abc", values, strict=True)}


def range_model() -> ModelIR:
    return make_model([node("Range", "a b c", "y")], {name: ("i", []) for name in "abc"}, {"y": "i"})


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("make", "feed", "message"),
    [
        (reshape_model, {"x": floats(2, 6), "s": ints(5, 2)}, "values do not go together: `m.fit`"),
        (reshape_model, {"x": floats(2, 6), "s": ints(-1, -1)}, "values do not go together: `m.fit`"),
        (reshape_model, {"x": floats(2, 6), "s": ints(-1, 5)}, "values do not go together: `m.fit`"),
        (range_model, steps(0, 9, 0), "values do not go together: `y.fit`"),
        (
            range_model,
            steps(0, 9, 1),
            "make `y.dim0` 9, .* at most 8\n.*y.dim0=9",
        ),
    ],
)
def test_what_does_not_fit_is_an_error_and_the_model_goes_on(
    make: Callable[[], ModelIR], feed: Arrays, message: str, threads: int, tmp_path: Path
) -> None:
    model = make()
    good = {"x": floats(2, 6), "s": ints(3, 4)} if "x" in feed else steps(0, 8, 1)
    with compiled(model, tmp_path, None if "x" in feed else {"y.dim0": 8}, threads) as loaded:
        for _ in range(20):
            with pytest.raises(RunError, match=message):
                loaded.run(feed)
            assert_close(run(model.model, good), list(loaded.run(good).values()), 0)


def test_sizes_that_do_not_meet_are_an_error(tmp_path: Path) -> None:
    nodes = [node("NonZero", "x", "p"), node("NonZero", "z", "q"), node("Add", "p q", "y")]
    model = make_model(nodes, {"x": ("f", [4]), "z": ("f", [4])}, {"y": "i"})
    some = np.float32([1, 0, 2, 0])
    with compiled(model, tmp_path) as loaded:
        assert loaded.run({"x": some, "z": some})["y"].tolist() == [[0, 4]]
        with pytest.raises(RunError, match="values do not go together"):
            loaded.run({"x": some, "z": np.float32([1, 1, 1, 0])})


def test_a_size_without_a_bound_is_asked_for(tmp_path: Path) -> None:
    model = range_model()
    with pytest.raises(UsageError, match=r"the size of `y.dim0` from values.*\n.*--max-dim y.dim0=NUMBER") as refused:
        make_plan(simplify(model), profiles.load("node-server"))
    assert refused.value.dims == ("y.dim0",)
