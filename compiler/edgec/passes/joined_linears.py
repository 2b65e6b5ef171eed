"""Linear layers with one input become one: `MatMul`, `Add` where one has a bias, `Split`.

The joined weight is read from its parts when it is asked for, never before.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgec.ir.weight_use import grid_bits, joined_grid, mark_grid
from edgec.passes.base import (
    add_initializer,
    constant,
    insert,
    insert_value,
    is_initializer,
    is_op,
    only_use,
    replace,
    static_shape,
)


@dataclass(frozen=True)
class Linear:
    """`output = source @ weight (+ bias)`, weight an initializer `[in, out]`."""

    source: ir.Value
    weight: ir.Value
    bias: ir.Value | None
    output: ir.Value

    @property
    def width(self) -> int:
        assert self.weight.const_value is not None
        return static_shape(self.weight.const_value)[1]


def linear_of(value: ir.Value | None) -> Linear | None:
    """The linear layer that makes `value`, when it is used by this value alone."""
    node = value.producer() if value is not None else None
    if value is None or node is None:
        return None
    bias: ir.Value | None = None
    if is_op(node, "Add"):
        for product, other in (node.inputs, reversed(node.inputs)):
            inner = product.producer() if product is not None else None
            if is_op(inner, "MatMul") and is_initializer(other) and product is not None and only_use(product) is node:
                node, bias = inner, other
                break
        else:
            return None
    if not is_op(node, "MatMul"):
        return None
    assert node is not None
    source, weight = node.inputs[0], node.inputs[1]
    if source is None or weight is None or weight.const_value is None or weight.is_graph_input():
        return None
    if len(weight.const_value.shape) != 2 or only_use(weight) is not node:
        return None
    if bias is not None:
        vector = constant(bias)
        if vector is None or vector.shape != static_shape(weight.const_value)[1:]:
            return None
    return Linear(source, weight, bias, value)


def join(graph: ir.Graph, linears: Sequence[Linear], anchor: ir.Node) -> None:
    """Replaces the outputs of `linears` by parts of one product, computed before `anchor`."""
    name = joined_name([linear.weight.name or "" for linear in linears])
    weight = add_initializer(graph, name, _joined_weight(linears))
    mark_grid(weight, joined_grid([grid_bits(linear.weight) for linear in linears]))
    product = insert_value(anchor, "MatMul", [linears[0].source, weight], name=f"{name}/matmul")
    product.dtype = linears[0].output.dtype or ir.DataType.FLOAT
    if any(linear.bias is not None for linear in linears):
        product = insert_value(
            anchor, "Add", [product, _joined_bias(graph, name, linears)], name=f"{name}/add", like=product
        )
    sizes = add_initializer(graph, f"{name}/sizes", np.array([linear.width for linear in linears], np.int64))
    split = insert(anchor, "Split", [product, sizes], {"axis": -1}, outputs=len(linears), name=f"{name}/split")
    for linear, part in zip(linears, split.outputs, strict=True):
        replace(linear.output, part)


def _joined_weight(linears: Sequence[Linear]) -> ir.LazyTensor:
    tensors = [linear.weight.const_value for linear in linears]

    def read() -> ir.TensorProtocol:
        return ir.Tensor(np.concatenate([tensor.numpy() for tensor in tensors if tensor is not None], axis=1))

    first = tensors[0]
    assert first is not None
    shape = ir.Shape([static_shape(first)[0], sum(linear.width for linear in linears)])
    return ir.LazyTensor(read, first.dtype, shape)


def _joined_bias(graph: ir.Graph, name: str, linears: Sequence[Linear]) -> ir.Value:
    parts = []
    for linear in linears:
        vector = constant(linear.bias)
        parts.append(np.zeros(linear.width, np.float32) if vector is None else vector)
    return add_initializer(graph, f"{name}/bias", np.concatenate(parts))


def joined_name(names: Sequence[str]) -> str:
    """`a.q_proj.weight`, `a.k_proj.weight` -> `a.q_k_proj.weight`."""
    prefix = os.path.commonprefix(list(names))
    prefix = prefix[: re.search(r"[^._/]*$", prefix).start()]  # type: ignore[union-attr]
    rests = [name[len(prefix) :] for name in names]
    suffix = os.path.commonprefix([rest[::-1] for rest in rests])[::-1]
    boundary = re.search(r"[._/]", suffix)
    suffix = suffix[boundary.start() :] if boundary else ""
    return prefix + "_".join(rest[: len(rest) - len(suffix)] for rest in rests) + suffix


def earliest(graph: ir.Graph, nodes: Sequence[ir.Node | None]) -> ir.Node:
    """The first of `nodes` in the graph's order."""
    wanted = {node for node in nodes if node is not None}
    return next(node for node in graph if node in wanted)
