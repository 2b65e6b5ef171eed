"""Some nodes of a graph in onnxruntime, arrays by name in, arrays by name out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir
import onnxruntime

from edgec.errors import ModelError
from edgec.ir.model import ModelIR

Arrays = Mapping[str, npt.NDArray[Any]]
_EMBEDDED = 1024  # elements; shapes and other small constants are part of the session's graph


class Session:
    """`nodes` of `model`'s graph, giving the values `kept`; weights in `replaced` stand for the model's own.

    Large weights are fed as inputs, as they are, so that they are in memory once. Shapes are not
    declared: a run may have any that the nodes can compute. `example` has a value of each input. Weights
    in `fed` are inputs whatever their size.
    Raises `ModelError` where onnxruntime fails.
    """

    def __init__(
        self,
        model: ModelIR,
        nodes: Sequence[onnx_ir.Node],
        kept: Collection[str],
        example: Arrays,
        replaced: Arrays,
        *,
        fed: Collection[str] = (),
    ) -> None:
        values: dict[onnx_ir.Value, onnx_ir.Value] = {}
        inputs: list[onnx_ir.Value] = []
        constants: list[onnx_ir.Value] = []
        self._weights: dict[str, npt.NDArray[Any]] = {}

        def outer(value: onnx_ir.Value) -> onnx_ir.Value:
            if value not in values:
                copy = onnx_ir.Value(name=value.name, type=value.type, shape=None)
                values[value] = copy
                tensor = value.const_value
                assert value.name is not None
                if tensor is None:
                    dtype = onnx_ir.DataType.from_numpy(example[value.name].dtype)
                    copy.type = onnx_ir.TensorType(dtype)
                    inputs.append(copy)
                elif tensor.size <= _EMBEDDED and value.name not in fed:
                    # Read: the bytes of a file beside the model would not be found from here.
                    copy.const_value = onnx_ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=value.name)
                    copy.shape = onnx_ir.Shape(tensor.shape.numpy())
                    constants.append(copy)
                else:
                    array = replaced[value.name] if value.name in replaced else tensor.numpy()
                    self._weights[value.name] = np.ascontiguousarray(array)
                    inputs.append(copy)
            return values[value]

        copies = []
        for node in nodes:
            sources = [None if value is None else outer(value) for value in node.inputs]
            copy = onnx_ir.Node(
                node.domain, node.op_type, sources, list(node.attributes.values()), num_outputs=len(node.outputs)
            )
            for output, original in zip(copy.outputs, node.outputs, strict=True):
                output.name, output.type = original.name, original.type
                values[original] = output
            copies.append(copy)
        produced = [output for copy in copies for output in copy.outputs if output.name in kept]
        graph = onnx_ir.Graph(
            inputs, produced, nodes=copies, initializers=constants, opset_imports=model.model.opset_imports, name="wave"
        )
        proto = onnx_ir.serde.serialize_model(onnx_ir.Model(graph, ir_version=model.model.ir_version))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session: Any = onnxruntime.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise _failed(model, error) from error
        self._model = model
        self._inputs = [value.name for value in inputs if value.name not in self._weights]
        self._outputs = [value.name for value in produced]

    def __call__(self, sample: Arrays, changed: Arrays | None = None) -> dict[str, npt.NDArray[Any]]:
        """The values `kept`; weights in `changed` are others in this run only."""
        feeds = {name: sample[name] for name in self._inputs if name is not None}
        try:
            results = self._session.run(self._outputs, {**feeds, **self._weights, **(changed or {})})
        except Exception as error:
            raise _failed(self._model, error) from error
        return dict(zip((name for name in self._outputs if name is not None), results, strict=True))


def _failed(model: ModelIR, error: Exception) -> Exception:
    if not type(error).__module__.startswith("onnxruntime"):
        return error
    reason = str(error).strip().splitlines()[0]
    return ModelError(
        f"onnxruntime cannot run `{model.facts.name}` on the calibration data ({reason})",
        hint="check the data, or compile with `--quantizer rtn`, which needs none",
    )


__all__ = ["Arrays", "Session"]
