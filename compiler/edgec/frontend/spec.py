"""`DecoderSpec`: everything that the graph of a decoder depends on but its weights, as plain data.

A configuration (`hf_config.py`) or the metadata of a GGUF file (`gguf.py`) becomes one; `decoder.py`
builds the graph of any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgec.ir.model import DecoderFacts

NormPlace = Literal["attention", "attention_inner", "attention_output", "mlp", "mlp_inner", "mlp_output"]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]

PRE_NORMS: frozenset[NormPlace] = frozenset({"attention", "mlp"})
POST_NORMS: frozenset[NormPlace] = frozenset({"attention_output", "mlp_output"})
INNER_NORMS: frozenset[NormPlace] = frozenset({"attention_inner", "mlp_inner"})  # before a branch's last linear


@dataclass(frozen=True)
class Rope:
    """Rotary embedding of the first `2 * len(inv_freq)` features of a head, halves against each other."""

    inv_freq: tuple[float, ...]  # radians per token, scaling applied
    scale: float = 1.0  # multiplies cos and sin (yarn, longrope)


@dataclass(frozen=True)
class LayerSpec:
    """What may differ from layer to layer."""

    rope: Rope | None
    window: int | None = None  # tokens that a token sees, itself included; None: all before it
    experts: bool = False  # the MLP is a mixture of experts


@dataclass(frozen=True)
class DecoderSpec:
    """`norms`: which places of a layer have one. `parallel`: both branches read the stream as it
    enters the layer; without an "mlp" norm the MLP then reads what the attention reads."""

    facts: DecoderFacts
    layers: tuple[LayerSpec, ...]
    norm: Literal["rms", "layer"] = "rms"
    norm_epsilon: float = 1e-6
    norm_bias: bool = False
    norms: frozenset[NormPlace] = PRE_NORMS
    parallel: bool = False
    qk_norm: Literal["head", "whole"] | None = None  # over each head, or over all queries (keys) of a token
    biases: frozenset[str] = frozenset()  # of `decoder.LINEARS`, and "lm_head"
    activation: Activation = "silu"
    attention_scale: float | None = None  # of scores; None: 1 / sqrt(head_dim)
    attention_softcap: float | None = None  # scores s become c * tanh(s / c)
    logit_softcap: float | None = None
    embedding_scale: float = 1.0
    positions: int | None = None  # rows of a table of learned positions
    normalized_experts: bool = True  # the weights of the chosen experts sum to 1


__all__ = ["INNER_NORMS", "POST_NORMS", "PRE_NORMS", "Activation", "DecoderSpec", "LayerSpec", "NormPlace", "Rope"]
