"""How long one run of a graph takes on a profile: multiply-adds and moved bytes of each node, the slower of the two.

Multiply-adds by quantized weights run at the rate of 8-bit dot products, all others at that of float32; what has none
costs a few operations for each element that it makes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx_ir

from edgec.ir.model import ModelIR
from edgec.ir.plan import TensorPlan
from edgec.plan import roofline
from edgec.profiles import Profile

# As measured on one core that does 105 GOP/s: MiniLM, ViT, CLIP, EfficientNet and YOLOX are met within 40 %.
_REACHED = 0.9
_FLOAT_PENALTY = 2  # float32 multiply-adds against 8-bit dot products
_ELEMENTWISE = 1  # float32 multiply-adds that an element of a cheap operator costs
_FREE = frozenset(
    "ConstantOfShape Expand Flatten Identity Reshape Shape Slice Split Squeeze Transpose Unsqueeze".split()
)  # views, or done by those that read them


def run_seconds(
    model: ModelIR, tensors: Sequence[TensorPlan], dims: Mapping[str, int], profile: Profile, threads: int
) -> float:
    """With every dimension at its bound. Nodes of unknown shape do not count."""
    planned = {tensor.name: tensor for tensor in tensors}
    works = [node_work(node, planned, dims) for node in model.model.graph]
    return sum(roofline.seconds(profile, work.bytes, work.operations, threads) for work in works) / _REACHED


def node_work(node: onnx_ir.Node, planned: Mapping[str, TensorPlan], dims: Mapping[str, int]) -> roofline.Work:
    """Bytes and 8-bit operations of one node."""
    made = sum(_elements(value, dims) for value in node.outputs)
    read = sum(_elements(value, dims) for value in node.inputs if value is not None and value.const_value is None)
    moved = 4 * (made + read)
    found = (planned.get(value.name or "") for value in node.inputs if value is not None)
    weight = next((tensor for tensor in found if tensor is not None), None)
    width = 32 if weight is None else weight.bits
    macs = multiply_adds(node, dims)
    if macs:
        read_once = moved + _weight_bytes(node, width)
        if weight is not None and weight.quantized:
            return roofline.matrix_work(read_once, macs, width, weight.group_size)
        return roofline.Work(read_once, 2.0 * macs * _FLOAT_PENALTY)
    if node.op_type in _FREE:
        return roofline.Work(0, 0.0)
    return roofline.Work(moved, 2.0 * _ELEMENTWISE * made * _FLOAT_PENALTY)


def multiply_adds(node: onnx_ir.Node, dims: Mapping[str, int]) -> int:
    """Of the operators that are made of them; 0 for the others."""
    output = node.outputs[0]
    shapes = [_shape(value, dims) for value in node.inputs]
    made = _elements(output, dims)
    if not made or any(shape is None for value, shape in zip(node.inputs, shapes, strict=True) if value is not None):
        return 0
    known = [shape or () for shape in shapes]
    if node.op_type in ("MatMul", "Gemm", "MatMulInteger") and known[0]:
        inner = known[0][-2] if node.attributes.get_int("transA", 0) and len(known[0]) > 1 else known[0][-1]
        return made * inner
    if node.op_type in ("Conv", "ConvInteger"):
        return made * math.prod(known[1][1:])
    if node.op_type == "ConvTranspose":
        return math.prod(known[0]) * math.prod(known[1][1:])
    if node.op_type == "Attention":
        query, key = known[0], known[1]
        return 2 * math.prod(query) * (key[1] if len(key) == 3 else key[2])
    if node.op_type in ("LSTM", "GRU", "RNN"):
        return known[0][0] * known[0][1] * (math.prod(known[1]) + math.prod(known[2]))
    return 0


def _weight_bytes(node: onnx_ir.Node, bits: int) -> int:
    constants = [value.const_value for value in node.inputs if value is not None and value.const_value is not None]
    return sum(tensor.size for tensor in constants) * bits // 8


def _elements(value: onnx_ir.Value, dims: Mapping[str, int]) -> int:
    shape = _shape(value, dims)
    return 0 if shape is None else math.prod(shape)


def _shape(value: onnx_ir.Value | None, dims: Mapping[str, int]) -> tuple[int, ...] | None:
    if value is None or value.shape is None:
        return None
    sizes = [
        dim if isinstance(dim, int) else None if dim.value is None else dim.evaluate(dict(dims)) for dim in value.shape
    ]
    known = tuple(size for size in sizes if isinstance(size, int))
    return known if len(known) == len(sizes) else None


__all__ = ["multiply_adds", "node_work", "run_seconds"]
