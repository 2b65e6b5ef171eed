"""ONNX files as graphs of the pipeline, with the opset and the input names that it expects."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx_ir

from edgec.errors import CorruptFileError, ModelError
from edgec.frontend.files import source_sha256
from edgec.frontend.onnx_external import check_external_data
from edgec.frontend.onnx_nbits import expand_nbits, nbits_problems
from edgec.frontend.onnx_ops import op_problems
from edgec.frontend.onnx_opset import opset_of, upgrade
from edgec.frontend.problems import Problem, refuse
from edgec.frontend.towers import split_towers
from edgec.ir.model import ModelFacts, ModelIR

_FLOATS = (
    onnx_ir.DataType.FLOAT,
    onnx_ir.DataType.FLOAT16,
    onnx_ir.DataType.BFLOAT16,
    onnx_ir.DataType.DOUBLE,
)


_ADVICE = "export the model without them, or compute that part outside of it"


def check(path: Path, *, supported_ops: Collection[str] | None = None) -> list[Problem]:
    """Every operator and input type that cannot be compiled; reads no external data."""
    return _problems(read_proto(path), supported_ops)


def load(
    path: Path,
    *,
    name: str | None = None,
    task: Mapping[str, Any] | None = None,
    supported_ops: Collection[str] | None = None,
) -> ModelIR:
    """Reads a file and the external data beside it.

    `task` describes pre- and post-processing (`docs/bundle-format.md`). `supported_ops` are the
    operators of the target; None leaves their check to the target. Symbolic dimensions keep their
    names. Raises `UnsupportedError`, `UnsafePathError`, `CorruptFileError` or `ModelError`.
    """
    proto = read_proto(path)
    refuse(path.name, _problems(proto, supported_ops), hint=_ADVICE)
    external = check_external_data(proto, path.parent)
    model = onnx_ir.from_proto(upgrade(proto))
    onnx_ir.external_data.set_base_dir(model.graph, path.parent)
    expand_nbits(model)
    ir = ModelIR(
        model=model,
        kind="graph",
        facts=ModelFacts(
            name=name or path.stem,
            architecture="onnx",
            source_format="onnx",
            source_sha256=source_sha256([path, *external]),
            parameters=_parameters(model),
        ),
        task=task,
    )
    ir.verify()
    return split_towers(ir)


def read_proto(path: Path) -> onnx.ModelProto:
    """The file without external data. Raises `CorruptFileError`."""
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own error classes have no types
        raise CorruptFileError(
            f"`{path.name}` is not an ONNX model: {error}", hint="download the file again"
        ) from error
    if not proto.graph.node and not proto.graph.output:
        raise CorruptFileError(f"`{path.name}` holds no graph", hint="download the file again")
    return proto


def _problems(proto: onnx.ModelProto, supported_ops: Collection[str] | None) -> list[Problem]:
    problems = []
    for value in (*proto.graph.input, *proto.graph.output):
        if not value.type.HasField("tensor_type"):
            problems.append(Problem(value.name, "a sequence, map or optional", "tensors as inputs and outputs"))
        elif value.type.tensor_type.elem_type == onnx.TensorProto.STRING:
            problems.append(Problem(value.name, "a tensor of texts", "tensors of numbers"))
    return [*problems, *op_problems(proto, opset_of(proto), supported_ops), *nbits_problems(proto)]


def _parameters(model: onnx_ir.Model) -> int:
    total = 0
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None:
            raise ModelError(f"initializer `{value.name}` has no values")
        if tensor.dtype in _FLOATS:
            total += tensor.size
    return total
