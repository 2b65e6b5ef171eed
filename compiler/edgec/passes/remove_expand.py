"""`Expand` moves behind unary and scalar operations and goes where its reader broadcasts anyway.

An attention mask `[batch, 1, 1, keys]` then stays that small instead of `[batch, 1, queries, keys]`.
"""

from __future__ import annotations

import onnx_ir as ir

from edgec.passes import dims as d
from edgec.passes.base import GraphPass, insert_value, is_op, producer, replace, shape_of
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
    """Drops expands that do not matter and moves the others below, since broadcasting commutes."""
    output = shape_of(node.outputs[0])
    shapes = [shape_of(value) for value in node.inputs]
    if output is None or any(shape is None for shape in shapes):
        return False
    expands = {index: expand for index, value in enumerate(node.inputs) if (expand := producer(value, "Expand"))}
    small = [shape_of(expands[i].inputs[0]) if i in expands else shape for i, shape in enumerate(shapes)]
    known = [shape for shape in small if shape is not None]
    if not expands or len(known) < len(small):
        return False
    inputs = [expands[index].inputs[0] if index in expands else value for index, value in enumerate(node.inputs)]
    if _same(d.broadcast(known), output):
        for index, value in enumerate(inputs):
            node.replace_input_with(index, value)
        return True
    first = next(iter(expands.values()))
    if not _same(d.broadcast([*known, shape_of(first.outputs[0]) or []]), output):
        return False
    _move(node, first, inputs)
    return True


def _same(a: list[d.Dim], b: list[d.Dim]) -> bool:
    return len(a) == len(b) and all(d.same(x, y) for x, y in zip(a, b, strict=True))


def _move(node: ir.Node, expand: ir.Node, inputs: list[ir.Value | None]) -> None:
    attributes = {attribute.name: attribute.value for attribute in node.attributes.values()}
    small = insert_value(node, node.op_type, inputs, attributes)
    small.type = node.outputs[0].type
    shapes = [shape for shape in (shape_of(value) for value in inputs) if shape is not None]
    small.shape = ir.Shape(shapes[0] if is_op(node, "Clip") else d.broadcast(shapes))
    replace(node.outputs[0], insert_value(node, "Expand", [small, expand.inputs[1]], like=node.outputs[0]))
