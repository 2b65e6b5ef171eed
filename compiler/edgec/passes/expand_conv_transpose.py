"""A `ConvTranspose` whose windows do not overlap becomes a 1 x 1 `Conv` and `DepthToSpace`.

Every input pixel then makes a square of output pixels of its own: one matrix product. An activation moves in front of
`DepthToSpace`, where the product can apply it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.passes.base import (
    GraphPass,
    add_initializer,
    constant,
    insert_value,
    is_initializer,
    is_op,
    only_use,
    replace,
    shape_of,
    static_shape,
)
from edgec.passes.shape_rules import ELEMENTWISE_UNARY


class ExpandConvTranspose(GraphPass):
    name = "expand-conv-transpose"

    def rewrite(self, model: ir.Model) -> bool:
        modified = False
        for node in list(model.graph):
            if is_op(node, "ConvTranspose") and _is_simple(node):
                _expand(model.graph, node)
                modified = True
        return modified


def _is_simple(node: ir.Node) -> bool:
    """Square windows side by side, one group, weights that are known."""
    weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    if not is_initializer(weight) or weight is None or weight.const_value is None or shape_of(node.inputs[0]) is None:
        return False
    if weight.const_value.dtype != ir.DataType.FLOAT or (bias is not None and constant(bias) is None):
        return False
    _, _, *kernel = static_shape(weight.const_value)
    if len(kernel) != 2 or kernel[0] != kernel[1] or kernel[0] < 2:
        return False
    if node.attributes.get_int("group", 1) != 1 or node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return False
    moved = [*(node.attributes.get_ints("pads") or []), *(node.attributes.get_ints("output_padding") or [])]
    spread = [step - 1 for step in node.attributes.get_ints("dilations") or []]
    strides = list(node.attributes.get_ints("strides") or [1, 1])
    return not any(moved) and not any(spread) and "output_shape" not in node.attributes and strides == kernel


def _expand(graph: ir.Graph, node: ir.Node) -> None:
    source, weight, output = node.inputs[0], node.inputs[1], node.outputs[0]
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    assert source is not None and weight is not None and weight.const_value is not None
    tensor = weight.const_value
    inputs, outputs, size, _ = static_shape(tensor)

    def rearranged() -> ir.TensorProtocol:
        return ir.Tensor(np.ascontiguousarray(tensor.numpy().transpose(2, 3, 1, 0)).reshape(-1, inputs, 1, 1))

    shape = ir.Shape([size * size * outputs, inputs, 1, 1])
    lazy = ir.LazyTensor(rearranged, ir.DataType.FLOAT, shape)
    operands = [source, add_initializer(graph, f"{weight.name}/squares", lazy)]
    if bias is not None:
        operands.append(add_initializer(graph, f"{weight.name}/bias", np.tile(bias, size * size)))
    value = insert_value(node, "Conv", operands, {"kernel_shape": [1, 1]})
    value.type = output.type
    end, reader = output, only_use(output)
    if reader is not None and reader.domain == "" and reader.op_type in ELEMENTWISE_UNARY - {"Cast"}:
        attributes = {attribute.name: attribute.value for attribute in reader.attributes.values()}
        value = insert_value(node, reader.op_type, [value], attributes)
        value.type = output.type
        end = reader.outputs[0]
    replace(end, insert_value(node, "DepthToSpace", [value], {"blocksize": size, "mode": "DCR"}, like=end))
