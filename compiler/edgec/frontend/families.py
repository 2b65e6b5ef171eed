"""Decoder families as data, and how a Hugging Face `config.json` of one becomes `DecoderFacts`.

A field that no entry here reads is refused unless it is listed as harmless or switched off
(`null`, `false`, `0`, empty): an unread field that changes the mathematics would compile another
model without a word.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgec.errors import ModelError
from edgec.frontend.decoder import check_extents
from edgec.frontend.problems import Problem
from edgec.frontend.rope import ROPE_KEYS, ROPE_TYPES, inverse_frequencies
from edgec.ir.model import DecoderFacts

ATTENTION_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_LINEARS = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Family:
    """`defaults` are the values of absent fields, as the family's own configuration class has them."""

    name: str
    architecture: str  # the class named in `config.json`
    defaults: Mapping[str, Any]
    biases: frozenset[str] = frozenset()  # linears that always have one
    bias_switches: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # config field -> linears
    window_switch: str | None = None  # field that turns `sliding_window` on; None: it is on when set


_COMMON_DEFAULTS: Mapping[str, Any] = {
    "hidden_act": "silu",
    "num_key_value_heads": None,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
}

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
            },
            biases=frozenset({"q_proj", "k_proj", "v_proj"}),
            window_switch="use_sliding_window",
        ),
    )
}

_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_READ = frozenset(
    {
        *_SIZES,
        *_COMMON_DEFAULTS,
        "architectures",
        "head_dim",
        "layer_types",
        "max_position_embeddings",
        "max_window_layers",
        "model_type",
        "original_max_position_embeddings",
        "rope_parameters",
        "rope_scaling",
        "use_sliding_window",
    }
)
# Fields about training, files, sampling or other libraries: without effect on the logits.
_HARMLESS = frozenset(
    {
        "attention_dropout", "auto_map", "bos_token_id", "chunk_size_feed_forward", "decoder_start_token_id",
        "dtype", "embd_pdrop", "eos_token_id", "hidden_dropout", "id2label", "initializer_range", "is_llama_config",
        "keys_to_ignore_at_inference", "label2id", "max_length", "max_new_tokens", "min_length",
        "model_max_length", "output_attentions", "output_hidden_states", "pad_token_id", "pretraining_tp",
        "problem_type", "repetition_penalty", "resid_pdrop", "return_dict", "temperature", "tokenizer_class",
        "top_k", "top_p", "torch_dtype", "torchscript", "transformers.js_config", "transformers_version",
        "typical_p", "unk_token_id", "unsloth_fixed", "unsloth_version", "use_bfloat16", "use_cache",
        "diversity_penalty", "length_penalty", "num_beams", "num_beam_groups", "num_return_sequences",
        "do_sample", "early_stopping", "encoder_no_repeat_ngram_size", "no_repeat_ngram_size",
    }
)  # fmt: skip


@dataclass(frozen=True)
class DecoderConfig:
    """A configuration understood completely."""

    family: Family
    facts: DecoderFacts
    biases: frozenset[str]


def family_problems(config: Mapping[str, Any]) -> list[Problem]:
    """Whether the configuration names a known family; a missing `architectures` is no problem."""
    supported = ", ".join(f"{f.name} ({f.architecture})" for f in FAMILIES.values())
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        return [Problem("model_type", repr(config.get("model_type")), supported)]
    architectures = config.get("architectures") or [family.architecture]
    if architectures != [family.architecture]:
        return [Problem("architectures", repr(architectures), supported)]
    return []


def config_problems(config: Mapping[str, Any]) -> list[Problem]:
    """Every field of a `config.json` that the builder cannot honour."""
    problems = family_problems(config)
    if problems:
        return problems
    family = FAMILIES[config["model_type"]]
    values = {**family.defaults, **config}
    if values["hidden_act"] not in ("silu", "swish"):
        problems.append(Problem("hidden_act", repr(values["hidden_act"]), "'silu'"))
    layer_types = set(config.get("layer_types") or ()) - {"full_attention", "sliding_attention"}
    if layer_types:
        problems.append(Problem("layer_types", repr(sorted(layer_types)), "'full_attention', 'sliding_attention'"))
    problems += _rope_problems(_rope(config, values))
    known = _READ | _HARMLESS | set(family.bias_switches)
    for name, value in config.items():
        if name not in known and not name.startswith("_") and value not in (None, False, 0, "", [], {}):
            problems.append(Problem(name, _short(value), "leaving it out or switching it off"))
    return problems


