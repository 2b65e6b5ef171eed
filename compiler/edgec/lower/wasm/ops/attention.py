"""`Attention` of whole sequences, without a cache."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from edgec.errors import UnsupportedError
from edgec.lower.wasm.graph_context import GraphContext, activation_bytes, label, symbolic
from edgec.lower.wasm.graph_dims import to_amount, to_scalar, upper_bound
from edgec.lower.wasm.graph_values import TensorView
from edgec.lower.wasm.kernels.encoder_attention import AttentionShape, encoder_attention, scratch_floats
from edgec.lower.wasm.kernels.integer_attention import attention_codes, code_bytes, integer_attention, is_possible
from edgec.lower.wasm.work import Work
from edgec.passes import dims as d
from edgec.passes.base import is_read
from edgec.passes.dims import Dim

_ATTRIBUTES = {
    "is_causal",
    "kv_num_heads",
    "q_num_heads",
    "qk_matmul_output_mode",
    "scale",
    "softcap",
    "softmax_precision",
}
_FEW = 8  # queries that do not make up for quantizing all keys and values
_BATCH = ir.SymbolicDim("attention_batch")  # told at run time, so that the loop over it stays a loop


def lower(context: GraphContext, node: ir.Node) -> None:
    query, key, value = node.inputs[0], node.inputs[1], node.inputs[2]
    output = node.outputs[0]
    assert query is not None and key is not None and value is not None
    if any(extra is not None for extra in node.inputs[4:]) or any(is_read(extra) for extra in node.outputs[1:]):
        raise UnsupportedError(f"{label(node)} has a cache or gives its scores, which only decoders may")
    unknown = sorted(set(node.attributes) - _ATTRIBUTES)
    if unknown:
        raise UnsupportedError(f"{label(node)} has the attribute `{unknown[0]}`, which is not supported")
    heads, kv_heads = node.attributes.get_int("q_num_heads", 0), node.attributes.get_int("kv_num_heads", 0)
    q = _by_heads(context, context.view(query), heads)
    k = _by_heads(context, context.view(key), kv_heads)
    v = _by_heads(context, context.view(value), kv_heads)
    shape = context.shape(output)
    target = context.allocate(output.name or "attention", "float32", shape, value=output)
    out = target if len(shape) == 4 else _split_heads(target, heads)
    width, value_width = q.shape[3], v.shape[3]
    query_heads, key_heads = q.shape[1], k.shape[1]
    assert isinstance(width, int) and isinstance(value_width, int)
    assert isinstance(query_heads, int) and isinstance(key_heads, int)
    mask = _mask(context, node, (q.shape[0], query_heads, q.shape[2], k.shape[2]))
    attention = AttentionShape(
        batch=_BATCH,
        heads=query_heads,
        kv_heads=key_heads,
        queries=q.shape[2],
        keys=k.shape[2],
        width=width,
        value_width=value_width,
        scale=node.attributes.get_float("scale", 1 / math.sqrt(width)),
        causal=bool(node.attributes.get_int("is_causal", 0)),
        softcap=node.attributes.get_float("softcap", 0.0),
        query_strides=_outer(q),
        key_strides=_outer(k),
        value_strides=_outer(v),
        output_strides=_outer(out),
        offsets=(symbolic(q.offset), symbolic(k.offset), symbolic(v.offset), symbolic(mask.offset) if mask else 0),
        mask_strides=mask.strides if mask is not None else None,
        mask_dtype=mask.dtype if mask is not None else "float32",
    )
    mask_views = [mask] if mask is not None else []
    scalars = [to_scalar(q.shape[0]) if name == _BATCH.value else name for name in attention.dimensions()]
    scores = to_amount(q.shape[0], query_heads, q.shape[2], k.shape[2])
    work = Work(
        macs=to_amount(q.shape[0], query_heads, q.shape[2], k.shape[2], width + value_width),
        arithmetic="int16",
        activations=activation_bytes([q, k, v, *mask_views, target]),
        functions=scores,
        shape=f"{query_heads} heads of {width}",
    )
    many = upper_bound(q.shape[2], context.bounds) >= _FEW
    if context.quantized and many and is_possible(attention):
        codes = _codes(context, attention, k, v, scalars)
        context.call(
            ("integer_attention", attention),
            lambda isa: integer_attention(attention),
            [q, *codes, *mask_views, target],
            scalars,
            work=work,
        )
    else:
        per_thread = scratch_floats(upper_bound(k.shape[2], context.bounds))
        scratch = context.scratch("scores", "float32", per_thread * context.program.max_threads)
        context.call(
            ("attention", attention, per_thread),
            lambda isa: encoder_attention(attention, per_thread),
            [q, k, v, *mask_views, scratch, target],
            scalars,
            work=dataclasses.replace(work, arithmetic="float32"),
        )
    context.define(output, target)


def _codes(
    context: GraphContext, attention: AttentionShape, keys: TensorView, values: TensorView, scalars: Sequence[Any]
) -> list[TensorView]:
    """Codes and scales of keys, then of values."""
    sizes = code_bytes(
        attention, upper_bound(keys.shape[0], context.bounds), upper_bound(keys.shape[2], context.bounds)
    )
    codes = [context.scratch(f"attention.{number}", "uint8", size) for number, size in enumerate(sizes)]
    context.call(
        ("attention_codes", attention), lambda isa: attention_codes(attention), [keys, values, *codes], scalars
    )
    return codes


def _by_heads(context: GraphContext, view: TensorView, heads: int) -> TensorView:
    """`[batch, heads, tokens, features]` with adjacent features."""
    if view.strides[-1] != 1:
        view = context.copied(view)
    return view if len(view.shape) == 4 else _split_heads(view, heads)


def _split_heads(view: TensorView, heads: int) -> TensorView:
    batch, tokens, features = view.shape
    split = view.reshaped([batch, tokens, heads, d.floor_divide(features, heads)])
    assert split is not None
    return split.transposed([0, 2, 1, 3])


def _outer(view: TensorView) -> tuple[Dim, Dim, Dim]:
    return view.strides[0], view.strides[1], view.strides[2]


def _mask(context: GraphContext, node: ir.Node, shape: tuple[Dim, ...]) -> TensorView | None:
    value = node.inputs[3] if len(node.inputs) > 3 else None
    if value is None:
        return None
    view = context.view(value)
    if view.dtype not in ("float32", "bool"):
        raise UnsupportedError(f"{label(node)} has a mask of {view.dtype}, only float and bool are supported")
    return context.broadcast(view, shape)
