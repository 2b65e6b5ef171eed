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
    foreign: dict[str, None] = {}
    unknown: dict[str, None] = {}
    for node in _all_nodes(proto):
        if (node.domain, node.op_type) in own:
            continue
        if (node.domain, node.op_type) == (nbits.DOMAIN, nbits.OP) and id(node) in top:
            continue  # the frontend replaces it
        if supported is not None and f"{node.domain}.{node.op_type}" in supported:
            continue
        if node.domain not in STANDARD:
            foreign[f"{node.domain}.{node.op_type}"] = None
        elif not onnx.defs.has(node.op_type, opset):
            unknown[node.op_type] = None
    known = "operators of the ONNX standard" if supported is None else ", ".join(sorted(supported))
    problems = [Problem(op, "an operator outside the ONNX standard", known) for op in foreign]
    problems += [Problem(op, f"no operator of ONNX opset {opset}", known) for op in unknown]
    if supported is not None:
        refused = {
            node.op_type: None
            for node in _computing_nodes(proto.graph)
            if node.domain in STANDARD and node.op_type not in supported and node.op_type not in unknown
        }
        problems += [Problem(op, "an operator without a kernel", known) for op in refused]
    return problems


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
