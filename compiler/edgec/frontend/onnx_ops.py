"""Which operators of an ONNX model stand in the way of compiling it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import onnx

from edgec.frontend import onnx_nbits as nbits
from edgec.frontend.problems import Problem

STANDARD = ("", "ai.onnx")
_SHAPE_QUERIES = frozenset({"Shape", "Size"})


def op_problems(proto: onnx.ModelProto, opset: int, supported: Collection[str] | None) -> list[Problem]:
    """Operators that are not standard ONNX, and those that are not in `supported`.

    `supported` names the operators that a lowering knows; None accepts all standard ones. Nodes
    computed only from constants and shapes are not judged by it, since simplifying folds them.
    """
    own = {(function.domain, function.name) for function in proto.functions}
    top = {id(node) for node in proto.graph.node}
    foreign: dict[str, list[str]] = {}
    unknown: dict[str, list[str]] = {}
    for node in _all_nodes(proto):
        if (node.domain, node.op_type) in own:
            continue
        if (node.domain, node.op_type) == (nbits.DOMAIN, nbits.OP) and id(node) in top:
            continue  # the frontend replaces it
        if supported is not None and f"{node.domain}.{node.op_type}" in supported:
            continue
        if node.domain not in STANDARD:
            foreign.setdefault(f"{node.domain}.{node.op_type}", []).append(_name(node))
        elif not onnx.defs.has(node.op_type, opset):
            unknown.setdefault(node.op_type, []).append(_name(node))
    problems = [_problem(op, "an operator outside the ONNX standard", nodes) for op, nodes in foreign.items()]
    problems += [_problem(op, f"no operator of ONNX opset {opset}", nodes) for op, nodes in unknown.items()]
    if supported is not None:
        refused: dict[str, list[str]] = {}
        for node in _computing_nodes(proto.graph):
            if node.domain in STANDARD and node.op_type not in supported and node.op_type not in unknown:
                refused.setdefault(node.op_type, []).append(_name(node))
        problems += [_problem(op, "an operator without a kernel", nodes) for op, nodes in refused.items()]
    return problems


def _problem(op: str, found: str, nodes: list[str]) -> Problem:
    return Problem(op, found, "operators of the ONNX standard that compute with tensors of numbers", tuple(nodes))


def _name(node: onnx.NodeProto) -> str:
    return node.name or next((name for name in node.output if name), "?")


def _computing_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Nodes whose result depends on the values of an input."""
    fixed = {tensor.name for tensor in graph.initializer} | {""}
    for node in graph.node:
        if node.op_type == "Constant" or node.op_type in _SHAPE_QUERIES or fixed.issuperset(node.input):
            fixed.update(node.output)
        else:
            yield node


def _all_nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    yield from _nested(proto.graph.node)
    for function in proto.functions:
        yield from _nested(function.node)


def _nested(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nested(attribute.g.node)
            for graph in attribute.graphs:
                yield from _nested(graph.node)
