"""Mean, difference, square, mean, square root, quotient, scale and shift become `LayerNormalization`."""

from __future__ import annotations

import onnx_ir as ir

from edgec.passes.base import (
    GraphPass,
    constant,
    insert_value,
    is_initializer,
    is_op,
    producer,
    replace,
    scalar,
    shape_of,
)


class FuseLayerNorm(GraphPass):
    name = "fuse-layer-norm"

    def rewrite(self, model: ir.Model) -> bool:
        modified = False
        for node in list(model.graph):
            if not is_op(node, "Div", "Mul"):
                continue
            found = _match(node)
            if found is None:
                continue
            source, epsilon = found
            end, scale, shift = _affine(node.outputs[0])
            if scale is None:
                continue
            last = end.producer()
            assert last is not None
            attributes = {"axis": -1, "epsilon": epsilon}
            normalized = insert_value(last, "LayerNormalization", [source, scale, shift], attributes, like=end)
            replace(end, normalized)
            modified = True
        return modified


def _match(node: ir.Node) -> tuple[ir.Value, float] | None:
    """(x, epsilon) when `node` is (x - mean) / sqrt(variance + epsilon) over the last axis."""
    centered_value, root_value = node.inputs[0], node.inputs[1]
    if node.op_type == "Mul":
        inverse = producer(root_value, "Reciprocal")
        if inverse is None:
            return None
        root_value = inverse.inputs[0]
    root = producer(root_value, "Sqrt")
    total = producer(root.inputs[0], "Add") if root is not None else None
    centered = producer(centered_value, "Sub")
    if total is None or centered is None:
        return None
    epsilon = scalar(total.inputs[1])
    variance = producer(total.inputs[0], "ReduceMean")
    if epsilon is None or variance is None or not _over_last_axis(variance):
        return None
    square = producer(variance.inputs[0], "Pow", "Mul")
    if square is None or not _is_square(square, centered):
        return None
    source = centered.inputs[0]
    mean = producer(centered.inputs[1], "ReduceMean")
    if source is None or mean is None or mean.inputs[0] is not source or not _over_last_axis(mean):
        return None
    return source, epsilon


def _is_square(node: ir.Node, centered: ir.Node) -> bool:
    """Exporters may compute the difference twice."""

    def is_difference(value: ir.Value | None) -> bool:
        other = producer(value, "Sub")
        return other is not None and list(other.inputs) == list(centered.inputs)

    if node.op_type == "Pow":
        return scalar(node.inputs[1]) == 2 and is_difference(node.inputs[0])
    return all(is_difference(value) for value in node.inputs)


def _over_last_axis(node: ir.Node) -> bool:
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else node.attributes.get_ints("axes")
    shape = shape_of(node.inputs[0])
    if axes is None or len(axes) != 1 or not node.attributes.get_int("keepdims", 1):
        return False
    return int(axes[0]) == -1 or (shape is not None and int(axes[0]) == len(shape) - 1)


def _affine(normalized: ir.Value) -> tuple[ir.Value, ir.Value | None, ir.Value | None]:
    """(end, scale, shift) of the product and sum that follow; scale `None` when there is no product."""
    scaled = _applied(normalized, "Mul")
    if scaled is None:
        return normalized, None, None
    shifted = _applied(scaled[0], "Add")
    if shifted is None:
        return scaled[0], scaled[1], None
    return shifted[0], scaled[1], shifted[1]


def _applied(value: ir.Value, op_type: str) -> tuple[ir.Value, ir.Value] | None:
    """(result, vector) when the one use of `value` is an operation with a constant vector."""
    if value.is_graph_output() or len(value.uses()) != 1:
        return None
    node = next(iter(value.uses())).node
    if not is_op(node, op_type):
        return None
    other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
    shape, vector = shape_of(value), shape_of(other)
    if not is_initializer(other) or other is None or shape is None or vector is None or len(vector) != 1:
        return None
    return (node.outputs[0], other) if vector[0] == shape[-1] else None
