"""What every pass has: a name, contracts that are checked, and a few ways to rewrite a graph.

A pass is one class with `name` and `rewrite(model) -> bool` (did anything change). `requires` and
`ensures` are the pre- and postconditions of `onnx_ir.passes`; the runner in `passes/pipeline.py` calls
them, and checks the graph's own invariants (`verify`) after every pass.
"""

from __future__ import annotations

import abc
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common

SMALL = 1 << 20  # bytes; larger constants are never read by a pass, only wrapped lazily


class GraphPass(ir.passes.InPlacePass):
    """A pass over the main graph; unused nodes and initializers are removed after it."""

    name: ClassVar[str]
    graphs_only: ClassVar[bool] = False  # decoders stay as their builder made them

    @abc.abstractmethod
    def rewrite(self, model: ir.Model) -> bool:
        """Changes `model` in place and says whether it did."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = self.rewrite(model)
        if modified:
            common.RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified)


def verify(model: ir.Model) -> None:
    """Raises `ValueError` when the graph is not well formed: order, names, ownership."""
    graph = model.graph
    seen: set[str] = set()

    def define(value: ir.Value, what: str) -> None:
        if not value.name:
            raise ValueError(f"a {what} has no name")
        if value.name in seen:
            raise ValueError(f"two values are named `{value.name}`")
        seen.add(value.name)

    for value in graph.inputs:
        define(value, "graph input")
    for name, value in graph.initializers.items():
        if name != value.name or value.const_value is None:
            raise ValueError(f"initializer `{name}` is not registered properly")
        if not value.is_graph_input():
            define(value, "initializer")
    for node in graph:
        for source in node.inputs:
            if source is not None and source.name not in seen:
                raise ValueError(f"node `{node.name}` ({node.op_type}) uses `{source.name}` before it exists")
        for output in node.outputs:
            if output.name != "" or output.uses():
                define(output, f"output of `{node.name}`")
    for output in graph.outputs:
        if output.name not in seen:
            raise ValueError(f"graph output `{output.name}` has no producer")


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    return node is not None and node.domain == "" and node.op_type in op_types


def producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that makes `value`, if it is one of these operators."""
    node = value.producer() if value is not None else None
    return node if is_op(node, *op_types) else None


def is_read(value: ir.Value) -> bool:
    """Whether anything depends on `value`."""
    return value.is_graph_output() or bool(value.uses())


def only_use(value: ir.Value) -> ir.Node | None:
    """The one node that reads `value`, `None` when there are more or it is a graph output."""
    if value.is_graph_output() or len(value.uses()) != 1:
        return None
    return next(iter(value.uses())).node


def constant(value: ir.Value | None, limit: int = SMALL) -> npt.NDArray[Any] | None:
    """The array of an initializer of at most `limit` bytes."""
    if value is None or value.const_value is None or value.is_graph_input() or value.const_value.nbytes > limit:
        return None
    return value.const_value.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """The number in an initializer of one element."""
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    array = constant(value)
    return None if array is None else float(array.reshape(-1)[0])


def is_initializer(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None and not value.is_graph_input()


def shape_of(value: ir.Value | None) -> list[int | ir.SymbolicDim] | None:
    return None if value is None or value.shape is None else list(value.shape.dims)


def static_shape(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """The shape of a constant."""
    return tuple(dim for dim in tensor.shape if isinstance(dim, int))


def names_in(graph: ir.Graph) -> set[str | None]:
    """Of all values."""
    taken = {value.name for node in graph for value in node.outputs}
    taken.update(value.name for value in graph.inputs)
    taken.update(graph.initializers)
    return taken


def unique_name(graph: ir.Graph, hint: str, taken: Collection[str | None] | None = None) -> str:
    """`hint`, with a number appended where something else has that name; `taken` are `names_in(graph)` if known."""
    taken = names_in(graph) if taken is None else taken
    if hint not in taken:
        return hint
    return next(f"{hint}_{i}" for i in range(1, len(taken) + 2) if f"{hint}_{i}" not in taken)


def add_initializer(
    graph: ir.Graph,
    hint: str,
    tensor: ir.TensorProtocol | npt.NDArray[Any] | np.generic,
    taken: Collection[str | None] | None = None,
) -> ir.Value:
    """A new initializer; a lazy tensor stays lazy. `taken`: see `unique_name`."""
    name = unique_name(graph, hint, taken)
    held: ir.TensorProtocol
    if isinstance(tensor, (np.ndarray, np.generic)):  # arithmetic on arrays of rank 0 gives scalars
        held = ir.tensor(np.asarray(tensor), name=name)
    else:
        held = tensor
    shape = ir.Shape(static_shape(held))
    value = ir.Value(name=name, shape=shape, type=ir.TensorType(held.dtype), const_value=held)
    graph.register_initializer(value)
    return value


def insert(
    anchor: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: dict[str, Any] | None = None,
    *,
    outputs: int = 1,
    name: str | None = None,
) -> ir.Node:
    """A new node before `anchor`. Its outputs are named after `name` or the operator."""
    graph = anchor.graph
    assert isinstance(graph, ir.Graph)
    attrs = ir.convenience.convert_attributes(attributes or {})
    node = ir.Node("", op_type, inputs, attrs, num_outputs=outputs)
    for index, output in enumerate(node.outputs):
        suffix = "" if outputs == 1 else f"_{index}"
        output.name = unique_name(graph, f"{name or op_type.lower()}{suffix}")
    graph.insert_before(anchor, node)
    return node


def insert_value(
    anchor: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: dict[str, Any] | None = None,
    *,
    name: str | None = None,
    like: ir.Value | None = None,
) -> ir.Value:
    """`insert` for one output, which takes type and shape from `like`."""
    value = insert(anchor, op_type, inputs, attributes, name=name).outputs[0]
    if like is not None:
        value.type = like.type
        value.shape = like.shape
    return value


def replace(old: ir.Value, new: ir.Value) -> None:
    """Everything that reads `old` reads `new`; a graph output keeps its name."""
    if new.type is None:
        new.type = old.type
    if new.shape is None:
        new.shape = old.shape
    if old.is_graph_output():
        node = old.producer()
        assert node is not None
        if new.is_graph_input() or new.is_graph_output() or new.producer() is None:
            new = insert_value(node, "Identity", [new], like=old)
        name = old.name
        old.name = f"{name}/replaced"
        new.name = name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