def _rope_problems(rope: Mapping[str, Any]) -> list[Problem]:
    kind = rope["rope_type"]
    if kind not in ROPE_TYPES:
        return [Problem("rope_type", repr(kind), ", ".join(f"'{name}'" for name in ROPE_TYPES))]
    problems = []
    if rope.get("partial_rotary_factor", 1.0) not in (None, 1, 1.0):
        problems.append(Problem("partial_rotary_factor", repr(rope["partial_rotary_factor"]), "1.0"))
    known = ROPE_KEYS[kind] | {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    # Transformers leaves the defaults of other types in; they are read by none.
    known |= {"original_max_position_embeddings"} if kind in ("default", "linear") else set()
    for name, value in rope.items():
        if name not in known and value is not None:
            problems.append(Problem(f"rope.{name}", repr(value), f"fields of rope type '{kind}'"))
    return problems


def _rope(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Both spellings, `rope_parameters` and `rope_scaling` beside `rope_theta`, as one dictionary."""
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(found, dict):
        raise ModelError(f"the config field `rope_scaling` is {found!r}, expected an object")
    rope = {"rope_theta": values["rope_theta"], **found}
    rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
    if rope["rope_type"] in ("llama3", "yarn"):
        trained = config.get("original_max_position_embeddings") or values["max_position_embeddings"]
        rope.setdefault("original_max_position_embeddings", trained)
    return rope


def decoder_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The facts of a configuration without problems. Raises `ModelError` for impossible values."""
    family = FAMILIES[config["model_type"]]
    values = {**family.defaults, **config}
    missing = [name for name in _SIZES if name not in values]
    if missing:
        raise ModelError(f"the config lacks {', '.join(f'`{name}`' for name in missing)}")
    sizes = {name: _positive(values, name) for name in (*_SIZES, "max_position_embeddings")}
    heads, hidden = sizes["num_attention_heads"], sizes["hidden_size"]
    kv_heads = heads if values["num_key_value_heads"] is None else _positive(values, "num_key_value_heads")
    if values.get("head_dim") is None and hidden % heads:
        raise ModelError(f"`hidden_size` {hidden} is not a multiple of `num_attention_heads` {heads}")
    head_dim = hidden // heads if values.get("head_dim") is None else _positive(values, "head_dim")
    check_extents(layers=sizes["num_hidden_layers"], heads=heads, kv_heads=kv_heads, head_dim=head_dim)
    window = _window(family, values)
    context = min(sizes["max_position_embeddings"], window or sizes["max_position_embeddings"])
    rope = _rope(config, values)
    theta = _positive_real(rope, "rope_theta")
    frequencies, scale = inverse_frequencies(
        rope, theta=theta, head_dim=head_dim, context_length=sizes["max_position_embeddings"]
    )
    facts = DecoderFacts(
        layers=sizes["num_hidden_layers"],
        hidden=hidden,
        intermediate=sizes["intermediate_size"],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=sizes["vocab_size"],
        context_length=context,
        norm_epsilon=_positive_real(values, "rms_norm_eps"),
        rope_theta=theta,
        rope_inv_freq=frequencies,
        rope_scale=scale,
        sliding_window=window,
        tied_embedding=bool(values["tie_word_embeddings"]),
    )
    switched = [linears for name, linears in family.bias_switches.items() if values.get(name)]
    return DecoderConfig(family, facts, family.biases.union(*switched))


def _window(family: Family, values: Mapping[str, Any]) -> int | None:
    if family.window_switch is not None and not values.get(family.window_switch):
        return None
    return None if values["sliding_window"] is None else _positive(values, "sliding_window")


def _positive(values: Mapping[str, Any], name: str) -> int:
    value = values[name]
    if type(value) is not int or not 0 < value < 1 << 31:
        raise ModelError(f"the config field `{name}` is {value!r}, expected a positive integer")
    return value


def _positive_real(values: Mapping[str, Any], name: str) -> float:
    value = values[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ModelError(f"the config field `{name}` is {value!r}, expected a positive number")
    return float(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
