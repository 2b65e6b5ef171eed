"""Elementwise operators: nothing is emitted, the expression grows until something reads it."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from edgec.errors import UnsupportedError
from edgec.lower.wasm.graph_context import GraphContext, label
from edgec.lower.wasm.graph_values import Lazy, TensorView, Tree, dtype_of, small_float, small_integer_bits
from edgec.lower.wasm.kernels.elementwise_operators import FLOAT32_ONLY, OPERATORS
from edgec.lower.wasm.kernels.small_floats import FORMATS

_MAXIMUM_LEAVES = 8

_INTERNAL = frozenset({"DecodeFloat", "EncodeFloat", "RoundFloat", "WrapInteger"})
OPS = (frozenset(OPERATORS) - _INTERNAL) | {"CastLike", "Sum"}


def lower(context: GraphContext, node: ir.Node) -> None:
    output = node.outputs[0]
    shape = context.shape(output)
    operator, attributes, inputs = _normal_form(node)
    if operator in FLOAT32_ONLY and dtype_of(output) == "float64":
        raise UnsupportedError(f"{label(node)} has no kernel for float64", hint="cast its input to float32")
    if operator == "Cast":
        operator, attributes = _cast(node, inputs[0], output)
    parts = [context.operand(value, shape) for value in inputs]
    if sum(len(part.leaves) for part in parts) > _MAXIMUM_LEAVES:
        parts = [_leaf(context.computed(part)) if len(part.leaves) > 1 else part for part in parts]
    tree, leaves = combine(operator, attributes, dtype_of(output), parts)
    context.define(output, Lazy(tree, leaves, dtype_of(output), shape))


def _cast(node: ir.Node, source: ir.Value, output: ir.Value) -> tuple[str, dict[str, Any]]:
    """To a float or integer that is smaller than its memory, rounding or wrapping to what it holds."""
    float_, bits = small_float(output), small_integer_bits(output)
    if float_ is not None and float_ != small_float(source):
        saturates = float_.startswith("float8") and node.attributes.get_int("saturate", 1) != 0
        return "RoundFloat", {"type": float_, "saturate": saturates}
    if bits is not None and output.dtype != source.dtype:
        return "WrapInteger", {"bits": bits}
    return "Cast", {}


def float_decoded(kind: str, view: TensorView) -> Lazy:
    """A tensor of small floats' codes as float32."""
    tree, leaves = combine("DecodeFloat", {"type": kind}, "float32", [_leaf(view)])
    return Lazy(tree, leaves, "float32", view.shape)


def float_encoded(kind: str, expression: Lazy) -> Lazy:
    """The inverse."""
    dtype = FORMATS[kind].memory
    tree, leaves = combine("EncodeFloat", {"type": kind, "saturate": False}, dtype, [expression])
    return Lazy(tree, leaves, dtype, expression.shape)


def integer_wrapped(bits: int, view: TensorView) -> Lazy:
    """The low bits of each byte."""
    tree, leaves = combine("WrapInteger", {"bits": bits}, view.dtype, [_leaf(view)])
    return Lazy(tree, leaves, view.dtype, view.shape)


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
