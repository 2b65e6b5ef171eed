"""Older ONNX models brought to the opset of the pipeline, without touching their large weights."""

from __future__ import annotations

import math

import onnx
from onnx import inliner, version_converter

from edgec.errors import ModelError, UnsupportedError

OPSET = 23
MIN_IR_VERSION = 10
_INLINE_BYTES = 4096  # larger tensors are no op's shape, axes or scales, so the converter need not see them


def opset_of(proto: onnx.ModelProto) -> int:
    """The version of the standard operators. Raises `ModelError` when the model names none."""
    versions: list[int] = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions and all(node.domain not in ("", "ai.onnx") for node in proto.graph.node):
        return OPSET  # it uses none of them
    if not versions:
        raise ModelError("the model does not say which version of the ONNX operators it uses")
    return max(versions)


def upgrade(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model at opset `OPSET` or newer; checks it on the way.

    Raises `ModelError` when the model breaks ONNX's own rules and `UnsupportedError` when an
    operator cannot be converted.
    """
    drop_initializer_inputs(proto.graph)
    proto.ir_version = max(proto.ir_version, MIN_IR_VERSION)  # older ones want every weight to be an input
    stashed = _stash(proto.graph)
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"the model breaks the rules of ONNX: {_first_line(error)}") from error
    if proto.functions:
        proto = inliner.inline_local_functions(proto)  # the converter would leave them as they are
    opset = opset_of(proto)
    if opset < OPSET:
        _check_old_forms(proto, opset)
        try:
            proto = version_converter.convert_version(proto, OPSET)
        except Exception as error:  # the converter raises whatever its C++ half does
            raise UnsupportedError(
                f"the model cannot be converted from opset {opset} to {OPSET}: {_first_line(error)}",
                hint=f"export it again with opset {OPSET}",
            ) from error
    _restore(proto.graph, stashed)
    return proto


def _check_old_forms(proto: onnx.ModelProto, opset: int) -> None:
    """Forms of old operators that the converter leaves as they are although they mean something else today."""
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in proto.graph.initializer}
    for value in proto.graph.input:
        sizes.setdefault(value.name, math.prod(dim.dim_value for dim in value.type.tensor_type.shape.dim))
    for node in proto.graph.node:
        if node.op_type == "Scan" and opset < 9:
            form = "runs over batches, as before opset 9"
        elif node.op_type == "PRelu" and opset < 7 and sizes.get(node.input[1]) != 1:
            form = "has a slope per channel, as before opset 7"
        else:
            continue
        raise UnsupportedError(
            f"`{node.op_type}` ({node.name or node.output[0]}) {form}", hint=f"export the model with opset {OPSET}"
        )


def drop_initializer_inputs(graph: onnx.GraphProto) -> None:
    """Old models list their weights as inputs too, which would let a caller replace them."""
    weights = {tensor.name for tensor in graph.initializer}
    kept = [value for value in graph.input if value.name not in weights]
    if len(kept) < len(graph.input):
        del graph.input[:]
        graph.input.extend(kept)


def _stash(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """Takes large initializers out and declares them as inputs."""
    large = [
        tensor
        for tensor in graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.ByteSize() > _INLINE_BYTES
    ]
    stashed = []
    for tensor in large:
        copy = onnx.TensorProto()
        copy.CopyFrom(tensor)
        stashed.append(copy)
        graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    names = {tensor.name for tensor in stashed}
    small = [tensor for tensor in graph.initializer if tensor.name not in names]
    kept = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in small]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return stashed


def _restore(graph: onnx.GraphProto, stashed: list[onnx.TensorProto]) -> None:
    graph.initializer.extend(stashed)
    drop_initializer_inputs(graph)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")
