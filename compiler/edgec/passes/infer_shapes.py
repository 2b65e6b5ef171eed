"""Shapes and types of every value, as expressions of the model's input dimensions."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import onnx_ir as ir

from edgec.passes import computed_dims, content_rules, shape_rules
from edgec.passes.base import GraphPass, static_shape
from edgec.passes.computed_dims import COMPUTED, DECLARED, Names, computed_shapes
from edgec.passes.dims import known
from edgec.passes.schema_shapes import infer_by_schema
from edgec.passes.shape_context import MAX_ELEMENTS, Content, Context, Shape, Unknown

CONTENT = "edgec.content"  # key of `Value.meta`: the known elements of a small integer tensor

_BOOLEAN = frozenset("And Equal Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual Not Or Xor".split())
_INT64 = frozenset("ArgMax ArgMin NonZero Shape Size".split())
_SECOND = frozenset({"CastLike", "Where"})
_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)


class InferShapes(GraphPass):
    """Replaces what was declared: two inputs' dimensions stay apart, everything else follows."""

    name = "infer-shapes"

    def rewrite(self, model: ir.Model) -> bool:
        infer(model.graph)
        return False


def infer(graph: ir.Graph) -> None:
    """Sets `shape`, `dtype` and, where known, `meta[CONTENT]` of every value of `graph`."""
    prepare(graph)
    opset = graph.opset_imports.get("", 23)
    names = Names()
    for node in graph:
        infer_node(node, opset, names)


def prepare(graph: ir.Graph) -> None:
    """The same for inputs and constants, from which everything else follows."""
    _note_declared(graph)
    _name_free_dimensions(graph)
    for value in graph.inputs:
        if value.dtype in _INTEGERS and value.shape == (0,):
            value.meta[CONTENT] = ()
    for value in graph.initializers.values():
        _from_constant(value)


def infer_node(node: ir.Node, opset: int, names: Names | None = None) -> None:
    """The same for the outputs of a node whose inputs are done; `names` are those of the graph's new dimensions."""
    if node.domain != "":
        return
    names = names or Names()
    node.meta.pop(COMPUTED, None)
    context = Context(node, [_shape(v) for v in node.inputs], [content_of(v) for v in node.inputs])
    if node.op_type in shape_rules.RULES:
        _infer_types(node)
        _infer_outputs(context, names)
    else:
        _infer_by_schema(context, opset, names)


def content_of(value: ir.Value | None) -> Content | None:
    """The elements of a small integer tensor, or `None`."""
    return None if value is None else value.meta.get(CONTENT)


def _shape(value: ir.Value | None) -> Shape | None:
    return None if value is None or value.shape is None else list(value.shape.dims)


def _note_declared(graph: ir.Graph) -> None:
    """Keeps what the model says of its outputs' shapes: bounds for what is computed from values."""
    if DECLARED not in graph.meta:
        graph.meta[DECLARED] = {value.name: _shape(value) for value in graph.outputs}


def _name_free_dimensions(graph: ir.Graph) -> None:
    for value in graph.inputs:
        if value.shape is None:
            continue
        dims = [
            ir.SymbolicDim(f"{value.name}_{axis}") if isinstance(dim, ir.SymbolicDim) and dim.value is None else dim
            for axis, dim in enumerate(value.shape.dims)
        ]
        value.shape = ir.Shape(dims)


def _from_constant(value: ir.Value) -> None:
    tensor = value.const_value
    if tensor is None:
        return
    value.shape = ir.Shape(static_shape(tensor))
    value.dtype = tensor.dtype
    if (
        tensor.dtype in _INTEGERS
        and tensor.size <= MAX_ELEMENTS
        and len(tensor.shape) <= 1
        and not value.is_graph_input()
    ):
        value.meta[CONTENT] = tuple(int(element) for element in tensor.numpy().reshape(-1))


def _infer_types(node: ir.Node) -> None:
    attributes = node.attributes
    first = node.inputs[0].dtype if node.inputs and node.inputs[0] is not None else None
    dtype = first
    if node.op_type == "Cast":
        dtype = ir.DataType(attributes.get_int("to", int(ir.DataType.FLOAT)))
    elif node.op_type in _BOOLEAN:
        dtype = ir.DataType.BOOL
    elif node.op_type in _INT64:
        dtype = ir.DataType.INT64
    elif node.op_type in _SECOND:
        dtype = node.inputs[1].dtype if node.inputs[1] is not None else None
    elif node.op_type == "OneHot":
        dtype = node.inputs[2].dtype if node.inputs[2] is not None else None
    elif node.op_type == "ConstantOfShape":
        tensor = attributes.get_tensor("value")
        dtype = ir.DataType.FLOAT if tensor is None else tensor.dtype
    for output in node.outputs:
        if dtype is not None:
            output.dtype = dtype
    if node.op_type == "Dropout" and len(node.outputs) > 1:
        node.outputs[1].dtype = ir.DataType.BOOL
    if node.op_type in ("MaxPool", "TopK") and len(node.outputs) > 1:
        node.outputs[1].dtype = ir.DataType.INT64


def _infer_by_schema(context: Context, opset: int, names: Names) -> None:
    outputs = context.node.outputs
    if context.node.op_type in computed_dims.RULES:
        for output in outputs:
            output.shape = None
    infer_by_schema(context.node, opset)
    if all(output.shape is not None and all(map(known, output.shape.dims)) for output in outputs):
        return
    with contextlib.suppress(Unknown):
        _set_shapes(outputs, computed_shapes(context, names))


def _set_shapes(outputs: Sequence[ir.Value], shapes: Sequence[Shape]) -> None:
    for output, shape in zip(outputs, shapes, strict=False):
        output.shape = ir.Shape(shape)


def _infer_outputs(context: Context, names: Names) -> None:
    node = context.node
    rule = shape_rules.RULES[node.op_type]
    for output in node.outputs:
        output.meta.pop(CONTENT, None)
    try:
        shapes = rule(context)
    except Unknown:
        with contextlib.suppress(Unknown):
            _set_shapes(node.outputs, computed_shapes(context, names))
        return
    _set_shapes(node.outputs, shapes)
    if len(node.outputs) != 1 or node.outputs[0].dtype not in _INTEGERS or len(shapes[0]) > 1:
        return
    content_rule = content_rules.RULES.get(node.op_type)
    if content_rule is None:
        return
    try:
        content = content_rule(context)
    except Unknown:
        return
    if node.outputs[0].dtype is ir.DataType.BOOL:
        if not all(isinstance(element, int) for element in content):
            return
        content = tuple(int(element != 0) for element in content)
    if len(content) <= MAX_ELEMENTS:
        node.outputs[0].meta[CONTENT] = content
