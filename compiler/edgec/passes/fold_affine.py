"""Products and sums with constants beside a convolution go into its weights and bias.

Those behind it may differ from channel to channel. Those before it are single numbers, so that no channel
becomes coarser when activations are quantized; a number that is added before a convolution with padding stays,
since zeros at the border do not get it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgec.passes.base import (
    GraphPass,
    add_initializer,
    constant,
    insert_value,
    is_initializer,
    is_op,
    only_use,
    producer,
    replace,
    scalar,
    static_shape,
)

Array = npt.NDArray[Any]


class FoldAffine(GraphPass):
    name = "fold-affine"

    def rewrite(self, model: ir.Model) -> bool:
        modified = False
        for node in list(model.graph):
            if is_op(node, "Add", "Mul") and (_behind(model.graph, node) or _before(model.graph, node)):
                modified = True
        return modified


def convolution_behind(value: ir.Value | None) -> ir.Node | None:
    """The Conv or ConvTranspose that makes `value` for one reader and whose weights can be scaled."""
    conv = producer(value, "Conv", "ConvTranspose")
    if conv is None or only_use(conv.outputs[0]) is None or not _has_float_weight(conv):
        return None
    if is_op(conv, "ConvTranspose") and conv.attributes.get_int("group", 1) != 1:
        return None
    return conv


def scaled(graph: ir.Graph, anchor: ir.Node, conv: ir.Node, scale: Array | None, shift: Array | None) -> ir.Value:
    """`conv(...) * scale + shift` as one convolution before `anchor`; both are one number per output."""
    weight, bias = conv.inputs[1], constant(conv.inputs[2]) if len(conv.inputs) > 2 else None
    assert weight is not None
    new_weight = weight
    if scale is not None:
        axis = 1 if is_op(conv, "ConvTranspose") else 0
        factor = scale.reshape([-1 if i == axis else 1 for i in range(len(weight.shape or []))])
        new_weight = _multiplied(graph, weight, factor)
        bias = bias if bias is None else bias * scale
    if shift is not None:
        bias = shift if bias is None else bias + shift
    inputs = [conv.inputs[0], new_weight]
    if bias is not None:
        inputs.append(add_initializer(graph, f"{weight.name}/bias", bias.astype(np.float32)))
    return insert_value(anchor, conv.op_type, inputs, _attributes(conv), like=conv.outputs[0])


def _behind(graph: ir.Graph, node: ir.Node) -> bool:
    """A constant that meets what a convolution gives."""
    for value, other in (node.inputs, reversed(node.inputs)):
        conv = convolution_behind(value)
        if conv is None:
            continue
        numbers = _per_output(conv, constant(other))
        if numbers is None:
            return False
        scale, shift = (numbers, None) if is_op(node, "Mul") else (None, numbers)
        replace(node.outputs[0], scaled(graph, node, conv, scale, shift))
        return True
    return False


def _per_output(conv: ir.Node, array: Array | None) -> Array | None:
    """`array` as one number for each output of `conv`, if broadcasting makes it so."""
    shape = static_shape(conv.inputs[1].const_value)  # type: ignore[union-attr,arg-type]
    outputs = shape[1] if is_op(conv, "ConvTranspose") else shape[0]
    if array is None or array.ndim > len(shape):
        return None
    aligned = [1] * (len(shape) - array.ndim) + list(array.shape)
    if aligned[1] not in (1, outputs) or any(dim != 1 for i, dim in enumerate(aligned) if i != 1):
        return None
    return np.broadcast_to(array.reshape(-1).astype(np.float64), (outputs,))


def _before(graph: ir.Graph, node: ir.Node) -> bool:
    """A number that meets what only convolutions read."""
    readers = [use.node for use in node.outputs[0].uses()]
    if node.outputs[0].is_graph_output() or not readers:
        return False
    if not all(is_op(reader, "Conv") and reader.inputs[0] is node.outputs[0] for reader in readers):
        return False
    if not all(_has_float_weight(reader) for reader in readers):
        return False
    number, source = _number_and_other(node)
    if number is None or source is None:
        return False
    scale, shift = (number, 0.0) if is_op(node, "Mul") else (1.0, number)
    inner = producer(source, "Mul")
    if shift != 0 and inner is not None and only_use(source) is node:
        factor, other = _number_and_other(inner)
        if factor is not None and other is not None and abs(factor) > abs(shift) * 1e-4:
            scale, source = factor, other
    weights = [constant(reader.inputs[1]) for reader in readers]
    padded = shift != 0 and not all(_is_unpadded(reader) for reader in readers)
    stays = padded or (shift != 0 and any(weight is None for weight in weights))
    if stays and scale == 1:
        return False
    if stays:
        moved = add_initializer(graph, f"{node.outputs[0].name}/shift", np.array(shift / scale, np.float32))
        source = insert_value(node, "Add", [source, moved], like=node.outputs[0])
    for reader, weight in zip(readers, weights, strict=True):
        added = None
        if shift != 0 and not stays:
            assert weight is not None
            added = weight.astype(np.float64).reshape(len(weight), -1).sum(axis=1) * shift
        _feed(graph, reader, source, scale, added)
    return True


def _feed(graph: ir.Graph, conv: ir.Node, source: ir.Value, scale: float, added: Array | None) -> None:
    """`conv` reads `source`, times `scale`, and adds `added` to each output."""
    weight = conv.inputs[1]
    assert weight is not None
    inputs = list(conv.inputs)
    inputs[0] = source
    if scale != 1:
        inputs[1] = _multiplied(graph, weight, np.array(scale))
    if added is not None:
        bias = constant(inputs[2]) if len(inputs) > 2 else None
        total = added if bias is None else bias + added
        inputs[2:] = [add_initializer(graph, f"{weight.name}/bias", total.astype(np.float32))]
    replace(conv.outputs[0], insert_value(conv, "Conv", inputs, _attributes(conv), like=conv.outputs[0]))


def _number_and_other(node: ir.Node) -> tuple[float | None, ir.Value | None]:
    """The single number among the two operands, in whose shape the other one stays, and that other one."""
    for value, other in (node.inputs, reversed(node.inputs)):
        number = scalar(value)
        if number is not None and value is not None and other is not None and other.shape is not None:
            return (number, other) if len(value.shape or []) <= len(other.shape) else (None, None)
    return None, None


def _has_float_weight(conv: ir.Node) -> bool:
    weight = conv.inputs[1]
    bias = conv.inputs[2] if len(conv.inputs) > 2 else None
    if weight is None or not is_initializer(weight) or weight.const_value is None:
        return False
    return weight.const_value.dtype == ir.DataType.FLOAT and (bias is None or constant(bias) is not None)


def _is_unpadded(conv: ir.Node) -> bool:
    automatic = conv.attributes.get_string("auto_pad", "NOTSET")
    return automatic == "VALID" or (automatic == "NOTSET" and not any(_pads(conv)))


def _pads(conv: ir.Node) -> Sequence[int]:
    return conv.attributes.get_ints("pads") or []


def _multiplied(graph: ir.Graph, weight: ir.Value, factor: Array) -> ir.Value:
    tensor = weight.const_value
    assert tensor is not None

    def product() -> ir.TensorProtocol:
        return ir.Tensor((tensor.numpy() * factor).astype(np.float32))

    lazy = ir.LazyTensor(product, ir.DataType.FLOAT, ir.Shape(static_shape(tensor)))
    return add_initializer(graph, f"{weight.name}/scaled", lazy)


def _attributes(node: ir.Node) -> dict[str, Any]:
    return {attribute.name: attribute.value for attribute in node.attributes.values()}
