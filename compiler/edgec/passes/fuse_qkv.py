"""The query, key and value projections of an attention become one linear layer and a `Split`."""

from __future__ import annotations

import onnx_ir as ir

from edgec.passes.base import GraphPass, is_op
from edgec.passes.joined_linears import Linear, earliest, join, linear_of


class FuseQkv(GraphPass):
    name = "fuse-qkv"

    def rewrite(self, model: ir.Model) -> bool:
        modified = False
        for node in list(model.graph):
            if not is_op(node, "Attention"):
                continue
            linears = [_projection(value) for value in node.inputs[:3]]
            found = [linear for linear in linears if linear is not None]
            if len(found) == 3 and _joinable(found):
                join(model.graph, found, earliest(model.graph, [linear.output.producer() for linear in found]))
                modified = True
        return modified


def _projection(value: ir.Value | None) -> Linear | None:
    """The linear layer behind a query, key or value, through rotary embedding, norms and reshapes."""
    while value is not None:
        linear = linear_of(value)
        if linear is not None:
            return linear
        node = value.producer()
        if not is_op(node, "RotaryEmbedding", "RMSNormalization", "Reshape", "Transpose"):
            return None
        assert node is not None
        value = node.inputs[0]
    return None


def _joinable(linears: list[Linear]) -> bool:
    distinct = len({linear.output for linear in linears}) == len(linears)
    return distinct and all(linear.source is linears[0].source for linear in linears)
