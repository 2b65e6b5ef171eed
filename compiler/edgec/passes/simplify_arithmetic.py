"""Cheaper and fewer forms of arithmetic: division by a constant, products with 1, small powers, sums, global pools."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.passes.base import GraphPass, add_initializer, constant, insert_value, is_op, replace, scalar, shape_of


class SimplifyArithmetic(GraphPass):
    name = "simplify-arithmetic"

    def rewrite(self, model: ir.Model) -> bool:
        modified = False
        for node in list(model.graph):
            if node.domain != "" or not node.outputs:
                continue
            result = _simpler(model.graph, node)
            if result is not None:
                replace(node.outputs[0], result)
                modified = True
        return modified


def _simpler(graph: ir.Graph, node: ir.Node) -> ir.Value | None:
    output = node.outputs[0]
    floats = output.dtype in (ir.DataType.FLOAT, None)
    if is_op(node, "Div") and floats:
        divisor = constant(node.inputs[1])
        if divisor is not None and divisor.dtype == np.float32 and np.all(divisor != 0):
            inverse = add_initializer(
                graph, f"{output.name}/inverse", (1.0 / divisor.astype(np.float64)).astype(np.float32)
            )
            return insert_value(node, "Mul", [node.inputs[0], inverse], like=output)
    if is_op(node, "Mul") and floats:
        for value, other in (node.inputs, reversed(node.inputs)):
            ranks = len(shape_of(value) or []), len(shape_of(other) or [])
            if scalar(other) == 1 and ranks[1] <= ranks[0]:
                return insert_value(node, "Identity", [value], like=output)
    if is_op(node, "Pow") and floats:
        return _power(graph, node)
    if is_op(node, "Sum", "Max", "Min", "Mean") and len(node.inputs) == 1:
        return insert_value(node, "Identity", node.inputs, like=output)
    if is_op(node, "Sum", "Max", "Min") and len(node.inputs) > 2:
        pairwise = "Add" if node.op_type == "Sum" else node.op_type
        result = node.inputs[0]
        for other in node.inputs[1:]:
            result = insert_value(node, pairwise, [result, other])
        return result
    if is_op(node, "Sum"):
        return insert_value(node, "Add", node.inputs, like=output)
    if is_op(node, "GlobalAveragePool", "GlobalMaxPool"):
        shape = shape_of(node.inputs[0])
        if shape is None:
            return None
        axes = add_initializer(graph, f"{output.name}/axes", np.arange(2, len(shape), dtype=np.int64))
        reduce = "ReduceMean" if node.op_type == "GlobalAveragePool" else "ReduceMax"
        return insert_value(node, reduce, [node.inputs[0], axes], {"keepdims": 1}, like=output)
    return None


def _power(graph: ir.Graph, node: ir.Node) -> ir.Value | None:
    base, output = node.inputs[0], node.outputs[0]
    exponent = scalar(node.inputs[1])
    exponent_shape = shape_of(node.inputs[1])
    if exponent is None or exponent_shape is None or len(exponent_shape) > len(shape_of(base) or []):
        return None
    if exponent == 2:
        return insert_value(node, "Mul", [base, base], like=output)
    if exponent == 3:
        square = insert_value(node, "Mul", [base, base], like=output)
        return insert_value(node, "Mul", [square, base], like=output)
    if exponent == 0.5:
        return insert_value(node, "Sqrt", [base], like=output)
    if exponent == -1:
        return insert_value(node, "Reciprocal", [base], like=output)
    return None
