"""GGUF architectures as data: which metadata they have, and how llama.cpp's converter leaves their tensors.

Names of tensors are the same in all of them; what differs in order or meaning stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgec.errors import ModelError
from edgec.frontend.gguf_file import GGUFFile
from edgec.frontend.gguf_metadata import Metadata
from edgec.frontend.spec import POST_NORMS, PRE_NORMS

PARTS: Mapping[str, str] = {
    "embed_tokens": "token_embd",
    "embed_positions": "position_embd",
    "norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "attention_output_layernorm": "post_attention_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp_output_layernorm": "post_ffw_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.router": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
}


EXPERTS = frozenset({"expert_count", "expert_used_count", "expert_feed_forward_length"})


@dataclass(frozen=True)
class Header:
    """The metadata of one file without the architecture's name, and which tensors it has."""

    file: GGUFFile
    metadata: Metadata
    prefix: str

    def integer(self, key: str) -> int:
        return self.metadata.required_integer(self.prefix + key)

    def optional_integer(self, key: str) -> int | None:
        return self.metadata.integer(self.prefix + key) or None

    def real(self, key: str) -> float:
        """A positive number."""
        value = self.metadata.required_real(self.prefix + key)
        if value <= 0:
            raise ModelError(f"the metadata key `{self.prefix}{key}` is {value}, expected a positive number")
        return value

    def optional_real(self, key: str) -> float | None:
        """A positive number; None where it is absent or 0."""
        return self.real(key) if self.metadata.real(self.prefix + key) else None

    def flag(self, key: str) -> bool:
        return self.metadata.flag(self.prefix + key, False)

    def has(self, tensor: str) -> bool:
        return tensor in self.file.tensors

    @property
    def heads(self) -> int:
        return self.integer("attention.head_count")

    @property
    def head_dim(self) -> int:
        return self.optional_integer("attention.key_length") or self.integer("embedding_length") // self.heads


Switches = Callable[[Header], Mapping[str, Any]]


def _nothing(header: Header) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True)
class Architecture:
    """`reads`: keys besides the common ones. `switches` gives fields of `DecoderSpec` that are not the default,
    `factors` what is folded into weights (`checkpoint.Layout`)."""

    reads: frozenset[str] = frozenset()
    norm: Literal["rms", "layer"] = "rms"
    gated: bool = True
    interleaved: bool = False  # rotation pairs neighbours
    rope: Literal["all", "none", "windowed", "local", "fourth"] = "all"  # "fourth": all layers but every fourth
    window_pattern: int = 0  # every so many layers one has no window; 0: all have one
    parts: Callable[[Header], Mapping[str, str]] = _nothing  # names that differ from `PARTS`
    gate_up: str | None = None  # the tensor that holds both
    experts: bool = False  # may have some; the keys of `EXPERTS` are then read
    switches: Switches = _nothing
    factors: Switches = _nothing
    rope_factors: tuple[str, ...] = field(
        default=("rope_freqs.weight",)
    )  # tensors of divisors; the second is of longer contexts


def _gemma(header: Header) -> dict[str, Any]:
    return {"activation": "gelu_tanh", "embedding_scale": float(header.integer("embedding_length")) ** 0.5}


def _gemma2(largest: int) -> Switches:
    """`largest`: layers of the 27B model, which scales queries in its own way; no key says so."""

    def switches(header: Header) -> dict[str, Any]:
        wide = header.integer("block_count") == largest
        scaled = header.integer("embedding_length") // header.heads if wide else header.head_dim
        return {
            **_gemma(header),
            "norms": PRE_NORMS | POST_NORMS,
            "attention_scale": float(scaled) ** -0.5,
            "attention_softcap": header.optional_real("attn_logit_softcapping"),
            "logit_softcap": header.optional_real("final_logit_softcapping"),
        }

    return switches


def _parallel(header: Header) -> dict[str, Any]:
    """Both branches read the same norm where the MLP has none."""
    return {"parallel": True, "norms": PRE_NORMS if header.has("blk.0.ffn_norm.weight") else frozenset({"attention"})}


