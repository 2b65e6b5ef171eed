"""Small nodes whose inputs are all constants are computed now, with ONNX's reference evaluator.

Weights are never read: an input or a result of more than `SMALL` bytes stops the folding there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from edgec.passes.base import SMALL, GraphPass, add_initializer, constant, is_initializer, replace, shape_of
from edgec.passes.infer_shapes import CONTENT, infer

_RANDOM = frozenset(
    "Bernoulli Dropout Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split()
)


class FoldConstants(GraphPass):
    name = "fold-constants"

    def rewrite(self, model: ir.Model) -> bool:
        infer(model.graph)
        modified = False
        opset = model.opset_imports.get("", 23)
        for node in list(model.graph):
            _name_type(node)
            arrays = _computed(node, opset)
            if arrays is None:
                continue
            for output, array in zip(node.outputs, arrays, strict=True):
                _make_initializer(model.graph, output, array)
            modified = True
        return modified


def _name_type(node: ir.Node) -> None:
    """CastLike becomes the Cast to the type that it looks at, which does not depend on an input."""
    like = node.inputs[1] if node.op_type == "CastLike" and node.domain == "" else None
    if like is not None and like.dtype is not None:
        node.op_type = "Cast"
        node.resize_inputs(1)
        node.attributes.add(ir.AttrInt64("to", int(like.dtype)))


def _computed(node: ir.Node, opset: int) -> list[npt.NDArray[Any]] | None:
    """The constant results of `node`, or `None` when they are not (small) constants."""
    if (
        node.domain != ""
        or node.op_type in _RANDOM
        or any(a.type == ir.AttributeType.GRAPH for a in node.attributes.values())
    ):
        return None
    if node.op_type == "Identity" and node.outputs[0].is_graph_output():
        return None  # what a folded output is left as
    if not all(value is None or is_initializer(value) for value in node.inputs):
        return _known_content(node)
    if _transposes_a_weight(node):
        return None
    inputs = {value.name or "": constant(value) for value in node.inputs if value is not None}
    if any(array is None for array in inputs.values()) or _result_bytes(node) > SMALL:
        return None
    proto = ir.serde.serialize_node(node)
    evaluator = ReferenceEvaluator(_model_of(proto, opset))
    try:
        results = [np.asarray(result) for result in evaluator.run(None, inputs)]
    except Exception:  # noqa: BLE001  # whatever the evaluator cannot compute is left to the lowering
        return None
    return results if all(result.nbytes <= SMALL for result in results) else None


def _transposes_a_weight(node: ir.Node) -> bool:
    """Kept as it is: a linear layer reads either orientation, and a tied weight stays one."""
    source = node.inputs[0] if node.inputs else None
    if node.op_type != "Transpose" or source is None or source.dtype != ir.DataType.FLOAT:
        return False
    return len(shape_of(source) or []) == 2


def _model_of(proto: onnx.NodeProto, opset: int) -> onnx.ModelProto:
    """A model of one node, so that the evaluator knows the opset."""
    any_type = onnx.TypeProto()
    inputs = [onnx.helper.make_value_info(name, any_type) for name in dict.fromkeys(proto.input) if name]
    outputs = [onnx.helper.make_value_info(name, any_type) for name in proto.output]
    graph = onnx.helper.make_graph([proto], "node", inputs, outputs)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])


def _known_content(node: ir.Node) -> list[npt.NDArray[Any]] | None:
    """Shapes of tensors that are numbers although the tensors are not constants."""
    if len(node.outputs) != 1:
        return None
    output = node.outputs[0]
    content, shape = output.meta.get(CONTENT), shape_of(output)
    if content is None or shape is None or output.dtype is None or not all(isinstance(e, int) for e in content):
        return None
    array = np.array(content, output.dtype.numpy())
    return [array if shape else array.reshape(())]


def _result_bytes(node: ir.Node) -> int:
    """Size of the largest output where it is known, else 0."""
    largest = 0
    for output in node.outputs:
        shape = shape_of(output)
        if shape is not None and all(isinstance(dim, int) for dim in shape):
            largest = max(largest, 8 * math.prod(int(dim) for dim in shape if isinstance(dim, int)))
    return largest


def _make_initializer(graph: ir.Graph, output: ir.Value, array: npt.NDArray[Any]) -> None:
    name = output.name
    assert name is not None
    if output.is_graph_output():
        replace(output, add_initializer(graph, f"{name}/folded", array))
        return
    output.name = f"{name}/folded"
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape = ir.Shape(array.shape)
    value.dtype = ir.DataType.from_numpy(array.dtype)
    graph.register_initializer(value)
    output.replace_all_uses_with(value)
