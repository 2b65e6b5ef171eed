"""`Expand` moves behind unary and scalar operations and goes where its reader broadcasts anyway.

An attention mask `[batch, 1, 1, keys]` then stays that small instead of `[batch, 1, queries, keys]`.
"""

from __future__ import annotations

import onnx_ir as ir

from edgec.passes import dims as d
from edgec.passes.base import GraphPass, insert_value, is_op, producer, replace, scalar, shape_of
from edgec.passes.infer_shapes import infer
from edgec.passes.shape_rules import ELEMENTWISE_MANY, ELEMENTWISE_UNARY


class RemoveExpand(GraphPass):
    name = "remove-expand"

    def rewrite(self, model: ir.Model) -> bool:
        infer(model.graph)
        modified = False
        for node in list(model.graph):
            if node.domain == "" and node.op_type in ELEMENTWISE_UNARY | {"Clip"}:
                modified |= _sink_below_unary(node)
            elif node.domain == "" and node.op_type in ELEMENTWISE_MANY:
                modified |= _sink_below_many(node)
        return modified


def _sink_below_unary(node: ir.Node) -> bool:
    expand = producer(node.inputs[0], "Expand")
    if expand is None:
        return False
    _move(node, expand, [expand.inputs[0], *node.inputs[1:]])
    return True


def _sink_below_many(node: ir.Node) -> bool:
    """Drops expands that do not matter; moves them all below when the others are single numbers."""
    output = shape_of(node.outputs[0])
    if output is None:
        return False
    modified = False
    for index, value in enumerate(node.inputs):
        expand = producer(value, "Expand")
        if expand is None:
            continue
        others = [shape_of(v) for i, v in enumerate(node.inputs) if i != index]
        small = shape_of(expand.inputs[0])
        if small is None or any(shape is None for shape in others):
            continue
        without = d.broadcast([small, *(shape for shape in others if shape is not None)])
        if len(without) == len(output) and all(d.same(a, b) for a, b in zip(without, output, strict=True)):
            node.replace_input_with(index, expand.inputs[0])
            modified = True
    expands = [(value, producer(value, "Expand")) for value in node.inputs]
    targets = {expand.inputs[1] for _, expand in expands if expand is not None}
    if len(targets) == 1 and all(expand is not None or scalar(value) is not None for value, expand in expands):
        first = next(expand for _, expand in expands if expand is not None)
        _move(node, first, [expand.inputs[0] if expand is not None else value for value, expand in expands])
        modified = True
    return modified


def _move(node: ir.Node, expand: ir.Node, inputs: list[ir.Value | None]) -> None:
    attributes = {attribute.name: attribute.value for attribute in node.attributes.values()}
    small = insert_value(node, node.op_type, inputs, attributes)
    small.dtype = node.outputs[0].dtype
    shapes = [shape for shape in (shape_of(value) for value in inputs) if shape is not None]
    small.shape = ir.Shape(shapes[0] if is_op(node, "Clip") else d.broadcast(shapes))
    replace(node.outputs[0], insert_value(node, "Expand", [small, expand.inputs[1]], like=node.outputs[0]))
