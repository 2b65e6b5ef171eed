"""Decoder families as test data: one entry is one family, or one form of it, that every suite runs.

The shapes are small and odd where it bites: 6 query heads on 2 key-value heads, heads of 8 and 24 features,
vocabulary and intermediate sizes that are no multiple of 8, windows shorter than the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LAYERS, VOCABULARY, LENGTH = 2, 131, 272
SHAPES: Mapping[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 84,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": LENGTH,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0, 1.5, 2.0, 2.5],
    "long_factor": [2.0, 3.0, 5.0, 9.0],
}


@dataclass(frozen=True)
class FamilyCase:
    """`prefix` of the classes of `transformers`; `fields` of the configuration besides `SHAPES`, `DROP` without one."""

    prefix: str
    exercises: str  # what this entry has that a plain Llama does not
    fields: Mapping[str, Any] = field(default_factory=dict)
    head: str = "ForCausalLM"
    config: str = "Config"
    ternary: bool = False  # linears have the weights -1, 0, 1 times a number, and are saved as BitNet's

    def settings(self) -> dict[str, Any]:
        return {name: value for name, value in {**SHAPES, **self.fields}.items() if value is not DROP}


DROP = object()
_GPT2 = {
    **dict.fromkeys(SHAPES, DROP),
    "vocab_size": VOCABULARY, "n_embd": 48, "n_inner": 84, "n_layer": LAYERS, "n_head": 6, "n_positions": LENGTH,
}  # fmt: skip
_FALCON = {"num_key_value_heads": DROP, "intermediate_size": DROP, "ffn_hidden_size": 84}

CASES: Mapping[str, FamilyCase] = {
    "llama": FamilyCase("Llama", "rope scaling of Llama 3", {"rope_scaling": LLAMA3, "rope_theta": 500.0}),
    "bitnet": FamilyCase(
        "BitNet", "norms before the last linear of a branch, squared ReLU as gate, ternary weights in two bits",
        ternary=True,
    ),
    "mistral": FamilyCase("Mistral", "a sliding window in all layers", {"sliding_window": 11, "head_dim": 8}),
    "qwen2": FamilyCase(
        "Qwen2",
        "biases of q, k, v; a window from some layer on",
        {"tie_word_embeddings": True, "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    ),
    "qwen3": FamilyCase("Qwen3", "norms of each query and key head", {"head_dim": 24, "tie_word_embeddings": True}),
    "gemma": FamilyCase(
        "Gemma", "scaled embedding, norms of 1 + w, GELU gate", {"head_dim": 16, "num_key_value_heads": 1}
    ),
    "gemma2": FamilyCase(
        "Gemma2",
        "soft caps, norms before and after, windows in every other layer, query scale",
        {"head_dim": 8, "sliding_window": 7, "query_pre_attn_scalar": 12, "attn_logit_softcapping": 2.0,
         "final_logit_softcapping": 3.0},
    ),
    "gemma3": FamilyCase(
        "Gemma3",
        "local and global rotation, norms of heads",
        {"head_dim": 8, "sliding_window": 7, "query_pre_attn_scalar": 12, "rope_local_base_freq": 100.0,
         "layer_types": ["sliding_attention", "full_attention"],
         "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        config="TextConfig",
    ),
    "phi3": FamilyCase(
        "Phi3",
        "joined qkv and gate-up, longrope, a window",
        {"rope_scaling": LONGROPE, "max_position_embeddings": 2 * LENGTH, "original_max_position_embeddings": LENGTH,
         "pad_token_id": 0, "sliding_window": 20},
    ),
    "phi4": FamilyCase(
        "Phi3", "partial rotation", {"partial_rotary_factor": 0.75, "pad_token_id": 0, "tie_word_embeddings": True}
    ),
    "smollm3": FamilyCase(
        "SmolLM3", "layers without rotation", {"no_rope_layers": [1, 0], "pad_token_id": 0, "eos_token_id": 1,
                                               "bos_token_id": 2}
    ),
    "olmo2": FamilyCase("Olmo2", "norms after, and of all queries and keys", {"pad_token_id": 0}),
    "granite": FamilyCase(
        "Granite",
        "multipliers of embedding, attention, residuals, logits",
        {"embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.4, "logits_scaling": 2.0,
         "tie_word_embeddings": True},
    ),
    "cohere": FamilyCase(
        "Cohere", "parallel branches of one norm, LayerNorm without bias, interleaved rotation, logit scale",
        {"logit_scale": 0.25, "pad_token_id": 0},
    ),
    "cohere2": FamilyCase(
        "Cohere2", "rotation in layers with a window only",
        {"logit_scale": 0.25, "pad_token_id": 0, "head_dim": 8, "sliding_window": 9,
         "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "stablelm": FamilyCase("StableLm", "LayerNorm with bias, partial rotation", {
        "hidden_size": 144, "partial_rotary_factor": 0.25, "use_qkv_bias": True}),
    "stablelm-parallel": FamilyCase(
        "StableLm", "parallel branches", {"partial_rotary_factor": 0.5, "use_parallel_residual": True}
    ),
    "phi": FamilyCase("Phi", "parallel branches of one norm, plain MLP, biases, also of the lm_head"),
    "gpt-neox": FamilyCase("GPTNeoX", "parallel branches of two norms, qkv by heads", {
        "rotary_pct": 0.5, "num_key_value_heads": DROP}),
    "gpt-neox-sequential": FamilyCase("GPTNeoX", "sequential branches", {
        "rotary_pct": 1.0, "num_key_value_heads": DROP, "use_parallel_residual": False}),
    "starcoder2": FamilyCase("Starcoder2", "LayerNorm, biases, plain MLP, a window", {"sliding_window": 13}),
    "gpt2": FamilyCase("GPT2", "learned positions, transposed linears", _GPT2, head="LMHeadModel"),
    "opt": FamilyCase(
        "OPT", "learned positions from row 2, ReLU",
        {"intermediate_size": DROP, "num_key_value_heads": DROP, "ffn_dim": 84, "word_embed_proj_dim": 48},
    ),
    "falcon": FamilyCase("Falcon", "one key-value head, parallel branches of one norm", _FALCON),
    "falcon-40b": FamilyCase(
        "Falcon", "qkv by groups, parallel branches of two norms",
        {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2},
    ),
    "falcon-sequential": FamilyCase(
        "Falcon", "sequential branches, biases", {**_FALCON, "multi_query": False, "parallel_attn": False, "bias": True}
    ),
    "arcee": FamilyCase("Arcee", "squared ReLU without a gate", {"bos_token_id": 1, "eos_token_id": 2}),
    "ernie4-5": FamilyCase(
        "Ernie4_5", "interleaved rotation, biases everywhere", {"head_dim": 16, "use_bias": True}
    ),
    "seed-oss": FamilyCase(
        "SeedOss", "biases of q, k, v, and of the MLP", {"head_dim": 16, "mlp_bias": True, "pad_token_id": 0}
    ),
    "helium": FamilyCase(
        "Helium", "interleaved rotation, biases", {"head_dim": 8, "mlp_bias": True, "attention_bias": True}
    ),
    "glm": FamilyCase(
        "Glm",
        "half of a head rotates interleaved, joined gate-up",
        {"head_dim": 16, "pad_token_id": 0, "eos_token_id": 1},
    ),
    "mixtral": FamilyCase(
        "Mixtral", "two of five experts for each token", {"num_local_experts": 5, "num_experts_per_tok": 2}
    ),
    "granitemoe": FamilyCase(
        "GraniteMoe", "experts stored together, multipliers",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "embedding_multiplier": 3.0, "attention_multiplier": 0.2,
         "residual_multiplier": 0.4, "logits_scaling": 2.0},
    ),
    "qwen3-moe": FamilyCase(
        "Qwen3Moe", "norms of each head, layers without experts",
        {"head_dim": 8, "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 36, "mlp_only_layers": [0],
         "norm_topk_prob": True},
    ),
    "olmoe": FamilyCase(
        "Olmoe", "norms of all queries and keys, weights of experts that do not sum to 1",
        {"num_experts": 8, "num_experts_per_tok": 4, "norm_topk_prob": False, "pad_token_id": 0},
    ),
}  # fmt: skip
