"""`Gemm` becomes `MatMul`, `Mul` and `Add`, so that there is one kind of linear layer.

A transposed weight is the node `Transpose(weight)`, never a second copy of the weight.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.passes.base import GraphPass, add_initializer, insert_value, is_op, replace


class GemmToMatMul(GraphPass):
    name = "gemm-to-matmul"

    def rewrite(self, model: ir.Model) -> bool:
        gemms = [node for node in model.graph if is_op(node, "Gemm")]
        for node in gemms:
            replace(node.outputs[0], _expanded(model.graph, node))
        return bool(gemms)

    def ensures(self, model: ir.Model) -> None:
        if any(is_op(node, "Gemm") for node in model.graph):
            raise ir.passes.PostconditionError("a Gemm is left")


def _expanded(graph: ir.Graph, node: ir.Node) -> ir.Value:
    a, b = node.inputs[0], node.inputs[1]
    output = node.outputs[0]
    if node.attributes.get_int("transA", 0):
        a = insert_value(node, "Transpose", [a], {"perm": [1, 0]})
    if node.attributes.get_int("transB", 0):
        b = insert_value(node, "Transpose", [b], {"perm": [1, 0]})
    result = insert_value(node, "MatMul", [a, b], like=output)
    result = _scaled(graph, node, result, node.attributes.get_float("alpha", 1.0))
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:
        return result
    bias = _scaled(graph, node, bias, node.attributes.get_float("beta", 1.0))
    return insert_value(node, "Add", [result, bias], like=output)


def _scaled(graph: ir.Graph, node: ir.Node, value: ir.Value, factor: float) -> ir.Value:
    if factor == 1.0:
        return value
    constant = add_initializer(graph, f"{node.outputs[0].name}/factor", np.array(factor, np.float32))
    return insert_value(node, "Mul", [value, constant], like=value)
