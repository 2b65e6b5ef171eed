"""What a linear layer or convolution does on the way out: bias, activation, residual.

A group is emitted at its last node, when everything that it reads exists.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from edgec.lower.wasm.kernels.activations import NEAR
from edgec.lower.wasm.kernels.epilogue import Epilogue
from edgec.passes import dims as d
from edgec.passes.base import constant, is_initializer, is_op, only_use, producer, scalar, shape_of
from edgec.passes.dims import Dim

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)  # float32 in memory


@dataclass
class Group:
    """`anchor` and the nodes behind it that its kernel computes too; `end` is the value that they make."""

    anchor: ir.Node
    end: ir.Value
    bias: ir.Value | None = None
    activation: str | None = None
    shift: ir.Value | None = None  # added after the activation
    residual: ir.Value | None = None
    transposed: bool = False  # `end` is channels last although the anchor's output is not
    nodes: list[ir.Node] = field(default_factory=list)

    def epilogue(self, *, near: bool) -> Epilogue:
        """`near`: with an activation of the few bits that codes leave."""
        shifted = self.shift is not None
        biased = self.bias is not None or shifted
        activation = NEAR.get(self.activation or "", self.activation) if near else self.activation
        return Epilogue(biased, activation, self.residual is not None, shifted=shifted)


def find_groups(graph: ir.Graph) -> dict[ir.Node, Group]:
    """The group that each MatMul by a weight and each Conv starts."""
    groups: dict[ir.Node, Group] = {}
    taken: set[ir.Node] = set()
    for node in graph:
        if _is_anchor(node):
            group = _grow(node)
            if not taken.intersection(group.nodes):
                groups[node] = group
                taken.update(group.nodes)
    return groups


def _is_anchor(node: ir.Node) -> bool:
    if is_op(node, "Conv"):
        return is_initializer(node.inputs[1]) and _has_kernel(node)
    return is_op(node, "MatMul") and weight_of_matmul(node) is not None and _is_float32(node)


def _has_kernel(conv: ir.Node) -> bool:
    """Images and sequences of float32, with a bias that is a constant, if any."""
    shape = shape_of(conv.inputs[0])
    bias = conv.inputs[2] if len(conv.inputs) > 2 else None
    return shape is not None and len(shape) in (3, 4) and _is_float32(conv) and (bias is None or is_initializer(bias))


def _is_float32(node: ir.Node) -> bool:
    return all(value is None or value.dtype in _FLOATS for value in node.inputs)


def weight_of_matmul(node: ir.Node) -> ir.Value | None:
    """The weight initializer of a linear layer, which may be transposed on the way."""
    value = node.inputs[1]
    transpose = producer(value, "Transpose")
    if transpose is not None:
        order = transpose.attributes.get_ints("perm")
        value = transpose.inputs[0] if order is None or list(order) == [1, 0] else None
    shape = shape_of(value)
    return value if is_initializer(value) and shape is not None and len(shape) == 2 else None


def _grow(anchor: ir.Node) -> Group:
    group = Group(anchor, anchor.outputs[0], nodes=[anchor])
    if is_op(anchor, "Conv"):
        group.bias = anchor.inputs[2] if len(anchor.inputs) > 2 else None
        _take_transpose(group)
    else:
        _take_bias(group)
    _take_activation(group)
    if is_op(anchor, "Conv"):
        _take_shift(group)
    _take_residual(group)
    return group


def _next(group: Group, *op_types: str) -> ir.Node | None:
    node = only_use(group.end)
    return node if is_op(node, *op_types) else None


def _extend(group: Group, *nodes: ir.Node) -> None:
    group.nodes += nodes
    group.end = nodes[-1].outputs[0]


def _take_transpose(group: Group) -> None:
    node = _next(group, "Transpose")
    shape = shape_of(group.end)
    if node is None or shape is None:
        return
    if list(node.attributes.get_ints("perm") or []) == [0, *range(2, len(shape)), 1]:
        _extend(group, node)
        group.transposed = True


def _take_bias(group: Group) -> None:
    node = _next(group, "Add")
    shape = shape_of(group.end)
    if node is None or shape is None:
        return
    other = _other(node, group.end)
    dims = shape_of(other)
    if is_initializer(other) and dims and dims[-1] == shape[-1] and all(dim == 1 for dim in dims[:-1]):
        _extend(group, node)
        group.bias = other


def _take_activation(group: Group) -> None:
    uses = {use.node for use in group.end.uses()}
    if len(uses) == 2 and not group.end.is_graph_output():
        sigmoid = next((node for node in uses if is_op(node, "Sigmoid")), None)
        if sigmoid is not None and is_op(only_use(sigmoid.outputs[0]), "Mul"):
            product = only_use(sigmoid.outputs[0])
            if product in uses and product is not None and len(group.end.uses()) == 2:
                _extend(group, sigmoid, product)
                group.activation = "silu"
        return
    node = only_use(group.end)
    name = _activation(node)
    if node is not None and name is not None:
        _extend(group, node)
        group.activation = name


def _activation(node: ir.Node | None) -> str | None:
    if node is None or node.domain != "":
        return None
    if node.op_type == "Clip":
        bounds = [scalar(value) for value in node.inputs[1:]]
        return {(0.0, 6.0): "relu6"}.get(tuple(bounds))  # type: ignore[arg-type]
    if node.op_type == "Gelu":
        return "gelu_tanh" if node.attributes.get_string("approximate", "none") == "tanh" else "gelu"
    return {"HardSwish": "hard_swish", "Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh"}.get(node.op_type)


def _take_shift(group: Group) -> None:
    node = _next(group, "Add")
    if node is None or group.activation is None:
        return
    other = _other(node, group.end)
    if scalar(other) is not None and len(shape_of(other) or []) <= len(shape_of(group.end) or []):
        _extend(group, node)
        group.shift = other


def _take_residual(group: Group) -> None:
    node = _next(group, "Add")
    shape = shape_of(group.end)
    if node is None or shape is None:
        return
    other = _other(node, group.end)
    dims = shape_of(other)
    if other is None or dims is None or constant(other) is not None or is_initializer(other):
        return
    if _same(dims, shape) and other is not group.end:
        _extend(group, node)
        group.residual = other


def _same(a: list[Dim], b: list[Dim]) -> bool:
    return len(a) == len(b) and all(d.same(x, y) for x, y in zip(a, b, strict=True))


def _other(node: ir.Node, value: ir.Value) -> ir.Value | None:
    return node.inputs[1] if node.inputs[0] is value else node.inputs[0]
