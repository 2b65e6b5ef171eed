"""Random valid graphs: compiled and run in wasm, they give what onnxruntime gives.

    python -m tests.conformance.random_graphs COUNT [FIRST]   prints every seed that differs, of all operators

A seed gives the same graph on every machine. Operators that jump (Round, comparisons of computed numbers) are left out:
two right answers may then differ by a whole step.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper as oh
import onnx.numpy_helper as onh

from edgec.ir.model import ModelIR
from edgec.passes import simplify
from tests.conformance import random_ops
from tests.lower.graph.harness import Arrays, WasmGraph, assert_close, lowered
from tests.passes.graphs import graph_model, run

TOLERANCE = 2e-5  # of the largest magnitude of an output, at least of 1
_MOST_ELEMENTS = 4096


@dataclass(frozen=True)
class Value:
    name: str
    shape: tuple[int, ...]


@dataclass
class Graph:
    """A graph of float32 values that grows node by node."""

    random: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    weights: Arrays = field(default_factory=dict)
    given: Arrays = field(default_factory=dict)  # inputs of integers, with what they are

    def pick(self, rank: int | None = None) -> Value:
        """A value so far, or a new input where none has the rank."""
        fitting = [value for value in self.values if rank in (None, len(value.shape))]
        if fitting:
            return fitting[int(self.random.integers(len(fitting)))]
        return self.input(self.shape(rank if rank is not None else 2))

    def shape(self, rank: int) -> tuple[int, ...]:
        return tuple(int(size) for size in self.random.integers(1, 8, rank))

    def input(self, shape: tuple[int, ...]) -> Value:
        value = Value(f"in{len(self.inputs)}", shape)
        self.inputs.append(value)
        self.values.append(value)
        return value

    def weight(self, array: npt.ArrayLike) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(array)
        return name

    def floats(self, *shape: int) -> str:
        return self.weight(self.random.normal(0, 0.5, shape).astype(np.float32))

    def integers(self, *numbers: int) -> str:
        return self.weight(np.array(numbers, np.int64))

    def axis(self, value: Value) -> int:
        """An axis, counted from either end."""
        rank = len(value.shape)
        return int(self.random.integers(-rank, rank))

    def integer_input(self, array: npt.NDArray[Any]) -> str:
        name = f"in{len(self.given)}_{array.dtype}"
        self.given[name] = array
        return name

    def node(self, op_type: str, inputs: list[str], **attributes: Any) -> str:
        """A step on the way to a value."""
        return self.nodes_of(op_type, inputs, 1, **attributes)[0]

    def nodes_of(self, op_type: str, inputs: list[str], outputs: int, **attributes: Any) -> list[str]:
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(oh.make_node(op_type, inputs, names, **attributes))
        return names

    def add(self, op_type: str, inputs: list[str], shape: tuple[int, ...], outputs: int = 1, **attributes: Any) -> None:
        """A value; of several outputs the first."""
        if np.prod(shape) <= _MOST_ELEMENTS:
            name, *_ = self.nodes_of(op_type, inputs, outputs, **attributes)
            self.values.append(Value(name, tuple(int(size) for size in shape)))

    def add_all(self, op_type: str, inputs: list[str], shapes: list[tuple[int, ...]], **attributes: Any) -> None:
        """A value for each output."""
        if max(np.prod(shape) for shape in shapes) <= _MOST_ELEMENTS:
            names = self.nodes_of(op_type, inputs, len(shapes), **attributes)
            self.values += [Value(name, shape) for name, shape in zip(names, shapes, strict=True)]


Maker = Callable[[Graph], None]
_UNARY = "Abs Neg Relu Sigmoid Tanh Erf Sin Cos Softplus Softsign LeakyRelu Elu HardSigmoid Gelu Identity Mish".split()


def _unary(g: Graph) -> None:
    value = g.pick()
    g.add(str(g.random.choice(_UNARY)), [value.name], value.shape)


def _binary(g: Graph) -> None:
    value = g.pick()
    kind = str(g.random.choice(["Add", "Sub", "Mul", "Max", "Min"]))
    other = tuple(1 if g.random.random() < 0.3 else size for size in value.shape)[int(g.random.integers(2)) :]
    same = [v for v in g.values if v.shape == value.shape]
    right = same[int(g.random.integers(len(same)))].name if g.random.random() < 0.5 else g.floats(*other)
    pair = [value.name, right] if g.random.random() < 0.5 else [right, value.name]
    g.add(kind, pair, value.shape)


def _reduce(g: Graph) -> None:
    value = g.pick()
    if not value.shape:
        return
    axis, keep = g.axis(value), int(g.random.integers(2))
    kind = str(g.random.choice(["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceLogSumExp"]))
    place = axis % len(value.shape)
    shape = value.shape[:place] + ((1,) if keep else ()) + value.shape[place + 1 :]
    g.add(kind, [value.name, g.integers(axis)], shape, keepdims=keep)


def _transpose(g: Graph) -> None:
    value = g.pick()
    order = [int(i) for i in g.random.permutation(len(value.shape))]
    if order:
        g.add("Transpose", [value.name], tuple(value.shape[i] for i in order), perm=order)


def _reshape(g: Graph) -> None:
    value = g.pick()
    if value.shape:
        merged = (-1, *value.shape[2:]) if len(value.shape) > 1 else (1, -1)
        result = tuple(np.zeros(value.shape, np.bool_).reshape(merged).shape)
        g.add("Reshape", [value.name, g.integers(*merged)], result)


def _slice(g: Graph) -> None:
    value = g.pick()
    if not value.shape:
        return
    axis = g.axis(value) % len(value.shape)
    size = value.shape[axis]
    start, step = int(g.random.integers(-size, size)), int(g.random.choice([1, 2, -1]))
    end = 2**31 if step > 0 else -(2**31)
    length = len(range(size)[slice(start, None, step)])
    inputs = [value.name, *(g.integers(number) for number in (start, end, axis, step))]
    g.add("Slice", inputs, (*value.shape[:axis], length, *value.shape[axis + 1 :]))


def _concat(g: Graph) -> None:
    value = g.pick()
    if not value.shape:
        return
    axis = g.axis(value) % len(value.shape)
    other = list(value.shape)
    other[axis] = int(g.random.integers(1, 4))
    shape = list(value.shape)
    shape[axis] += other[axis]
    g.add("Concat", [value.name, g.floats(*other)], tuple(shape), axis=axis)


def _pad(g: Graph) -> None:
    value = g.pick()
    if not value.shape:
        return
    mode = str(g.random.choice(["constant", "edge", "wrap"]))
    pads = [int(n) for n in g.random.integers(0, 3 if mode != "wrap" else 2, 2 * len(value.shape))]
    rank = len(value.shape)
    shape = tuple(size + pads[i] + pads[rank + i] for i, size in enumerate(value.shape))
    g.add("Pad", [value.name, g.integers(*pads)], shape, mode=mode)


def _matmul(g: Graph) -> None:
    value = g.pick(int(g.random.integers(2, 5)))
    width = int(g.random.integers(1, 9))
    batch = value.shape[:-2] if g.random.random() < 0.3 else ()
    g.add("MatMul", [value.name, g.floats(*batch, value.shape[-1], width)], (*value.shape[:-1], width))


def _conv(g: Graph) -> None:
    value = g.pick(int(g.random.integers(3, 6)))
    spatial = value.shape[2:]
    kernel = [int(g.random.integers(1, min(3, size) + 1)) for size in spatial]
    pads = [int(n) for n in g.random.integers(0, 2, 2 * len(spatial))]
    strides = [int(n) for n in g.random.integers(1, 3, len(spatial))]
    group = value.shape[1] if g.random.random() < 0.3 else 1
    outputs = group * int(g.random.integers(1, 5))
    sizes = [(size + pads[i] + pads[len(spatial) + i] - kernel[i]) // strides[i] + 1 for i, size in enumerate(spatial)]
    weight = g.floats(outputs, value.shape[1] // group, *kernel)
    inputs = [value.name, weight, *([g.floats(outputs)] if g.random.random() < 0.5 else [])]
    g.add("Conv", inputs, (value.shape[0], outputs, *sizes), pads=pads, strides=strides, group=group)


def _pool(g: Graph) -> None:
    value = g.pick(int(g.random.integers(3, 6)))
    spatial = value.shape[2:]
    kernel = [int(g.random.integers(1, min(3, size) + 1)) for size in spatial]
    kind = str(g.random.choice(["MaxPool", "AveragePool", "LpPool"]))
    sizes = [size - kernel[i] + 1 for i, size in enumerate(spatial)]
    g.add(kind, [value.name], (*value.shape[:2], *sizes), kernel_shape=kernel)


def _normal(g: Graph) -> None:
    value = g.pick()
    if not value.shape:
        return
    kind = str(g.random.choice(["Softmax", "LogSoftmax", "LayerNormalization", "CumSum", "LpNormalization"]))
    axis = g.axis(value)
    if kind == "LayerNormalization":
        width = value.shape[-1]
        if width > 2:
            g.add(kind, [value.name, g.floats(width), g.floats(width)], value.shape, axis=-1, epsilon=0.1)
    elif kind == "CumSum":
        g.add(kind, [value.name, g.weight(np.array(axis))], value.shape, reverse=int(g.random.integers(2)))
    else:
        g.add(kind, [value.name], value.shape, axis=axis)


def _gather(g: Graph) -> None:
    value = g.pick()
    if not value.shape:
        return
    axis = g.axis(value) % len(value.shape)
    places = g.random.integers(-value.shape[axis], value.shape[axis], tuple(g.random.integers(1, 4, 2)))
    shape = value.shape[:axis] + places.shape + value.shape[axis + 1 :]
    g.add("Gather", [value.name, g.weight(places)], shape, axis=axis)


def _where(g: Graph) -> None:
    value = g.pick()
    mask = g.weight(g.random.random(value.shape) < 0.5)
    g.add("Where", [mask, value.name, g.floats(*value.shape[1:])], value.shape)


def _resize(g: Graph) -> None:
    value = g.pick(4)
    sizes = [int(n) for n in g.random.integers(1, 10, 2)]
    mode = str(g.random.choice(["linear", "cubic"]))
    inputs = [value.name, "", "", g.integers(*value.shape[:2], *sizes)]
    g.add("Resize", inputs, (*value.shape[:2], *sizes), mode=mode)


def _trilu(g: Graph) -> None:
    value = g.pick(int(g.random.integers(2, 4)))
    inputs = [value.name, g.weight(np.array(int(g.random.integers(-2, 3))))]
    g.add("Trilu", inputs, value.shape, upper=int(g.random.integers(2)))


MAKERS: tuple[Maker, ...] = (
    *(_unary, _binary, _reduce, _transpose, _reshape, _slice, _concat, _pad, _matmul, _conv, _pool),
    *(_normal, _gather, _where, _resize, _trilu),
)
WIDER: tuple[Maker, ...] = (*MAKERS, *random_ops.MAKERS)


def random_graph(seed: int, makers: Sequence[Maker] = MAKERS) -> tuple[ModelIR, Arrays]:
    """A graph of up to 14 steps, and inputs for it. Every value that nothing reads is an output."""
    g = Graph(np.random.default_rng(seed))
    g.input(g.shape(int(g.random.integers(1, 5))))
    for _ in range(int(g.random.integers(3, 15))):
        makers[int(g.random.integers(len(makers)))](g)
    _drop_unused(g)
    read = {name for node in g.nodes for name in node.input}
    results = [value for value in g.values if value.name not in read and value not in g.inputs]
    graph = oh.make_graph(
        g.nodes,
        f"seed {seed}",
        [
            *(oh.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, value.shape) for value in g.inputs),
            *(
                oh.make_tensor_value_info(name, oh.np_dtype_to_tensor_dtype(array.dtype), array.shape)
                for name, array in g.given.items()
            ),
        ],
        [oh.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, value.shape) for value in results],
        [onh.from_array(array, name) for name, array in g.weights.items()],
    )
    model = graph_model(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 23)], ir_version=10))
    feed = {value.name: g.random.normal(0, 1, value.shape).astype(np.float32) for value in g.inputs}
    return model, feed | g.given


def _drop_unused(g: Graph) -> None:
    """Steps that a maker gave up on lead nowhere."""
    values = {value.name for value in g.values}
    while True:
        read = {name for node in g.nodes for name in node.input}
        kept = [node for node in g.nodes if any(name in read or name in values for name in node.output)]
        if len(kept) == len(g.nodes):
            break
        g.nodes = kept
    g.given = {name: array for name, array in g.given.items() if name in read}


def check_seed(seed: int, makers: Sequence[Maker] = MAKERS) -> None:
    """Raises `AssertionError` where wasm and onnxruntime differ."""
    model, feed = random_graph(seed, makers)
    if not model.model.graph.outputs:
        return
    module = lowered(simplify(model), variants=["simd128"])
    assert_close(run(model.model, feed), WasmGraph(module, "simd128")(feed), TOLERANCE)


def main() -> int:
    count, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    failed = []
    for seed in range(first, first + count):
        try:
            check_seed(seed, WIDER)
        except Exception as error:  # noqa: BLE001  # each seed is judged
            failed.append(seed)
            print(f"seed {seed}: {type(error).__name__}: {' '.join(str(error).split())[:200]}", flush=True)
    print(f"{count - len(failed)} of {count} graphs equal onnxruntime")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
