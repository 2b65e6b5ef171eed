"""Shapes and types of operators without a rule of ours, by the inference functions of ONNX itself."""

from __future__ import annotations

import onnx
import onnx_ir as ir

_MOST_BYTES = 4096  # of a constant that may be a shape, axes or a count


def infer_by_schema(node: ir.Node, opset: int) -> None:
    """Sets what ONNX can tell of the outputs; leaves alone what it cannot."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        return
    types: dict[str, onnx.TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    for value in node.inputs:
        if value is None or value.name is None:
            continue
        if value.dtype is None:
            return
        dims = None if value.shape is None else [d if isinstance(d, int) else d.value for d in value.shape.dims]
        types[value.name] = onnx.helper.make_tensor_type_proto(int(value.dtype), dims)
        if value.const_value is not None and value.const_value.nbytes <= _MOST_BYTES:
            data[value.name] = ir.serde.serialize_tensor(value.const_value)
    try:
        found = onnx.shape_inference.infer_node_outputs(schema, ir.serde.serialize_node(node), types, data)
    except Exception:  # noqa: BLE001  # of several types; the lowering refuses what has no shape
        return
    for output in node.outputs:
        proto = found.get(output.name or "")
        if proto is None or not proto.HasField("tensor_type"):
            continue
        tensor = proto.tensor_type
        if tensor.elem_type:
            output.dtype = ir.DataType(tensor.elem_type)
        if tensor.HasField("shape"):
            dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
            names = [d.dim_param or None for d in tensor.shape.dim]
            shape = ir.Shape([n if n is not None else p for n, p in zip(dims, names, strict=True)])
            if output.shape is None or all(isinstance(dim, int) for dim in shape.dims):
                output.shape = shape
