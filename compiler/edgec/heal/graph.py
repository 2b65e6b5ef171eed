"""A simplified graph as a torch function of its weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import onnx_ir
import torch

from edgec.errors import UnsupportedError
from edgec.heal.ops import HALF_OPERATORS, OPERATORS, Operator, Tensor
from edgec.ir.model import ModelIR


class TorchGraph:
    """`graph(weights, feeds, wanted)` computes the values `wanted`, by name.

    `weights` has the float initializers of more than one element (see `parameters`); other constants
    are the graph's. A decoder runs from an empty cache, and its batch may be any. The values `given` are among the
    feeds: what they depend on is left out. Of a graph of fixed batch that is `stacked`, feeds and results are several
    runs' in one, along a new first axis.
    Raises `UnsupportedError` for operators that cannot be trained through.
    """

    def __init__(
        self, model: ModelIR, wanted: Collection[str], given: Collection[str] = (), *, stacked: bool = False
    ) -> None:
        unknown = sorted({node.op_type for node in model.model.graph} - set(OPERATORS))
        if unknown:
            raise UnsupportedError(
                f"`{model.facts.name}` has the operators {', '.join(f'`{op}`' for op in unknown)}, "
                "through which healing cannot train",
                hint="compile without `--heal-minutes` and `--heal-steps`",
            )
        graph = model.model.graph
        self._wanted, self._stacked = frozenset(wanted), stacked
        self._nodes = needed_nodes(graph, self._wanted, given)
        self._constants: dict[str, Tensor] = {}
        self.parameters: dict[str, Tensor] = {}  # as read; nothing here changes them
        read = {value for node in self._nodes for value in node.inputs if value is not None}
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if tensor is None or value not in read:
                continue
            array = torch.from_numpy(tensor.numpy().copy())
            trained = array.dtype.is_floating_point and array.numel() > 1 and not _is_angle(value)
            (self.parameters if trained else self._constants)[name] = array.float() if trained else array

    def __call__(
        self, weights: Mapping[str, Tensor], feeds: Mapping[str, Any], *, half: bool = False
    ) -> dict[str, Tensor]:
        """`half` multiplies matrices in bfloat16."""
        operators = {**OPERATORS, **HALF_OPERATORS} if half else OPERATORS
        if self._stacked:
            return dict(torch.vmap(lambda one: self._run(operators, weights, one))(dict(feeds)))
        return self._run(operators, weights, feeds)

    def _run(
        self, operators: Mapping[str, Operator], weights: Mapping[str, Tensor], feeds: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {**self._constants, **weights, **feeds}
        for node in self._nodes:
            inputs = [None if value is None else values.get(str(value.name)) for value in node.inputs]
            result = operators[node.op_type](node, inputs)
            for output, tensor in zip(node.outputs, result if isinstance(result, list) else [result], strict=False):
                values[str(output.name)] = tensor
        return {name: values[name] for name in self._wanted}


def _is_angle(value: onnx_ir.Value) -> bool:
    """Frequencies of rotary embeddings: what they compute is the same in every layer and on every device."""
    waiting, seen = [value], set[onnx_ir.Value]()
    while waiting:
        current = waiting.pop()
        seen.add(current)
        for node, _ in current.uses():
            if node.op_type in ("Cos", "Sin"):
                return True
            if node.op_type == "Mul" and len(current.uses()) == 1:
                waiting += [output for output in node.outputs if output not in seen]
    return False


def needed_nodes(graph: onnx_ir.Graph, wanted: Collection[str], given: Collection[str]) -> list[onnx_ir.Node]:
    """The nodes on which the values `wanted` depend, in order, but not through those `given`."""
    values: set[str] = set(wanted)
    nodes: list[onnx_ir.Node] = []
    for node in reversed(list(graph)):
        if any(output.name in values for output in node.outputs):
            nodes.append(node)
            values |= {str(value.name) for value in node.inputs if value is not None} - set(given)
    return nodes[::-1]


__all__ = ["TorchGraph", "needed_nodes"]
