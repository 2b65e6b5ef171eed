"""Decoder families as data: what their `config.json` says, and how their checkpoints are laid out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgec.frontend.checkpoint import Layout
from edgec.frontend.spec import INNER_NORMS, POST_NORMS, PRE_NORMS
from edgec.frontend.values import Values

ATTENTION_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj")
QKV = ATTENTION_LINEARS[:3]
MLP_LINEARS = ("gate_proj", "up_proj", "down_proj")
PLAIN_MLP = ("up_proj", "down_proj")


def _plain(values: Values) -> Layout:
    return Layout()


def _nothing(values: Values) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True)
class Family:
    """`defaults` are the values of absent fields, as the family's own configuration class has them.

    `fields` maps fields of Llama configurations to the family's own names. `switches` gives fields of
    `DecoderSpec` that are not the default, and some of `DecoderFacts` (`hf_config.FACTS`); what it reads must
    stand in `defaults`.
    """

    name: str
    architecture: str  # the class named in `config.json`
    defaults: Mapping[str, Any]
    fields: Mapping[str, str] = field(default_factory=dict)
    same: Mapping[str, str] = field(default_factory=dict)  # fields that have to equal another one
    allowed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # the values of a field that are supported
    biases: frozenset[str] = frozenset()  # linears that always have one
    bias_switches: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # config field -> linears
    windows: Literal["all", "after", "pattern"] = "all"  # layers with a window, unless `layer_types` says which
    window_switch: str | None = None  # field that turns `sliding_window` on; None: it is on when set
    rope: Literal["all", "none", "windowed", "listed", "local"] = "all"  # layers that rotate (see `hf_config`)
    gated: bool = True
    switches: Callable[[Values], Mapping[str, Any]] = _nothing
    layout: Callable[[Values], Layout] = _plain


_COMMON_DEFAULTS: Mapping[str, Any] = {
    "hidden_act": "silu",
    "num_key_value_heads": None,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
}
_LAYER_NORM: Mapping[str, Any] = {
    **{name: value for name, value in _COMMON_DEFAULTS.items() if name != "rms_norm_eps"},
    "layer_norm_eps": 1e-5,
}
_LAYER_NORM_FIELDS = {"rms_norm_eps": "layer_norm_eps"}


def _gemma_scale(values: Values) -> dict[str, Any]:
    return {"embedding_scale": values.real("hidden_size") ** 0.5}


def _gemma2(values: Values) -> dict[str, Any]:
    return {
        **_gemma_scale(values),
        "norms": PRE_NORMS | POST_NORMS,
        "attention_scale": values.real("query_pre_attn_scalar") ** -0.5,
        "attention_softcap": values.optional_real("attn_logit_softcapping"),
        "logit_softcap": values.optional_real("final_logit_softcapping"),
    }


_SANDWICH = {
    "attention_output_layernorm": "post_attention_layernorm",
    "post_attention_layernorm": "pre_feedforward_layernorm",
    "mlp_output_layernorm": "post_feedforward_layernorm",
}
_GEMMA2_DEFAULTS = {
    **_COMMON_DEFAULTS,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
}


def _falcon(values: Values) -> dict[str, Any]:
    wide = values["new_decoder_architecture"]
    norms = 2 if values["num_ln_in_parallel_attn"] is None and wide else values["num_ln_in_parallel_attn"]
    parallel = wide or values["parallel_attn"]
    one = parallel and not (wide and norms == 2)
    kv_heads = values["num_kv_heads"] if wide or not values["multi_query"] else 1
    return {
        "norm": "layer",
        "norm_bias": True,
        "parallel": parallel,
        "norms": frozenset({"attention"}) if one else PRE_NORMS,
        "kv_heads": kv_heads,
    }


def _falcon_layout(values: Values) -> Layout:
    two = _falcon(values)["parallel"] and "mlp" in _falcon(values)["norms"]
    return Layout(
        model="transformer.",
        layers="h.",
        parts={
            "embed_tokens": "word_embeddings",
            "norm": "ln_f",
            "self_attn.o_proj": "self_attention.dense",
            "mlp.up_proj": "mlp.dense_h_to_4h",
            "mlp.down_proj": "mlp.dense_4h_to_h",
            **({"input_layernorm": "ln_attn", "post_attention_layernorm": "ln_mlp"} if two else {}),
        },
        qkv="self_attention.query_key_value",
        qkv_order="groups",
    )


def _experts(count: str, *, normalized: bool | str = True, intermediate: str = "intermediate_size") -> Any:
    """Switches of a mixture of experts; `count`, `intermediate` and (as text) `normalized` name fields."""

    def switches(values: Values) -> Mapping[str, Any]:
        return {
            "experts": values.integer(count),
            "experts_per_token": values.integer("num_experts_per_tok"),
            "expert_intermediate": values.integer(intermediate),
            "normalized_experts": bool(values[normalized]) if isinstance(normalized, str) else normalized,
        }

    return switches


def _expert_parts(router: str, gate: str, up: str, down: str) -> dict[str, str]:
    return {
        "mlp.router": router,
        "mlp.experts.gate_proj": gate,
        "mlp.experts.up_proj": up,
        "mlp.experts.down_proj": down,
    }


_QWEN_EXPERTS = _expert_parts(
    "mlp.gate",
    "mlp.experts.{expert}.gate_proj",
    "mlp.experts.{expert}.up_proj",
    "mlp.experts.{expert}.down_proj",
)


def _sparse_layers(values: Values) -> list[bool]:
    """Layers of Qwen3-MoE that have experts."""
    dense, step = values["mlp_only_layers"] or [], values.integer("decoder_sparse_step")
    return [n not in dense and (n + 1) % step == 0 for n in range(values.integer("num_hidden_layers"))]


def _granite(values: Values) -> dict[str, Any]:
    return {
        "embedding_scale": values.real("embedding_multiplier"),
        "attention_scale": values.real("attention_multiplier"),
    }


def _granite_factors(values: Values) -> dict[str, float]:
    return {
        "o_proj": values.real("residual_multiplier"),
        "down_proj": values.real("residual_multiplier"),
        "norm": 1 / values.real("logits_scaling"),
    }


_GRANITE_DEFAULTS = {
    **_COMMON_DEFAULTS,
    "max_position_embeddings": 2048,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "attention_multiplier": 1.0,
    "logits_scaling": 1.0,
}
_COHERE_SWITCHES = {"norm": "layer", "parallel": True, "norms": frozenset({"attention"})}

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family(
            "llama",
            "LlamaForCausalLM",
            {**_COMMON_DEFAULTS, "max_position_embeddings": 2048},
            bias_switches={"attention_bias": ATTENTION_LINEARS, "mlp_bias": MLP_LINEARS},
        ),
        Family(
            "bitnet",
            "BitNetForCausalLM",
            {
                **_COMMON_DEFAULTS,
                "hidden_act": "relu2",
                "max_position_embeddings": 2048,
                "num_key_value_heads": 5,
                "rms_norm_eps": 1e-5,
                "rope_theta": 500000.0,
            },
            bias_switches={"attention_bias": ATTENTION_LINEARS},
            switches=lambda values: {"norms": PRE_NORMS | INNER_NORMS},
        ),
        Family(
            "mistral",
            "MistralForCausalLM",
            {
                **_COMMON_DEFAULTS,
                "max_position_embeddings": 131072,
                "num_key_value_heads": 8,
                "sliding_window": 4096,
            },
        ),
        Family(
            "qwen2",
            "Qwen2ForCausalLM",
            {
                **_COMMON_DEFAULTS,
                "max_position_embeddings": 32768,
                "num_key_value_heads": 32,
                "sliding_window": 4096,
                "max_window_layers": 28,
            },
            biases=frozenset(QKV),
            windows="after",
            window_switch="use_sliding_window",
        ),
        Family(
            "qwen3",
            "Qwen3ForCausalLM",
            {
                **_COMMON_DEFAULTS,
                "max_position_embeddings": 32768,
                "num_key_value_heads": 32,
                "head_dim": 128,
                "sliding_window": 4096,
                "max_window_layers": 28,
            },
            bias_switches={"attention_bias": ATTENTION_LINEARS},
            windows="after",
            window_switch="use_sliding_window",
            switches=lambda values: {"qk_norm": "head"},
        ),
        Family(
            "gemma",
            "GemmaForCausalLM",
            {
                **_COMMON_DEFAULTS,
                "hidden_act": "gelu_pytorch_tanh",
                "hidden_activation": None,
                "max_position_embeddings": 8192,
                "num_key_value_heads": 16,
                "head_dim": 256,
                "tie_word_embeddings": True,
            },
            allowed={"hidden_activation": (None, "gelu_pytorch_tanh")},
            bias_switches={"attention_bias": ATTENTION_LINEARS},
            switches=lambda values: {
                **_gemma_scale(values),
                **({"activation": "gelu_tanh"} if values["hidden_activation"] is not None else {}),
            },
            layout=lambda values: Layout(norm_offset=1.0),
        ),
        Family(
            "gemma2",
            "Gemma2ForCausalLM",
            {**_GEMMA2_DEFAULTS, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
            fields={"hidden_act": "hidden_activation"},
            same={"hidden_act": "hidden_activation"},
            bias_switches={"attention_bias": ATTENTION_LINEARS},
            windows="pattern",
            switches=lambda values: {**_gemma2(values), "window_pattern": 2},
            layout=lambda values: Layout(norm_offset=1.0, parts=_SANDWICH),
        ),
        Family(
            "gemma3_text",
            "Gemma3ForCausalLM",
            {
                **_GEMMA2_DEFAULTS,
                "max_position_embeddings": 131072,
                "rope_theta": 1e6,
                "rope_local_base_freq": 10000.0,
                "sliding_window_pattern": 6,
            },
            fields={"hidden_act": "hidden_activation"},
            same={"hidden_act": "hidden_activation"},
            allowed={"attn_logit_softcapping": (None,)},
            bias_switches={"attention_bias": ATTENTION_LINEARS},
            windows="pattern",
            rope="local",
            switches=lambda values: {
                **_gemma2(values),
                "qk_norm": "head",
                "window_pattern": values.integer("sliding_window_pattern"),
            },
            layout=lambda values: Layout(norm_offset=1.0, parts=_SANDWICH),
        ),
        Family(
            "phi3",
            "Phi3ForCausalLM",
            {
                **_COMMON_DEFAULTS,
                "max_position_embeddings": 4096,
                "original_max_position_embeddings": 4096,
                "rms_norm_eps": 1e-5,
                "partial_rotary_factor": 1.0,
            },
            allowed={"full_attn_mod": (None, 1), "interpolate_factor": (None, 1)},  # of Phi-4, read by none
            layout=lambda values: Layout(qkv="self_attn.qkv_proj", gate_up="mlp.gate_up_proj"),
        ),
        Family(
            "smollm3",
            "SmolLM3ForCausalLM",
            {
                **_COMMON_DEFAULTS,
                "max_position_embeddings": 32768,
                "num_key_value_heads": 4,
                "rope_theta": 2e6,
                "tie_word_embeddings": True,
                "no_rope_layers": None,
                "no_rope_layer_interval": 4,
                "use_sliding_window": False,
            },
            allowed={"use_sliding_window": (False,)},
            bias_switches={"attention_bias": ATTENTION_LINEARS, "mlp_bias": MLP_LINEARS},
            window_switch="use_sliding_window",
            rope="listed",
        ),
        Family(
            "olmo2",
            "Olmo2ForCausalLM",
            {**_COMMON_DEFAULTS, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5},
            bias_switches={"attention_bias": ATTENTION_LINEARS},
            switches=lambda values: {"norms": POST_NORMS, "qk_norm": "whole"},
            layout=lambda values: Layout(parts=_SANDWICH),
        ),
        Family(
            "granite",
            "GraniteForCausalLM",
            _GRANITE_DEFAULTS,
            bias_switches={"attention_bias": ATTENTION_LINEARS, "mlp_bias": MLP_LINEARS},
            switches=_granite,
            layout=lambda values: Layout(factors=_granite_factors(values)),
        ),
        Family(
            "granitemoe",
            "GraniteMoeForCausalLM",
            {
                **_GRANITE_DEFAULTS,
                "num_local_experts": 8,
                "num_experts_per_tok": 2,
                "position_embedding_type": "rope",
            },
            bias_switches={"attention_bias": ATTENTION_LINEARS},
            allowed={"position_embedding_type": ("rope",)},
            switches=lambda values: {**_granite(values), **_experts("num_local_experts")(values)},
            layout=lambda values: Layout(
                parts={
                    "mlp.router": "block_sparse_moe.router.layer",
                    "mlp.experts.gate_up_proj": "block_sparse_moe.input_linear",
                    "mlp.experts.down_proj": "block_sparse_moe.output_linear",
                },
                factors=_granite_factors(values),
            ),
        ),
        Family(
            "mixtral",
            "MixtralForCausalLM",
            {
                **_COMMON_DEFAULTS,
                "max_position_embeddings": 131072,
                "num_key_value_heads": 8,
                "rms_norm_eps": 1e-5,
                "rope_theta": 1e6,
                "num_local_experts": 8,
                "num_experts_per_tok": 2,
            },
            switches=_experts("num_local_experts"),
            layout=lambda values: Layout(
                parts=_expert_parts(
                    "block_sparse_moe.gate",
                    "block_sparse_moe.experts.{expert}.w1",
                    "block_sparse_moe.experts.{expert}.w3",
                    "block_sparse_moe.experts.{expert}.w2",
                )
            ),
        ),
        Family(
            "qwen3_moe",
            "Qwen3MoeForCausalLM",
            {
                **_COMMON_DEFAULTS,
                "max_position_embeddings": 32768,
                "num_key_value_heads": 4,
                "decoder_sparse_step": 1,
                "mlp_only_layers": None,
                "moe_intermediate_size": 768,
                "norm_topk_prob": False,
                "num_experts": 128,
                "num_experts_per_tok": 8,
            },
            bias_switches={"attention_bias": ATTENTION_LINEARS},
            window_switch="use_sliding_window",
            switches=lambda values: {
                "qk_norm": "head",
                **_experts("num_experts", normalized="norm_topk_prob", intermediate="moe_intermediate_size")(values),
                "expert_layers": _sparse_layers(values),
            },
            layout=lambda values: Layout(parts=_QWEN_EXPERTS),
        ),
        Family(
            "olmoe",
            "OlmoeForCausalLM",
            {
                **_COMMON_DEFAULTS,
                "max_position_embeddings": 4096,
                "rms_norm_eps": 1e-5,
                "norm_topk_prob": False,
                "num_experts": 64,
                "num_experts_per_tok": 8,
            },
            bias_switches={"attention_bias": ATTENTION_LINEARS},
            switches=lambda values: {
                "qk_norm": "whole",
                **_experts("num_experts", normalized="norm_topk_prob")(values),
            },
            layout=lambda values: Layout(parts=_QWEN_EXPERTS),
        ),
        Family(
            "cohere",
            "CohereForCausalLM",
            {**_LAYER_NORM, "max_position_embeddings": 8192, "logit_scale": 0.0625, "tie_word_embeddings": True},
            fields=_LAYER_NORM_FIELDS,
            bias_switches={"attention_bias": ATTENTION_LINEARS},
            switches=lambda values: _COHERE_SWITCHES,
            layout=lambda values: Layout(interleaved=True, factors={"norm": values.real("logit_scale")}),
        ),
        Family(
            "cohere2",
            "Cohere2ForCausalLM",
            {
                **_LAYER_NORM,
                "max_position_embeddings": 8192,
                "sliding_window": 4096,
                "sliding_window_pattern": 4,
                "logit_scale": 0.0625,
                "tie_word_embeddings": True,
            },
            fields=_LAYER_NORM_FIELDS,
            same={"layer_switch": "sliding_window_pattern"},
            # Of the first releases: they name what this family always does.
            allowed={
                "order_of_interleaved_layers": (None, "local_attn_first"),
                "position_embedding_type": (None, "rope_gptj"),
                "rotary_pct": (None, 1.0),
                "use_embedding_sharing": (None, True),
                "use_gated_activation": (None, True),
                "use_parallel_block": (None, True),
            },
            bias_switches={"attention_bias": ATTENTION_LINEARS},
            windows="pattern",
            rope="windowed",
            switches=lambda values: {**_COHERE_SWITCHES, "window_pattern": values.integer("sliding_window_pattern")},
            layout=lambda values: Layout(interleaved=True, factors={"norm": values.real("logit_scale")}),
        ),
        Family(
            "stablelm",
            "StableLmForCausalLM",
            {
                **_LAYER_NORM,
                "max_position_embeddings": 4096,
                "num_key_value_heads": 32,
                "partial_rotary_factor": 0.25,
                "use_parallel_residual": False,
            },
            fields=_LAYER_NORM_FIELDS,
            bias_switches={"use_qkv_bias": QKV},
            switches=lambda values: {
                "norm": "layer",
                "norm_bias": True,
                "parallel": bool(values["use_parallel_residual"]),
                "norms": frozenset({"attention"}) if values["use_parallel_residual"] else PRE_NORMS,
            },
        ),
        Family(
            "phi",
            "PhiForCausalLM",
            {**_LAYER_NORM, "hidden_act": "gelu_new", "max_position_embeddings": 2048, "partial_rotary_factor": 0.5},
            fields=_LAYER_NORM_FIELDS,
            biases=frozenset({*ATTENTION_LINEARS, *PLAIN_MLP, "lm_head"}),
            gated=False,
            switches=lambda values: {
                "norm": "layer",
                "norm_bias": True,
                "parallel": True,
                "norms": frozenset({"attention"}),
            },
            layout=lambda values: Layout(
                parts={
                    "self_attn.o_proj": "self_attn.dense",
                    "mlp.up_proj": "mlp.fc1",
                    "mlp.down_proj": "mlp.fc2",
                    "norm": "final_layernorm",
                }
            ),
        ),
        Family(
            "arcee",
            "ArceeForCausalLM",
            {**_COMMON_DEFAULTS, "hidden_act": "relu2", "max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
            bias_switches={"attention_bias": ATTENTION_LINEARS, "mlp_bias": PLAIN_MLP},
            gated=False,
        ),
        Family(
            "ernie4_5",
            "Ernie4_5ForCausalLM",
            {
                **_COMMON_DEFAULTS,
                "head_dim": 128,
                "max_position_embeddings": 131072,
                "num_key_value_heads": 2,
                "rms_norm_eps": 1e-5,
                "rope_theta": 500000.0,
                "tie_word_embeddings": True,
            },
            bias_switches={"use_bias": (*ATTENTION_LINEARS, *MLP_LINEARS)},
            layout=lambda values: Layout(interleaved=True),
        ),
        Family(
            "seed_oss",
            "SeedOssForCausalLM",
            {
                **_COMMON_DEFAULTS,
                "attention_bias": True,
                "head_dim": 128,
                "max_position_embeddings": 524288,
                "num_key_value_heads": 8,
            },
            bias_switches={
                "attention_bias": QKV,
                "attention_out_bias": ("o_proj",),
                "mlp_bias": MLP_LINEARS,
            },
        ),
        Family(
            "helium",
            "HeliumForCausalLM",
            {
                **_COMMON_DEFAULTS,
                "head_dim": 128,
                "max_position_embeddings": 4096,
                "num_key_value_heads": 20,
                "rms_norm_eps": 1e-8,
                "rope_theta": 100000.0,
            },
            bias_switches={"attention_bias": QKV, "mlp_bias": MLP_LINEARS},
            layout=lambda values: Layout(interleaved=True),
        ),
        Family(
            "glm",
            "GlmForCausalLM",
            {
                **_COMMON_DEFAULTS,
                "attention_bias": True,
                "head_dim": 128,
                "max_position_embeddings": 131072,
                "num_key_value_heads": 2,
                "partial_rotary_factor": 0.5,
                "rms_norm_eps": 1.5625e-07,
            },
            bias_switches={"attention_bias": QKV},
            layout=lambda values: Layout(gate_up="mlp.gate_up_proj", interleaved=True),
        ),
        Family(
            "gpt_neox",
            "GPTNeoXForCausalLM",
            {
                **_LAYER_NORM,
                "hidden_act": "gelu",
                "max_position_embeddings": 2048,
                "rotary_emb_base": 10000.0,
                "rotary_pct": 0.25,
                "attention_bias": True,
                "use_parallel_residual": True,
            },
            fields={**_LAYER_NORM_FIELDS, "rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
            same={"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
            biases=frozenset(PLAIN_MLP),
            bias_switches={"attention_bias": ATTENTION_LINEARS},
            gated=False,
            switches=lambda values: {
                "norm": "layer",
                "norm_bias": True,
                "parallel": bool(values["use_parallel_residual"]),
            },
            layout=lambda values: Layout(
                model="gpt_neox.",
                parts={
                    "embed_tokens": "embed_in",
                    "norm": "final_layer_norm",
                    "lm_head": "embed_out",
                    "self_attn.o_proj": "attention.dense",
                    "mlp.up_proj": "mlp.dense_h_to_4h",
                    "mlp.down_proj": "mlp.dense_4h_to_h",
                },
                qkv="attention.query_key_value",
                qkv_order="groups",
                ignored=(".attention.bias", ".attention.masked_bias"),
            ),
        ),
        Family(
            "starcoder2",
            "Starcoder2ForCausalLM",
            {
                **_COMMON_DEFAULTS,
                "hidden_act": "gelu_pytorch_tanh",
                "max_position_embeddings": 4096,
                "num_key_value_heads": 2,
                "norm_epsilon": 1e-5,
                "tie_word_embeddings": True,
                "use_bias": True,
            },
            fields={"rms_norm_eps": "norm_epsilon"},
            allowed={
                "activation_function": (None, "gelu"),  # `hidden_act` is what counts
                "attention_softmax_in_fp32": (None, True),
                "layer_norm_epsilon": (None, 1e-5),
                "mlp_type": (None, "default"),
                "norm_type": (None, "layer_norm"),
                "scale_attention_softmax_in_fp32": (None, True),
                "scale_attn_weights": (None, True),
            },
            bias_switches={"use_bias": (*ATTENTION_LINEARS, *PLAIN_MLP)},
            gated=False,
            switches=lambda values: {"norm": "layer", "norm_bias": True},
            layout=lambda values: Layout(parts={"mlp.up_proj": "mlp.c_fc", "mlp.down_proj": "mlp.c_proj"}),
        ),
        Family(
            "gpt2",
            "GPT2LMHeadModel",
            {
                "activation_function": "gelu_new",
                "layer_norm_epsilon": 1e-5,
                "n_inner": None,
                "n_positions": 1024,
                "tie_word_embeddings": True,
                "scale_attn_weights": True,
            },
            fields={
                "hidden_act": "activation_function",
                "hidden_size": "n_embd",
                "intermediate_size": "n_inner",
                "max_position_embeddings": "n_positions",
                "num_attention_heads": "n_head",
                "num_hidden_layers": "n_layer",
                "rms_norm_eps": "layer_norm_epsilon",
            },
            allowed={"scale_attn_weights": (True,)},
            biases=frozenset({*ATTENTION_LINEARS, *PLAIN_MLP}),
            rope="none",
            gated=False,
            switches=lambda values: {"norm": "layer", "norm_bias": True, "positions": values.integer("n_positions")},
            layout=lambda values: Layout(
                model="transformer.",
                layers="h.",
                parts={
                    "embed_tokens": "wte",
                    "embed_positions": "wpe",
                    "norm": "ln_f",
                    "input_layernorm": "ln_1",
                    "post_attention_layernorm": "ln_2",
                    "self_attn.o_proj": "attn.c_proj",
                    "mlp.up_proj": "mlp.c_fc",
                    "mlp.down_proj": "mlp.c_proj",
                },
                qkv="attn.c_attn",
                transposed=True,
                ignored=(".attn.bias", ".attn.masked_bias"),
            ),
        ),
        Family(
            "opt",
            "OPTForCausalLM",
            {
                "activation_function": "relu",
                "max_position_embeddings": 2048,
                "tie_word_embeddings": True,
                "do_layer_norm_before": True,
                "enable_bias": True,
                "layer_norm_elementwise_affine": True,
                "word_embed_proj_dim": None,
                "_remove_final_layer_norm": False,
            },
            fields={"hidden_act": "activation_function", "intermediate_size": "ffn_dim"},
            same={"word_embed_proj_dim": "hidden_size"},
            allowed={
                "do_layer_norm_before": (True,),
                "layer_norm_elementwise_affine": (True,),
                "_remove_final_layer_norm": (False,),
            },
            bias_switches={"enable_bias": (*ATTENTION_LINEARS, *PLAIN_MLP)},
            rope="none",
            gated=False,
            switches=lambda values: {
                "norm": "layer",
                "norm_bias": True,
                "norm_epsilon": 1e-5,
                "positions": values.integer("max_position_embeddings"),
            },
            layout=lambda values: Layout(
                model="model.decoder.",
                parts={
                    "norm": "final_layer_norm",
                    "input_layernorm": "self_attn_layer_norm",
                    "post_attention_layernorm": "final_layer_norm",
                    "self_attn.o_proj": "self_attn.out_proj",
                    "mlp.up_proj": "fc1",
                    "mlp.down_proj": "fc2",
                },
                skipped_positions=2,
            ),
        ),
        Family(
            "falcon",
            "FalconForCausalLM",
            {
                **_COMMON_DEFAULTS,
                "activation": "gelu",
                "alibi": False,
                "bias": False,
                "ffn_hidden_size": None,
                "layer_norm_epsilon": 1e-5,
                "max_position_embeddings": 2048,
                "multi_query": True,
                "new_decoder_architecture": False,
                "num_kv_heads": None,
                "num_ln_in_parallel_attn": None,
                "parallel_attn": True,
                "tie_word_embeddings": True,
            },
            fields={
                "hidden_act": "activation",
                "intermediate_size": "ffn_hidden_size",
                "rms_norm_eps": "layer_norm_epsilon",
            },
            allowed={"alibi": (False,)},
            bias_switches={"bias": (*ATTENTION_LINEARS, *PLAIN_MLP)},
            gated=False,
            switches=_falcon,
            layout=_falcon_layout,
        ),
    )
}

__all__ = ["FAMILIES", "Family"]
