"""Name and shape of every tensor of a decoder, under the names of `edgec/ir/model.py`."""

from __future__ import annotations

import math
from collections.abc import Iterator

from edgec.errors import ModelError, UnsupportedError
from edgec.frontend.spec import DecoderSpec, NormPlace

EMBEDDING = "model.embed_tokens.weight"
POSITIONS = "model.embed_positions.weight"
FINAL_NORM = "model.norm"
LM_HEAD = "lm_head.weight"
ROUTER = "mlp.router"
EXPERTS_GATE_UP = "mlp.experts.gate_up_proj"
EXPERTS_DOWN = "mlp.experts.down_proj"
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
NORMS: dict[NormPlace, str] = {
    "attention": "input_layernorm",
    "attention_inner": "self_attn.attn_sub_norm",
    "attention_output": "attention_output_layernorm",
    "mlp": "post_attention_layernorm",
    "mlp_inner": "mlp.ffn_sub_norm",
    "mlp_output": "mlp_output_layernorm",
}

_MAX_LAYERS = 2048
_MAX_HEAD_DIM = 4096
_HEAD_DIM_STEP = 8  # attention takes vectors of 8 features


def linear_name(layer: int, linear: str) -> str:
    """`linear` is one of `LINEARS`; the name lacks `.weight` or `.bias`."""
    block = "mlp" if linear in ("gate_proj", "up_proj", "down_proj") else "self_attn"
    return f"model.layers.{layer}.{block}.{linear}"


def norm_name(layer: int, place: NormPlace) -> str:
    return f"model.layers.{layer}.{NORMS[place]}"


def check_extents(*, layers: int, heads: int, kv_heads: int, head_dim: int) -> None:
    """Raises `ModelError` for sizes that no decoder has, before anything is made in their size, and
    `UnsupportedError` for a head dimension that no kernel handles."""
    if layers > _MAX_LAYERS or head_dim > _MAX_HEAD_DIM:
        raise ModelError(f"{layers} layers with heads of dimension {head_dim} are beyond any model")
    if heads % kv_heads:
        raise ModelError(f"{heads} attention heads cannot share {kv_heads} key/value heads")
    if head_dim % 2 or not head_dim:
        raise ModelError(f"the head dimension is {head_dim}, rotary embeddings need a positive even one")
    if head_dim % _HEAD_DIM_STEP:
        raise UnsupportedError(f"the head dimension is {head_dim} (supported: multiples of {_HEAD_DIM_STEP})")


def linear_shapes(spec: DecoderSpec) -> dict[str, tuple[int, int]]:
    """`[out, in]`, as in checkpoints."""
    facts = spec.facts
    queries, keys = facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim
    shapes = {
        "q_proj": (queries, facts.hidden),
        "k_proj": (keys, facts.hidden),
        "v_proj": (keys, facts.hidden),
        "o_proj": (facts.hidden, queries),
        "gate_proj": (facts.intermediate, facts.hidden),
        "up_proj": (facts.intermediate, facts.hidden),
        "down_proj": (facts.hidden, facts.intermediate),
    }
    if not facts.gated_mlp:
        del shapes["gate_proj"]
    return shapes


def tensor_shapes(spec: DecoderSpec) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor that the model needs."""
    facts = spec.facts
    linears = linear_shapes(spec)
    yield EMBEDDING, (facts.vocabulary, facts.hidden)
    if spec.positions is not None:
        yield POSITIONS, (spec.positions, facts.hidden)
    for layer in range(facts.layers):
        yield from _norm(spec, layer, "attention")
        yield from _norm(spec, layer, "attention_inner", facts.heads * facts.head_dim)
        yield from _norm(spec, layer, "attention_output")
        for linear in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield from _linear(spec, layer, linear, linears[linear])
        if spec.qk_norm is not None:
            for part, heads in (("q_norm", facts.heads), ("k_norm", facts.kv_heads)):
                width = facts.head_dim * (heads if spec.qk_norm == "whole" else 1)
                yield f"model.layers.{layer}.self_attn.{part}.weight", (width,)
        yield from _norm(spec, layer, "mlp")
        yield from _norm(spec, layer, "mlp_inner", facts.intermediate)
        yield from _norm(spec, layer, "mlp_output")
        if spec.layers[layer].experts:
            yield from _experts(spec, layer)
            continue
        for linear in ("gate_proj", "up_proj", "down_proj"):
            if linear in linears:
                yield from _linear(spec, layer, linear, linears[linear])
    yield f"{FINAL_NORM}.weight", (facts.hidden,)
    if spec.norm_bias:
        yield f"{FINAL_NORM}.bias", (facts.hidden,)
    if not facts.tied_embedding:
        yield LM_HEAD, (facts.vocabulary, facts.hidden)
    if "lm_head" in spec.biases:
        yield "lm_head.bias", (facts.vocabulary,)


def _norm(
    spec: DecoderSpec, layer: int, place: NormPlace, width: int | None = None
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Of `width` features, or of the stream's."""
    if place in spec.norms:
        shape = (spec.facts.hidden if width is None else width,)
        yield f"{norm_name(layer, place)}.weight", shape
        if spec.norm_bias:
            yield f"{norm_name(layer, place)}.bias", shape


def _experts(spec: DecoderSpec, layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    facts = spec.facts
    yield f"model.layers.{layer}.{ROUTER}.weight", (facts.experts, facts.hidden)
    gate_up = (facts.experts, 2 * facts.expert_intermediate, facts.hidden)
    yield f"model.layers.{layer}.{EXPERTS_GATE_UP}.weight", gate_up
    yield f"model.layers.{layer}.{EXPERTS_DOWN}.weight", (facts.experts, facts.hidden, facts.expert_intermediate)


def _linear(
    spec: DecoderSpec, layer: int, linear: str, shape: tuple[int, int]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{linear_name(layer, linear)}.weight", shape
    if linear in spec.biases:
        yield f"{linear_name(layer, linear)}.bias", shape[:1]


def parameter_count(spec: DecoderSpec) -> int:
    return sum(math.prod(shape) for _, shape in tensor_shapes(spec))


__all__ = [
    "EMBEDDING",
    "EXPERTS_DOWN",
    "EXPERTS_GATE_UP",
    "FINAL_NORM",
    "LINEARS",
    "LM_HEAD",
    "NORMS",
    "POSITIONS",
    "ROUTER",
    "check_extents",
    "linear_name",
    "linear_shapes",
    "norm_name",
    "parameter_count",
    "tensor_shapes",
]
