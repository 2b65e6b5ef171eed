"""Which initializers are weight matrices, and how their arrays become `[rows, columns]`.

The planner decides bits, the quantizer packs and the lowering reads by the same answer, so it is
given once, here. A matrix has one row per output feature (per token of an embedding table) and
its columns are the features that the row is multiplied with; groups run along the columns.

    layout  array                      matrix
    "kn"    [K, N]                     array.T                       MatMul, Gemm
    "nk"    [N, K]                     array                         Gather, Gemm(transB), Transpose -> MatMul
    "conv"  [O, I, *kernel], group 1   [O, kernel... * I]            Conv; channels last, as im2col has them
    "ekn"   [E, K, N]                  [E * N, K]                    MatMul of a decoder's experts, by their names
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir

from edgec.ir.plan import TERNARY, Bits, parse_bits

Layout = Literal["kn", "nk", "conv", "ekn"]
Role = Literal["linear", "embedding", "conv", "experts"]

_EXPERTS = re.compile(r"model\.layers\.\d+\.mlp\.experts\.(gate_up|down)_proj\.weight")  # see `ir/model.py`
_GRID = "edgec.grid_bits"
FLOAT_TYPES = frozenset({onnx_ir.DataType.FLOAT, onnx_ir.DataType.FLOAT16, onnx_ir.DataType.BFLOAT16})


@dataclass(frozen=True)
class WeightUse:
    """An initializer that is used as a weight matrix and as nothing else."""

    name: str
    shape: tuple[int, ...]  # of the initializer's array
    layout: Layout
    roles: frozenset[Role]  # a tied embedding is both "embedding" and "linear"
    uses_per_run: int  # nodes that multiply with the whole matrix
    grid_bits: Bits | None = None  # see `mark_grid`

    @property
    def rows(self) -> int:
        if self.layout == "ekn":
            return self.shape[0] * self.shape[2]
        return self.shape[1] if self.layout == "kn" else self.shape[0]

    @property
    def columns(self) -> int:
        if self.layout == "ekn":
            return self.shape[1]
        return self.shape[0] if self.layout == "kn" else math.prod(self.shape[1:])

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    def to_matrix(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The initializer's array as `[rows, columns]`; a view where the layout allows it."""
        if self.layout == "kn":
            return array.T
        if self.layout == "conv":
            return np.moveaxis(array, 1, -1).reshape(self.rows, self.columns)
        if self.layout == "ekn":
            return array.swapaxes(1, 2).reshape(self.rows, self.columns)
        return array

    def from_matrix(self, matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Inverse of `to_matrix`, contiguous."""
        if self.layout == "kn":
            return np.ascontiguousarray(matrix.T)
        if self.layout == "conv":
            channels_last = matrix.reshape(self.rows, *self.shape[2:], self.shape[1])
            return np.ascontiguousarray(np.moveaxis(channels_last, -1, 1))
        if self.layout == "ekn":
            experts, columns, rows = self.shape
            return np.ascontiguousarray(matrix.reshape(experts, rows, columns).swapaxes(1, 2))
        return np.ascontiguousarray(matrix)


def weight_uses(model: onnx_ir.Model) -> dict[str, WeightUse]:
    """Every float initializer that can be quantized, by name, in the graph's order.

    Left out: initializers with other uses, or with uses of different layouts (they stay float).
    """
    found: dict[str, WeightUse] = {}
    for name, value in model.graph.initializers.items():
        use = _weight_use(name, value)
        if use is not None:
            found[name] = use
    return found


def is_depthwise_filter(value: onnx_ir.Value) -> bool:
    """Whether a float32 initializer is nothing but the filter of depthwise convolutions, `[channels, 1, *kernel]`."""
    tensor = value.const_value
    if tensor is None or tensor.dtype != onnx_ir.DataType.FLOAT or value.is_graph_output() or not value.uses():
        return False
    shape = tensor.shape.numpy()
    if len(shape) < 3 or shape[1] != 1:
        return False
    return all(
        node.op_type == "Conv" and node.domain == "" and index == 1 and _integer(node, "group", 1) == shape[0] > 1
        for node, index in value.uses()
    )


def mark_grid(value: onnx_ir.Value, bits: Bits | None) -> None:
    """Says that an initializer was quantized before: in each group of 32 columns of a row its values are
    `step * (code - zero)` with codes below `2^bits`, a whole zero point and a step that is, up to its rounding, a
    float16; where they are ternary, the codes are -1, 0 and 1. None takes it back."""
    value.metadata_props.pop(_GRID, None)
    if bits is not None:
        value.metadata_props[_GRID] = str(bits)


def grid_bits(value: onnx_ir.Value) -> Bits | None:
    """What `mark_grid` said."""
    bits = value.metadata_props.get(_GRID)
    return None if bits is None else parse_bits(bits)


def joined_grid(parts: Sequence[Bits | None]) -> Bits | None:
    """What holds for rows on these grids together."""
    if None in parts:
        return None
    if all(bits == TERNARY for bits in parts):
        return TERNARY
    return max(bits if isinstance(bits, int) else 2 for bits in parts if bits is not None)


def _weight_use(name: str, value: onnx_ir.Value) -> WeightUse | None:
    tensor = value.const_value
    if tensor is None or tensor.dtype not in FLOAT_TYPES or value.is_graph_output():
        return None
    shape = tuple(tensor.shape.numpy())
    if math.prod(shape) == 0:
        return None
    consumers = list(_consumers(value, len(shape)))
    layouts = {layout for layout, _ in consumers}
    if len(layouts) != 1 or None in layouts:
        return None
    roles: set[Role] = {role for _, role in consumers if role is not None}
    multiplications = sum(role != "embedding" for _, role in consumers)
    layout = next(iter(layouts))
    assert layout is not None
    return WeightUse(name, shape, layout, frozenset(roles), multiplications, grid_bits(value))


def _consumers(value: onnx_ir.Value, rank: int) -> Iterator[tuple[Layout | None, Role | None]]:
    """Layout and role of each use; `(None, None)` for a use that needs the floats themselves."""
    for node, index in value.uses():
        if node.domain not in ("", "ai.onnx"):
            yield None, None
        elif rank == 2 and node.op_type == "MatMul" and index == 1:
            yield "kn", "linear"
        elif rank == 2 and node.op_type == "Gemm" and index == 1:
            yield ("nk" if _integer(node, "transB", 0) else "kn"), "linear"
        elif rank == 2 and node.op_type == "Gather" and index == 0 and _integer(node, "axis", 0) in (0, -2):
            yield "nk", "embedding"
        elif rank == 2 and node.op_type == "Transpose" and _feeds_only_matmul(node):
            for _ in node.outputs[0].uses():
                yield "nk", "linear"
        elif rank == 3 and node.op_type == "MatMul" and index == 1 and _EXPERTS.fullmatch(value.name or ""):
            yield "ekn", "experts"
        elif rank >= 3 and node.op_type == "Conv" and index == 1 and _integer(node, "group", 1) == 1:
            yield "conv", "conv"
        else:
            yield None, None


def _feeds_only_matmul(transpose: onnx_ir.Node) -> bool:
    permutation = transpose.attributes.get("perm")
    if permutation is not None and list(permutation.as_ints()) != [1, 0]:
        return False
    output = transpose.outputs[0]
    uses = list(output.uses())
    return bool(uses) and not output.is_graph_output() and all(n.op_type == "MatMul" and i == 1 for n, i in uses)


def _integer(node: onnx_ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


__all__ = [
    "FLOAT_TYPES",
    "Layout",
    "Role",
    "WeightUse",
    "grid_bits",
    "is_depthwise_filter",
    "joined_grid",
    "mark_grid",
    "weight_uses",
]
