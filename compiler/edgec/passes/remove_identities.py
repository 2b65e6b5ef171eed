"""Nodes that copy their input: Identity, Dropout in inference, reshapes and casts to the same."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.passes import dims as d
from edgec.passes.base import GraphPass, constant, is_op, replace, scalar, shape_of


class RemoveIdentities(GraphPass):
    name = "remove-identities"

    def rewrite(self, model: ir.Model) -> bool:
        modified = False
        for node in list(model.graph):
            if not _copies_its_input(node):
                continue
            source, output = node.inputs[0], node.outputs[0]
            assert source is not None
            if output.is_graph_output() and (source.producer() is None or source.is_graph_output()):
                continue  # a graph output needs a node that makes it
            replace(output, source)
            modified = True
        return modified


def _copies_its_input(node: ir.Node) -> bool:
    if not node.inputs or node.inputs[0] is None or node.domain != "":
        return False
    source, output = node.inputs[0], node.outputs[0]
    if is_op(node, "Identity"):
        return True
    if is_op(node, "Dropout"):
        training = node.inputs[2] if len(node.inputs) > 2 else None
        mask_unused = len(node.outputs) == 1 or not node.outputs[1].uses()
        return mask_unused and (training is None or scalar(training) == 0)
    if is_op(node, "Cast"):
        return source.dtype is not None and node.attributes.get_int("to") == int(source.dtype)
    if is_op(node, "Transpose"):
        permutation = node.attributes.get_ints("perm")
        return permutation is not None and list(permutation) == sorted(permutation)
    if is_op(node, "Reshape", "Expand", "Flatten", "Squeeze", "Unsqueeze", "Tile", "Slice", "Concat"):
        if is_op(node, "Concat"):
            return len(node.inputs) == 1
        if is_op(node, "Slice") and not _forward(node):
            return False
        before, after = shape_of(source), shape_of(output)
        if before is None or after is None or len(before) != len(after):
            return False
        return all(d.same(a, b) for a, b in zip(before, after, strict=True))
    if is_op(node, "Pad"):
        amounts = constant(node.inputs[1])
        return amounts is not None and not np.any(amounts)
    return False


def _forward(node: ir.Node) -> bool:
    steps = node.inputs[4] if len(node.inputs) > 4 else None
    array = constant(steps)
    return steps is None or (array is not None and bool(np.all(array > 0)))
