"""Building an ONNX graph node by node, every value with its name, type and shape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir

Dim = int | str  # a number, or the name of a symbolic dimension


class GraphWriter:
    """Collects inputs, initializers and nodes; `graph()` closes it."""

    def __init__(self, opset: int) -> None:
        self._opset = opset
        self._inputs: list[onnx_ir.Value] = []
        self._nodes: list[onnx_ir.Node] = []
        self._initializers: list[onnx_ir.Value] = []

    def input(self, name: str, dtype: onnx_ir.DataType, shape: Sequence[Dim]) -> onnx_ir.Value:
        value = _value(name, dtype, shape)
        self._inputs.append(value)
        return value

    def initializer(self, tensor: onnx_ir.TensorProtocol) -> onnx_ir.Value:
        if tensor.name is None:
            raise ValueError("an initializer needs a name")
        value = onnx_ir.Value(
            name=tensor.name,
            shape=onnx_ir.Shape(tensor.shape.numpy()),
            type=onnx_ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self._initializers.append(value)
        return value

    def constant(self, name: str, array: np.ndarray) -> onnx_ir.Value:
        return self.initializer(onnx_ir.tensor(array, name=name))

    def node(
        self,
        op_type: str,
        inputs: Sequence[onnx_ir.Value | None],
        outputs: Sequence[tuple[str, Sequence[Dim]]],
        *,
        dtype: onnx_ir.DataType = onnx_ir.DataType.FLOAT,
        **attributes: int | float | str | Sequence[int],
    ) -> list[onnx_ir.Value]:
        """A node whose outputs are `(name, shape)` pairs; the node takes the first output's name."""
        values = [_value(name, dtype, shape) for name, shape in outputs]
        self._nodes.append(
            onnx_ir.Node(
                "",
                op_type,
                inputs,
                attributes=[_attribute(key, value) for key, value in attributes.items()],
                outputs=values,
                name=outputs[0][0],
            )
        )
        return values

    def graph(self, name: str, outputs: Sequence[onnx_ir.Value]) -> onnx_ir.Graph:
        return onnx_ir.Graph(
            self._inputs,
            outputs,
            nodes=self._nodes,
            initializers=self._initializers,
            opset_imports={"": self._opset},
            name=name,
        )


def _value(name: str, dtype: onnx_ir.DataType, shape: Sequence[Dim]) -> onnx_ir.Value:
    return onnx_ir.Value(name=name, type=onnx_ir.TensorType(dtype), shape=onnx_ir.Shape(shape))


def _attribute(name: str, value: int | float | str | Sequence[int]) -> onnx_ir.Attr:
    match value:
        case str():
            return onnx_ir.AttrString(name, value)
        case int():
            return onnx_ir.AttrInt64(name, value)
        case float():
            return onnx_ir.AttrFloat32(name, value)
        case _:
            return onnx_ir.AttrInt64s(name, value)
