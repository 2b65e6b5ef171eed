"""Tensors that an ONNX model keeps in other files: only files of the model's own folder are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx

from edgec.errors import CorruptFileError, ModelError
from edgec.frontend.files import inside


def tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: initializers and attributes, in subgraphs and functions too."""
    yield from _graph_tensors(proto.graph)
    for function in proto.functions:
        yield from _node_tensors(function.node)


def check_external_data(proto: onnx.ModelProto, folder: Path) -> list[Path]:
    """The files that the model's tensors are in.

    Raises `UnsafePathError` for a file outside `folder`, `ModelError` for a missing one and
    `CorruptFileError` for one that is too short.
    """
    files: dict[Path, int] = {}
    for tensor in tensors(proto):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        fields = {entry.key: entry.value for entry in tensor.external_data}
        path = inside(folder, fields.get("location", ""), named_by=tensor.name)
        if not path.is_file():
            raise ModelError(
                f"the file `{fields['location']}` with the values of `{tensor.name}` is missing",
                hint="keep the model's files together in one folder",
            )
        size = files.setdefault(path, path.stat().st_size)
        offset, length = _number(tensor, fields, "offset", 0), _number(tensor, fields, "length", _byte_size(tensor))
        if length != _byte_size(tensor):
            raise CorruptFileError(f"tensor `{tensor.name}` needs {_byte_size(tensor)} bytes but names {length}")
        if offset + length > size:
            raise CorruptFileError(
                f"`{path.name}` is truncated: tensor `{tensor.name}` is at bytes {offset} to {offset + length}, "
                f"the file has {size}",
                hint="download the file again",
            )
    return list(files)


def _number(tensor: onnx.TensorProto, fields: dict[str, str], key: str, default: int) -> int:
    text = fields.get(key, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise CorruptFileError(f"tensor `{tensor.name}` has the external {key} `{text}`")
    return int(text)


def _byte_size(tensor: onnx.TensorProto) -> int:
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except KeyError as error:
        raise ModelError(f"tensor `{tensor.name}` has the unknown type {tensor.data_type}") from error
    count = 1
    for extent in tensor.dims:
        count *= extent
    bits = 4 if tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4) else 8 * dtype.itemsize
    return -(-count * bits // 8)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _graph_tensors(attribute.g)
            for graph in attribute.graphs:
                yield from _graph_tensors(graph)
