"""The gate and up projections of a gated MLP become one linear layer and a `Split`."""

from __future__ import annotations

import onnx_ir as ir

from edgec.passes.base import GraphPass, is_op
from edgec.passes.joined_linears import Linear, earliest, join, linear_of

_ACTIVATIONS = ("Gelu", "Relu", "Sigmoid", "Swish", "Tanh")


class FuseGateUp(GraphPass):
    name = "fuse-gate-up"

    def rewrite(self, model: ir.Model) -> bool:
        modified = False
        for node in list(model.graph):
            if not is_op(node, "Mul"):
                continue
            for gate_value, up_value in (node.inputs, reversed(node.inputs)):
                gate, up = _activated(gate_value), linear_of(up_value)
                if gate is None or up is None or gate.source is not up.source or gate.output is up.output:
                    continue
                join(model.graph, [gate, up], earliest(model.graph, [gate.output.producer(), up.output.producer()]))
                modified = True
                break
        return modified


def _activated(value: ir.Value | None) -> Linear | None:
    """The linear layer behind act(x), behind x * sigmoid(x), or behind relu(x) * relu(x)."""
    node = value.producer() if value is not None else None
    if node is None:
        return None
    if is_op(node, *_ACTIVATIONS):
        return linear_of(node.inputs[0])
    if is_op(node, "Mul") and node.inputs[0] is node.inputs[1]:
        square = node.inputs[0].producer() if node.inputs[0] is not None else None
        return linear_of(square.inputs[0]) if square is not None and is_op(square, "Relu") else None
    if is_op(node, "Mul"):
        for plain, activated in (node.inputs, reversed(node.inputs)):
            inner = activated.producer() if activated is not None else None
            if is_op(inner, "Sigmoid") and inner is not None and inner.inputs[0] is plain:
                return linear_of(plain)
    return None
