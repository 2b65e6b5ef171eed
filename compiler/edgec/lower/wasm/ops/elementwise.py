"""Elementwise operators: nothing is emitted, the expression grows until something reads it."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from edgec.lower.wasm.graph_context import GraphContext
from edgec.lower.wasm.graph_values import Lazy, TensorView, Tree, dtype_of, half_of
from edgec.lower.wasm.kernels.elementwise_operators import OPERATORS

_MAXIMUM_LEAVES = 8

OPS = (frozenset(OPERATORS) - {"Decode16", "Encode16", "Round16"}) | {"CastLike", "Sum"}


def lower(context: GraphContext, node: ir.Node) -> None:
    output = node.outputs[0]
    shape = context.shape(output)
    operator, attributes, inputs = _normal_form(node)
    half = half_of(output)
    if operator == "Cast" and half is not None and half != half_of(inputs[0]):
        operator, attributes = "Round16", {"type": half}
    parts = [context.operand(value, shape) for value in inputs]
    if sum(len(part.leaves) for part in parts) > _MAXIMUM_LEAVES:
        parts = [_leaf(context.computed(part)) if len(part.leaves) > 1 else part for part in parts]
    tree, leaves = combine(operator, attributes, dtype_of(output), parts)
    context.define(output, Lazy(tree, leaves, dtype_of(output), shape))


def half_decoded(half: str, view: TensorView) -> Lazy:
    """A tensor of 16-bit floats, uint16 in memory, as float32."""
    tree, leaves = combine("Decode16", {"type": half}, "float32", [_leaf(view)])
    return Lazy(tree, leaves, "float32", view.shape)


def half_encoded(half: str, expression: Lazy) -> Lazy:
    """The inverse, rounded to nearest even."""
    tree, leaves = combine("Encode16", {"type": half}, "uint16", [expression])
    return Lazy(tree, leaves, "uint16", expression.shape)


def combine(
    operator: str, attributes: dict[str, Any], dtype: str, parts: list[Lazy]
) -> tuple[Tree, tuple[TensorView, ...]]:
    """One operator over expressions; equal leaves are shared."""
    leaves: list[TensorView] = []
    children = []
    for part in parts:
        places = []
        for leaf in part.leaves:
            if leaf not in leaves:
                leaves.append(leaf)
            places.append(leaves.index(leaf))
        children.append(_renumbered(part.tree, places))
    return (operator, tuple(sorted(attributes.items())), dtype, tuple(children)), tuple(leaves)


def _renumbered(tree: Tree, places: list[int]) -> Tree:
    if tree[0] == "leaf":
        return ("leaf", places[tree[1]])
    if tree[0] == "number":
        return tree
    operator, attributes, dtype, children = tree
    return (operator, attributes, dtype, tuple(_renumbered(child, places) for child in children))


def _leaf(view: TensorView) -> Lazy:
    return Lazy(("leaf", 0), (view,), view.dtype, view.shape)


def _normal_form(node: ir.Node) -> tuple[str, dict[str, Any], list[ir.Value]]:
    """Operator, attributes that matter, operands."""
    inputs = [value for value in node.inputs if value is not None]
    attributes = {a.name: a.value for a in node.attributes.values() if a.type in _NUMBERS}
    if node.op_type == "Clip":
        names = [name for name, value in zip(("low", "high"), node.inputs[1:], strict=False) if value is not None]
        return "Clip", {"bounds": tuple(names)}, inputs
    if node.op_type in ("Cast", "CastLike"):
        return "Cast", {}, inputs[:1]
    if node.op_type == "Sum":
        return "Add", {}, inputs
    return node.op_type, attributes, inputs


_NUMBERS = (ir.AttributeType.FLOAT, ir.AttributeType.INT, ir.AttributeType.STRING)
