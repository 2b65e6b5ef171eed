"""Which nodes belong to which part of a graph, and what one part leaves in memory for the next."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import onnx_ir as ir

from edgec.errors import UnsupportedError
from edgec.ir.model import GraphPart
from edgec.lower.wasm.graph_dims import symbols
from edgec.lower.wasm.graph_fusion import Group, weight_of_matmul
from edgec.lower.wasm.graph_operands import DECIDING, computes_shape
from edgec.passes.base import producer
from edgec.passes.computed_dims import COMPUTED
from edgec.passes.infer_shapes import content_of


def needed_nodes(graph: ir.Graph, outputs: Sequence[ir.Value], given: Collection[ir.Value] = ()) -> set[ir.Node]:
    """Nodes whose results are read as tensors or whose dimensions are.

    What is known while compiling and `given` values need none.
    """
    computing = {name: node for node in graph for name in node.meta.get(COMPUTED, ())}
    needed: set[ir.Node] = set()
    wanted = list(outputs)

    def need(node: ir.Node | None) -> None:
        if node is not None and node not in needed:
            needed.add(node)
            wanted.extend([*node.outputs, *_read_as_tensors(node)])

    while wanted:
        value = wanted.pop()
        content = content_of(value)
        for name in symbols([*(value.shape.dims if value.shape is not None else ()), *(content or ())]):
            need(computing.get(name))
        if content is None and value not in given:
            need(value.producer())
    return needed


def _read_as_tensors(node: ir.Node) -> list[ir.Value]:
    return [value for index, value in enumerate(node.inputs) if value is not None and not _is_shape(node, index)]


def _is_shape(node: ir.Node, index: int) -> bool:
    """Also weights of linear layers, which `ops/linear.py` brings into another order."""
    if node.op_type == "MatMul" and index == 1:
        return weight_of_matmul(node) is not None
    deciding = any(index == other for other, _ in DECIDING.get(node.op_type, ()))
    return deciding and not computes_shape(node)


def states_of(graph: ir.Graph, part: GraphPart) -> list[tuple[ir.Value, ir.Value]]:
    """Input and output of each state. Raises `UnsupportedError` unless the output is the input and more after it."""
    inputs = {value.name: value for value in graph.inputs}
    outputs = {value.name: value for value in graph.outputs}
    states = [(inputs[before], outputs[after]) for after, before in part.state.items()]
    for value, following in states:
        node = producer(following, "Concat")
        if node is None or node.inputs[0] is not value:
            raise UnsupportedError(f"the output `{following.name}` is not the input `{value.name}` with more after it")
    return states


def kept_values(
    graph: ir.Graph, groups: Mapping[ir.Node, Group], parts: Mapping[str, GraphPart], name: str
) -> list[ir.Value]:
    """What part `name` reads of the part that it follows, in the graph's order."""
    part = parts[name]
    if part.follows is None:
        return []
    wanted = {*part.outputs, *part.state}
    early = _early_nodes(graph, groups, parts[part.follows].inputs)
    waiting = [value for value in graph.outputs if value.name in wanted]
    seen: set[ir.Node] = set()
    kept: set[ir.Value] = set()
    while waiting:
        value = waiting.pop()
        node = value.producer()
        if node is None or content_of(value) is not None:
            continue
        if node in early:
            kept.add(value)
        elif node not in seen:
            seen.add(node)
            waiting += _read_as_tensors(node)
    return [value for node in graph for value in node.outputs if value in kept]


def _early_nodes(graph: ir.Graph, groups: Mapping[ir.Node, Group], names: Collection[str]) -> set[ir.Node]:
    """Nodes that depend on the inputs `names`, and on no other: neither on its values nor on its dimensions."""
    first = {value for value in graph.inputs if value.name in names}
    others = {value for value in graph.inputs if value.name not in names and value.const_value is None}
    dims = set(symbols(dim for value in first if value.shape is not None for dim in value.shape.dims))
    touched: set[ir.Node] = set()
    late: set[ir.Node] = set()
    for node in graph:
        sources = [value for value in node.inputs if value is not None]
        if any(value in others or value.producer() in late for value in sources) or not _symbols(node) <= dims:
            late.add(node)
        elif any(value in first or value.producer() in touched for value in sources):
            touched.add(node)
    for group in groups.values():
        if late.intersection(group.nodes):  # one kernel computes them all
            late.update(group.nodes)
    return touched - late


def _symbols(node: ir.Node) -> set[str]:
    return set(symbols(dim for value in node.outputs if value.shape is not None for dim in value.shape.dims))


__all__ = ["kept_values", "needed_nodes", "states_of"]
