"""Operators that ONNX defines as functions of simpler ones become those.

Only where no kernel stands for the operator, or not for the form in which it is used: `EXPANDED` and `_FORMS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from edgec.errors import UnsupportedError
from edgec.passes.base import GraphPass, is_read
from edgec.passes.infer_shapes import infer

EXPANDED = frozenset(
    "AffineGrid BlackmanWindow CausalConvWithState CenterCropPad DynamicQuantizeLinear HammingWindow HannWindow "
    "LinearAttention MeanVarianceNormalization NegativeLogLikelihoodLoss RotaryEmbedding Shrink "
    "SoftmaxCrossEntropyLoss SwiGLU".split()
)
PREVIEW = frozenset({"ai.onnx.preview.FlexAttention"})  # not yet in the standard
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)  # float32 in memory
_DOMAIN = "edgec.expanded"
_MOST_ROUNDS = 8  # functions within functions


def _attention_with_more(node: ir.Node) -> bool:
    """A cache, scores as an output, a window, or other types than the kernel's."""
    known = {"is_causal", "kv_num_heads", "q_num_heads", "qk_matmul_output_mode", "scale", "softcap"}
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    return (
        any(value is not None for value in node.inputs[4:])
        or any(is_read(value) for value in node.outputs[1:])
        or not known.issuperset(node.attributes)
        or any(value is not None and value.dtype not in _FLOATS for value in node.inputs[:3])
        or (mask is not None and mask.dtype not in (*_FLOATS, ir.DataType.BOOL))
        or (mask is not None and node.attributes.get_int("is_causal", 0) != 0)
    )


def _norm_with_statistics(node: ir.Node) -> bool:
    return any(is_read(value) for value in node.outputs[1:])


def _not_float32(node: ir.Node) -> bool:
    return node.inputs[0] is not None and node.inputs[0].dtype not in _FLOATS


_FORMS: dict[str, Callable[[ir.Node], bool]] = {
    "Attention": _attention_with_more,
    "GroupNormalization": _not_float32,
    "LayerNormalization": lambda node: _norm_with_statistics(node) or _not_float32(node),
    "LogSoftmax": _not_float32,
    "RMSNormalization": _not_float32,
    "Softmax": _not_float32,
}


class ExpandFunctions(GraphPass):
    name = "expand-functions"
    graphs_only = True

    def rewrite(self, model: ir.Model) -> bool:
        modified = False
        for _ in range(_MOST_ROUNDS):
            infer(model.graph)
            chosen = [node for node in model.graph if _is_expanded(node)]
            if not chosen:
                break
            for number, node in enumerate(chosen):
                _make_call(model, node, number)
            common.InlinePass(lambda function: function.domain == _DOMAIN)(model)
            model.opset_imports.pop(_DOMAIN, None)
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
            modified = True
        return modified

    def ensures(self, model: ir.Model) -> None:
        left = sorted({node.op_type for node in model.graph if _is_expanded(node)})
        if left:
            raise ir.passes.PostconditionError(f"functions are left: {left}")


def _is_expanded(node: ir.Node) -> bool:
    if node.domain != "":
        return f"{node.domain}.{node.op_type}" in PREVIEW
    form = _FORMS.get(node.op_type)
    return node.op_type in EXPANDED or (form is not None and form(node))


def _make_call(model: ir.Model, node: ir.Node, number: int) -> None:
    """The node becomes a call of a local function with the body that the standard gives it."""
    opset = model.opset_imports.get(node.domain, 23)
    _fill_in_defaults(node, onnx.defs.get_schema(node.op_type, opset, node.domain))
    body = _body(node, opset)
    made = {name for inner in body.node for name in inner.output}
    outputs = [(old, name) for old, name in zip(node.outputs, body.output, strict=False) if name in made]
    del body.output[:]
    body.output.extend(name for _, name in outputs)
    function = ir.serde.deserialize_function(body)
    named = ir.Function(
        _DOMAIN, node.op_type, str(number), graph=function.graph, attributes=list(function.attributes.values())
    )
    named.opset_imports.update({domain: model.opset_imports.get(domain, 23) for domain in function.opset_imports})
    model.functions[named.identifier()] = named
    # A body holds the node's graphs already.
    attributes = [value for value in node.attributes.values() if value.type != ir.AttributeType.GRAPH]
    call = ir.Node(
        *(_DOMAIN, node.op_type, node.inputs, attributes),
        overload=str(number),
        num_outputs=len(outputs),
        name=node.name,
    )
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    new_values = list(call.outputs)
    for (old, _), new in zip(outputs, new_values, strict=True):
        new.name, new.type, new.shape = old.name, old.type, old.shape
    ir.convenience.replace_nodes_and_values(graph, node, [node], [call], [old for old, _ in outputs], new_values)


def _fill_in_defaults(node: ir.Node, schema: Any) -> None:
    """A body refers to attributes by name, whether the node gives them or not."""
    for name, attribute in schema.attributes.items():
        if name not in node.attributes and attribute.default_value.name:
            node.attributes.add(ir.serde.deserialize_attribute(attribute.default_value))


def _body(node: ir.Node, opset: int) -> onnx.FunctionProto:
    label = f"`{node.op_type}` ({node.name or node.outputs[0].name})"
    schema: Any = onnx.defs.get_schema(node.op_type, opset, node.domain)  # its stubs lack the functions
    if schema.has_function:
        body: onnx.FunctionProto = schema.function_body
        return body
    types = []
    for value in node.inputs:
        proto = onnx.TypeProto()
        if value is not None:
            if value.dtype is None:
                raise UnsupportedError(f"the element type of `{value.name}`, an input of {label}, is not known")
            proto.tensor_type.elem_type = int(value.dtype)
            if value.shape is not None:
                dims = [dim if isinstance(dim, int) else dim.value or "" for dim in value.shape.dims]
                proto = onnx.helper.make_tensor_type_proto(int(value.dtype), dims)
        types.append(proto.SerializeToString())
    content = schema.get_context_dependent_function(ir.serde.serialize_node(node).SerializeToString(), types)
    if not content:
        raise UnsupportedError(f"{label} has a form that ONNX gives no function for")
    body = onnx.FunctionProto.FromString(content)
    return body