def _falcon(header: Header) -> dict[str, Any]:
    two = header.has("blk.0.attn_norm_2.weight")
    return {"activation": "gelu", "parallel": True, "norms": PRE_NORMS if two else frozenset({"attention"})}


def _falcon_parts(header: Header) -> Mapping[str, str]:
    two = {"input_layernorm": "attn_norm_2", "post_attention_layernorm": "attn_norm"}
    return two if header.has("blk.0.attn_norm_2.weight") else {}


_SOFTCAPS = frozenset({"attn_logit_softcapping", "final_logit_softcapping"})
_COHERE: dict[str, Any] = {
    "norm": "layer",
    "interleaved": True,
    "reads": frozenset({"logit_scale"}),
    "switches": lambda header: {"parallel": True, "norms": frozenset({"attention"})},
    "factors": lambda header: {"norm": header.real("logit_scale")},
}

_GRANITE: dict[str, Any] = {
    "interleaved": True,
    "reads": frozenset({"attention.scale", "embedding_scale", "logit_scale", "residual_scale"}),
    "switches": lambda header: {
        "attention_scale": header.optional_real("attention.scale"),
        "embedding_scale": header.optional_real("embedding_scale") or 1.0,
    },
    "factors": lambda header: {
        "o_proj": header.optional_real("residual_scale") or 1.0,
        "down_proj": header.optional_real("residual_scale") or 1.0,
        "norm": 1 / (header.optional_real("logit_scale") or 1.0),
    },
}

ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(interleaved=True, experts=True),
    "qwen2": Architecture(),
    "qwen3": Architecture(switches=lambda header: {"qk_norm": "head"}),
    "qwen3moe": Architecture(experts=True, switches=lambda header: {"qk_norm": "head"}),
    "smollm3": Architecture(interleaved=True, rope="fourth"),
    "gemma": Architecture(switches=_gemma),
    "gemma2": Architecture(reads=_SOFTCAPS, window_pattern=2, switches=_gemma2(46)),
    "gemma3": Architecture(
        reads=frozenset({"final_logit_softcapping", "rope.freq_base_swa"}),
        window_pattern=6,
        rope="local",
        switches=lambda header: {**_gemma2(62)(header), "qk_norm": "head"},
    ),
    "phi2": Architecture(
        norm="layer", gated=False, switches=lambda header: {**_parallel(header), "activation": "gelu_tanh"}
    ),
    "phi3": Architecture(
        reads=frozenset({"rope.scaling.attn_factor"}),
        gate_up="ffn_up",
        rope_factors=("rope_factors_short.weight", "rope_factors_long.weight"),
    ),
    "olmo2": Architecture(switches=lambda header: {"norms": POST_NORMS, "qk_norm": "whole"}),
    "olmoe": Architecture(experts=True, switches=lambda header: {"qk_norm": "whole", "normalized_experts": False}),
    "granite": Architecture(**_GRANITE),
    "granitemoe": Architecture(**_GRANITE, experts=True),
    "command-r": Architecture(**_COHERE),
    "cohere2": Architecture(**_COHERE, rope="windowed", window_pattern=4),
    "stablelm": Architecture(
        norm="layer",
        reads=frozenset({"use_parallel_residual"}),
        switches=lambda header: _parallel(header) if header.flag("use_parallel_residual") else {},
    ),
    "gptneox": Architecture(
        norm="layer",
        gated=False,
        reads=frozenset({"use_parallel_residual"}),
        switches=lambda header: {
            "activation": "gelu",
            **(_parallel(header) if header.flag("use_parallel_residual") else {}),
        },
    ),
    "starcoder2": Architecture(norm="layer", gated=False, switches=lambda header: {"activation": "gelu_tanh"}),
    "gpt2": Architecture(
        norm="layer",
        gated=False,
        rope="none",
        switches=lambda header: {"activation": "gelu_tanh", "positions": header.integer("context_length")},
    ),
    "falcon": Architecture(norm="layer", gated=False, switches=_falcon, parts=_falcon_parts),
}

__all__ = ["ARCHITECTURES", "EXPERTS", "PARTS", "Architecture", "Header"]
