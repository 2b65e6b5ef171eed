"""softmax(q k^T * scale + mask) v, written as separate nodes, becomes `Attention`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from edgec.passes.base import GraphPass, insert_value, is_op, only_use, producer, replace, scalar, shape_of
from edgec.passes.dims import Dim, same
from edgec.passes.infer_shapes import infer

_SPLIT_HEADS = [0, 2, 1, 3]  # [batch, tokens, heads, width] <-> [batch, heads, tokens, width]


@dataclass(frozen=True)
class _Found:
    """Four-dimensional operands `[batch, heads, tokens, width]`; keys as the product reads them."""

    queries: ir.Value
    keys_transposed: ir.Value
    values: ir.Value
    mask: ir.Value | None
    scale: float


class FuseAttention(GraphPass):
    name = "fuse-attention"

    def rewrite(self, model: ir.Model) -> bool:
        infer(model.graph)
        modified = False
        for node in list(model.graph):
            found = _match(node)
            if found is not None:
                modified |= _replace(node, found)
        return modified


def _match(node: ir.Node) -> _Found | None:
    """The attention of which `node` is the last MatMul."""
    if not is_op(node, "MatMul"):
        return None
    softmax = producer(node.inputs[0], "Softmax")
    values = node.inputs[1]
    if softmax is None or values is None or only_use(softmax.outputs[0]) is not node:
        return None
    scores = softmax.inputs[0]
    shape = shape_of(scores)
    if shape is None or len(shape) != 4 or softmax.attributes.get_int("axis", -1) not in (-1, 3):
        return None
    mask: ir.Value | None = None
    masked = producer(scores, "Add")
    if masked is not None:
        for product, other in (masked.inputs, reversed(masked.inputs)):
            if producer(product, "MatMul", "Mul", "Div") is not None and _is_mask(other):
                scores, mask = product, other
                break
        else:
            return None
    scores, scale = _unscaled(scores)
    product_node = producer(scores, "MatMul")
    if product_node is None:
        return None
    queries, query_scale = _unscaled(product_node.inputs[0])
    keys, key_scale = _unscaled(product_node.inputs[1])
    if queries is None or keys is None or any(len(shape_of(v) or []) != 4 for v in (queries, keys, values)):
        return None
    return _Found(queries, keys, values, mask, scale * query_scale * key_scale)


def _is_mask(value: ir.Value | None) -> bool:
    """Float, with every axis the score's or 1 (expansion over heads and queries is the operator's)."""
    shape = shape_of(value)
    return value is not None and value.dtype == ir.DataType.FLOAT and shape is not None and len(shape) in (2, 4)


def _unscaled(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    node = producer(value, "Mul", "Div")
    if node is None:
        return value, 1.0
    number = scalar(node.inputs[1])
    if number is not None:
        return node.inputs[0], (1 / number if node.op_type == "Div" else number)
    number = scalar(node.inputs[0])
    if number is not None and node.op_type == "Mul":
        return node.inputs[1], number
    return value, 1.0


def _replace(node: ir.Node, found: _Found) -> bool:
    keys = _transposed_keys(node, found.keys_transposed)
    width = (shape_of(found.queries) or [0])[-1]
    if keys is None or not isinstance(width, int) or width == 0:
        return False
    packed = _packed_form(node, found, keys)
    attributes: dict[str, float | int] = {}
    if not math.isclose(found.scale, 1 / math.sqrt(width), rel_tol=1e-6):
        attributes["scale"] = found.scale
    if packed is None:
        inputs = [found.queries, keys, found.values, found.mask]
        replace(node.outputs[0], insert_value(node, "Attention", _trimmed(inputs), attributes, like=node.outputs[0]))
        return True
    operands, heads, end = packed
    attributes |= {"q_num_heads": heads, "kv_num_heads": heads}
    last = end.producer()
    assert last is not None
    replace(end, insert_value(last, "Attention", _trimmed([*operands, found.mask]), attributes, like=end))
    return True


def _trimmed(inputs: list[ir.Value | None]) -> list[ir.Value | None]:
    return inputs if inputs[-1] is not None else inputs[:-1]


def _transposed_keys(node: ir.Node, keys: ir.Value) -> ir.Value | None:
    """Keys `[batch, heads, tokens, width]` from the transposed ones."""
    transpose = producer(keys, "Transpose")
    if transpose is None:
        return None
    permutation = list(transpose.attributes.get_ints("perm") or [])
    if len(permutation) != 4:
        return None
    permutation[2], permutation[3] = permutation[3], permutation[2]
    source = transpose.inputs[0]
    if permutation == [0, 1, 2, 3]:
        return source
    value = insert_value(node, "Transpose", [source], {"perm": permutation})
    value.type = keys.type
    shape = shape_of(source)
    if shape is not None:
        value.shape = ir.Shape([shape[i] for i in permutation])
    return value


def _packed_form(node: ir.Node, found: _Found, keys: ir.Value) -> tuple[list[ir.Value | None], int, ir.Value] | None:
    """The operands `[batch, tokens, heads * width]`, when heads are split and joined right around."""
    packed = [_before_head_split(value) for value in (found.queries, keys, found.values)]
    shapes = [shape_of(value) for value in (found.queries, keys, found.values)]
    heads = {shape[1] for shape in shapes if shape is not None and isinstance(shape[1], int)}
    if any(value is None for value in packed) or len(heads) != 1 or any(s is None for s in shapes):
        return None
    joined = only_use(node.outputs[0])
    if (
        not is_op(joined, "Transpose")
        or joined is None
        or list(joined.attributes.get_ints("perm") or []) != _SPLIT_HEADS
    ):
        return None
    reshape = only_use(joined.outputs[0])
    before = shape_of(packed[0])
    if not is_op(reshape, "Reshape") or reshape is None or before is None:
        return None
    after = shape_of(reshape.outputs[0])
    if after is None or len(after) != 3 or not _same_shape(after[:2], before[:2]):
        return None
    return packed, int(next(iter(heads))), reshape.outputs[0]


def _before_head_split(value: ir.Value) -> ir.Value | None:
    transpose = producer(value, "Transpose")
    if transpose is None or list(transpose.attributes.get_ints("perm") or []) != _SPLIT_HEADS:
        return None
    reshape = producer(transpose.inputs[0], "Reshape")
    if reshape is None:
        return None
    before, after = shape_of(reshape.inputs[0]), shape_of(reshape.outputs[0])
    if before is None or after is None or len(before) != 3 or not _same_shape(before[:2], after[:2]):
        return None
    return reshape.inputs[0]


def _same_shape(a: list[Dim], b: list[Dim]) -> bool:
    return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
