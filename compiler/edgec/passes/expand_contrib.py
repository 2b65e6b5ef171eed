"""onnxruntime's own operators (`com.microsoft`) become operators of the standard.

What each computes is written in onnxruntime's `docs/ContribOperators.md`. Quantizing activations on the fly is
left out: weights that were quantized elsewhere are read as the numbers that their codes mean, activations stay
float here, and how both are computed is the planner's choice (docs/decisions/0015).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
    is_read,
    replace,
    shape_of,
    static_shape,
)
from edgec.passes.infer_shapes import infer_node, prepare

DOMAIN = "com.microsoft"


class ExpandContrib(GraphPass):
    """Also within branches and loops, as far as it can be done without the shapes of tensors there."""

    name = "expand-contrib"
    graphs_only = True

    def rewrite(self, model: ir.Model) -> bool:
        prepare(model.graph)
        opset = model.opset_imports.get("", 23)
        return _expand(model.graph, model.graph, opset)


def _expand(graph: ir.Graph, root: ir.Graph, opset: int) -> bool:
    modified = False
    for node in list(graph):
        for attribute in node.attributes.values():
            for body in _graphs(attribute):
                modified |= _expand(body, root, opset)
        expansion = _EXPANSIONS.get(node.op_type) if node.domain == DOMAIN else None
        if expansion is None:
            if graph is root:
                infer_node(node, opset)
            continue
        results = expansion(_Place(node, root, opset))
        if results is None:
            continue
        for old, new in zip(node.outputs, results, strict=False):
            if new is not None:
                replace(old, new)
        graph.remove(node, safe=True)
        modified = True
    return modified


def _graphs(attribute: ir.Attr) -> Iterable[ir.Graph]:
    if attribute.type == ir.AttributeType.GRAPH:
        return [attribute.as_graph()]
    return attribute.as_graphs() if attribute.type == ir.AttributeType.GRAPHS else []


class _Place:
    """Where the nodes go that stand for `node`."""

    def __init__(self, node: ir.Node, root: ir.Graph, opset: int) -> None:
        self.node, self._root, self._opset = node, root, opset

    def input(self, index: int) -> ir.Value | None:
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def required(self, index: int) -> ir.Value:
        value = self.input(index)
        if value is None:
            raise ValueError(f"{self.node.op_type} lacks its input {index}")
        return value

    def add(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        value = insert_value(self.node, op_type, list(inputs), attributes, name=f"{self.node.name}/{op_type}")
        producer = value.producer()
        assert producer is not None
        if self.node.graph is self._root:
            infer_node(producer, self._opset)
        return value

    def number(self, value: float) -> ir.Value:
        graph = self.node.graph
        assert isinstance(graph, ir.Graph)
        return add_initializer(graph, f"{self.node.name}/number", np.array(value, np.float32))

    def attribute(self, name: str, default: float) -> float:
        return float(self.node.attributes.get_float(name, default))

    def flag(self, name: str) -> bool:
        return self.node.attributes.get_int(name, 0) != 0

    def dequantized(self, codes: ir.Value, scale: ir.Value, zero: ir.Value | None) -> ir.Value:
        """The weight that `codes` `[..., K, N]` mean; scale and zero point are of all, or of each of the N columns."""
        parts = [part for part in (codes, scale, zero) if part is not None]
        if not all(is_initializer(part) for part in parts):
            return self.add("DequantizeLinear", *parts, axis=-1)
        graph = self._root if self._root.initializers.get(codes.name or "") is codes else self.node.graph
        assert isinstance(graph, ir.Graph)
        name = f"{codes.name}/float"
        known = graph.initializers.get(name)
        return known if known is not None else add_initializer(graph, name, _dequantized(codes, scale, zero))


def _dequantized(codes: ir.Value, scale: ir.Value, zero: ir.Value | None) -> ir.LazyTensor:
    tensor = codes.const_value
    assert tensor is not None
    factor, shift = constant(scale), constant(zero) if zero is not None else None
    assert factor is not None

    def vector(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return array.reshape(()) if array.size == 1 else array

    def read() -> ir.TensorProtocol:
        numbers = tensor.numpy().astype(np.int32)
        if shift is not None:
            numbers = numbers - vector(shift).astype(np.int32)
        return ir.tensor(numbers.astype(np.float32) * vector(factor).astype(np.float32))

    return ir.LazyTensor(read, ir.DataType.FLOAT, ir.Shape(static_shape(tensor)), name=f"{codes.name}/float")


Results = Sequence[ir.Value | None] | None  # one per output of the node; `None`: shapes must be known first


def _dynamic_quantize_matmul(place: _Place) -> Results:
    weight = place.dequantized(place.required(1), place.required(2), place.input(3))
    return [_biased(place, place.add("MatMul", place.required(0), weight), place.input(4))]


def _matmul_integer_to_float(place: _Place) -> Results:
    codes, scale, zero = place.required(0), place.required(2), place.input(4)
    source = codes.producer()
    if source is not None and is_op(source, "DynamicQuantizeLinear") and source.inputs[0] is not None:
        left = source.inputs[0]
    else:
        left = place.add("DequantizeLinear", *(part for part in (codes, scale, zero) if part is not None))
    weight = place.dequantized(place.required(1), place.required(3), place.input(5))
    return [_biased(place, place.add("MatMul", left, weight), place.input(6))]


def _biased(place: _Place, value: ir.Value, bias: ir.Value | None) -> ir.Value:
    return value if bias is None else place.add("Add", value, bias)


def _fused_matmul(place: _Place) -> Results:
    if place.flag("transBatchA") or place.flag("transBatchB"):
        return None
    factors = [place.required(0), place.required(1)]
    for index, name in enumerate(("transA", "transB")):
        if not place.flag(name):
            continue
        shape = shape_of(factors[index])
        if shape is None:
            return None
        rank = len(shape)
        if rank > 1:
            order = [*range(rank - 2), rank - 1, rank - 2]
            factors[index] = place.add("Transpose", factors[index], perm=order)
    product = place.add("MatMul", *factors)
    alpha = place.attribute("alpha", 1.0)
    return [product if alpha == 1 else place.add("Mul", product, place.number(alpha))]


def _gelu(place: _Place) -> Results:
    return [place.add("Gelu", place.required(0))]


def _fast_gelu(place: _Place) -> Results:
    source, bias = place.required(0), place.input(1)
    return [place.add("Gelu", _biased(place, source, bias), approximate="tanh")]


def _bias_gelu(place: _Place) -> Results:
    return [place.add("Gelu", place.add("Add", place.required(0), place.required(1)))]


def _quick_gelu(place: _Place) -> Results:
    source, alpha = place.required(0), place.attribute("alpha", 1.702)
    gate = source if alpha == 1 else place.add("Mul", source, place.number(alpha))
    return [place.add("Mul", source, place.add("Sigmoid", gate))]


_ACTIVATIONS = frozenset({"Relu", "Tanh", "Sigmoid"})  # of FusedConv, those without parameters


def _fused_conv(place: _Place) -> Results:
    activation = place.node.attributes.get_string("activation", "")
    if (activation and activation not in _ACTIVATIONS) or place.input(3) is not None:
        return None
    kept = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    attributes = {name: place.node.attributes[name].value for name in kept if name in place.node.attributes}
    value = place.add("Conv", *place.node.inputs[:3], **attributes)
    return [place.add(activation, value) if activation else value]


def _skip_layer_normalization(place: _Place) -> Results:
    if any(is_read(value) for value in place.node.outputs[1:3]):
        return None
    total = place.add("Add", place.required(0), place.required(1))
    total = _biased(place, total, place.input(4))
    gamma, beta = place.required(2), place.input(3)
    scaled = [total, gamma] if beta is None else [total, gamma, beta]
    epsilon = place.attribute("epsilon", 1e-12)
    return [place.add("LayerNormalization", *scaled, axis=-1, epsilon=epsilon), None, None, total]


def _skip_simplified_layer_normalization(place: _Place) -> Results:
    if any(is_read(value) for value in place.node.outputs[1:3]):
        return None
    total = _biased(place, place.add("Add", place.required(0), place.required(1)), place.input(3))
    epsilon = place.attribute("epsilon", 1e-12)
    return [place.add("RMSNormalization", total, place.required(2), axis=-1, epsilon=epsilon), None, None, total]


def _rotary_embedding(place: _Place) -> Results:
    """The standard's operator, whose positions are those of each token; not an offset of all of them."""
    positions = shape_of(place.required(1))
    if positions is None or len(positions) != 2 or place.attribute("scale", 1.0) != 1:
        return None
    if place.flag("is_packed_batching"):
        return None
    names = ("interleaved", "num_heads", "rotary_embedding_dim")
    attributes = {name: place.node.attributes.get_int(name, 0) for name in names}
    source, cos, sin = (place.required(index) for index in (0, 2, 3))
    return [place.add("RotaryEmbedding", source, cos, sin, place.required(1), **attributes)]


_EXPANSIONS: dict[str, Callable[[_Place], Results]] = {
    "BiasGelu": _bias_gelu,
    "DynamicQuantizeMatMul": _dynamic_quantize_matmul,
    "FastGelu": _fast_gelu,
    "FusedConv": _fused_conv,
    "FusedMatMul": _fused_matmul,
    "Gelu": _gelu,
    "MatMulIntegerToFloat": _matmul_integer_to_float,
    "QuickGelu": _quick_gelu,
    "RotaryEmbedding": _rotary_embedding,
    "SkipLayerNormalization": _skip_layer_normalization,
    "SkipSimplifiedLayerNormalization": _skip_simplified_layer_normalization,
}
CONTRIB_OPS = frozenset(f"{DOMAIN}.{name}" for name in _EXPANSIONS)

__all__ = ["CONTRIB_OPS", "ExpandContrib"]
