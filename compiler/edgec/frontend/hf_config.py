"""How a Hugging Face `config.json` becomes a `DecoderSpec`, by the table in `families.py`.

A field that no entry there reads is refused unless it is listed as harmless or switched off
(`null`, `false`, `0`, empty): an unread field that changes the mathematics would compile another
model without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgec.errors import ModelError
from edgec.frontend.checkpoint import Layout
from edgec.frontend.families import FAMILIES, Family
from edgec.frontend.prequantized import METHODS
from edgec.frontend.problems import Problem
from edgec.frontend.rope import ROPE_KEYS, ROPE_TYPES, inverse_frequencies
from edgec.frontend.spec import Activation, DecoderSpec, LayerSpec, Rope
from edgec.frontend.tensors import check_extents
from edgec.frontend.values import Values
from edgec.ir.model import DecoderFacts, LongRope

ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
# Read under these names, or those of `Family.fields`, in every family.
_NAMES = (*_SIZES, "intermediate_size", "hidden_act", "max_position_embeddings", "tie_word_embeddings")
_ROPE_NAMES = ("num_key_value_heads", "rms_norm_eps", "rope_theta", "sliding_window")
_READ = frozenset(
    {
        "architectures", "head_dim", "layer_types", "max_window_layers", "model_type",
        "original_max_position_embeddings", "quantization_config", "rope_parameters", "rope_scaling",
        "use_sliding_window",
    }
)  # fmt: skip
# Fields about training, files, sampling or other libraries: without effect on the logits.
_HARMLESS = frozenset(
    {
        "activation_dropout", "attention_dropout", "attn_pdrop", "auto_map", "bos_token_id", "cache_implementation",
        "chunk_size_feed_forward", "classifier_dropout", "decoder_start_token_id", "diversity_penalty", "do_sample",
        "dropout", "dtype", "early_stopping", "embd_pdrop", "embedding_dropout", "encoder_no_repeat_ngram_size",
        "eos_token_id", "gradient_checkpointing", "hidden_dropout", "id2label", "init_std", "initializer_range",
        "is_llama_config", "keys_to_ignore_at_inference", "label2id", "layerdrop", "length_penalty", "max_length",
        "max_new_tokens", "min_length", "model_max_length", "n_ctx", "no_repeat_ngram_size", "num_beam_groups",
        "num_beams", "num_return_sequences", "output_attentions", "output_hidden_states", "output_router_logits",
        "pad_token_id", "prefix", "pretraining_tp", "problem_type", "reorder_and_upcast_attn", "repetition_penalty",
        "resid_pdrop", "residual_dropout", "return_dict", "router_aux_loss_coef", "router_jitter_noise",
        "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
        "task_specific_params", "temperature", "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript",
        "transformers.js_config", "transformers_version", "typical_p", "unk_token_id", "unsloth_fixed",
        "unsloth_version", "use_bfloat16", "use_cache",
    }
)  # fmt: skip
FACTS = ("experts", "experts_per_token", "expert_intermediate")  # of `DecoderFacts`, that `Family.switches` gives
_LAYER_TYPES = ("full_attention", "sliding_attention")


@dataclass(frozen=True)
class DecoderConfig:
    """A configuration understood completely."""

    family: Family
    spec: DecoderSpec
    layout: Layout


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
    fields = _Fields(FAMILIES[config["model_type"]], config)
    family, values = fields.family, fields.values
    activation = fields.name("hidden_act")
    if values.get(activation) not in ACTIVATIONS:
        problems.append(Problem(activation, repr(values.get(activation)), _quoted(ACTIVATIONS)))
    unknown = set(config.get("layer_types") or ()) - set(_LAYER_TYPES)
    if unknown:
        problems.append(Problem("layer_types", repr(sorted(unknown)), _quoted(_LAYER_TYPES)))
    for name, allowed in family.allowed.items():
        if values.get(name) not in allowed:
            problems.append(Problem(name, repr(values.get(name)), ", ".join(repr(value) for value in allowed)))
    for name, other in family.same.items():
        if config.get(name) not in (None, values.get(other)):
            problems.append(Problem(name, repr(config[name]), f"the value of `{other}`, {values.get(other)!r}"))
    if family.rope != "none":
        problems += _rope_problems(fields.rope(), partial=fields.partial is not None)
    problems += _quantization_problems(config.get("quantization_config"))
    known = fields.read | _HARMLESS
    for name, value in config.items():
        if name not in known and not name.startswith("_") and value not in (None, False, 0, "", [], {}):
            problems.append(Problem(name, _short(value), "leaving it out or switching it off"))
    return problems


def _quantization_problems(quantization: Any) -> list[Problem]:
    """What stands against reading weights that were quantized elsewhere."""
    if not quantization:
        return []
    if not isinstance(quantization, dict):
        raise ModelError(f"the config field `quantization_config` is {_short(quantization)}, expected an object")
    method = METHODS.get(str(quantization.get("quant_method")))
    if method is None:
        return [Problem("quantization_config.quant_method", repr(quantization.get("quant_method")), _quoted(METHODS))]
    return method.problems(quantization)


def _rope_problems(rope: Mapping[str, Any], *, partial: bool) -> list[Problem]:
    kind = rope["rope_type"]
    if kind not in ROPE_TYPES:
        return [Problem("rope_type", repr(kind), _quoted(ROPE_TYPES))]
    problems = []
    if not partial and rope.get("partial_rotary_factor", 1.0) not in (None, 1, 1.0):
        problems.append(Problem("partial_rotary_factor", repr(rope["partial_rotary_factor"]), "1.0"))
    known = ROPE_KEYS[kind] | {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    # Transformers leaves the defaults of other types in; they are read by none.
    known |= {"original_max_position_embeddings"} if kind in ("default", "linear") else set()
    for name, value in rope.items():
        if name not in known and value is not None:
            problems.append(Problem(f"rope.{name}", repr(value), f"fields of rope type '{kind}'"))
    return problems


class _Fields:
    """A configuration with its family's defaults, read under one set of names."""

    def __init__(self, family: Family, config: Mapping[str, Any]) -> None:
        self.family = family
        self.config = config
        self.values = Values({**family.defaults, **config})

    def name(self, field: str) -> str:
        return self.family.fields.get(field, field)

    def get(self, field: str) -> Any:
        return self.values.get(self.name(field))

    @property
    def read(self) -> set[str]:
        family = self.family
        names = _NAMES if family.rope == "none" else (*_NAMES, *_ROPE_NAMES)
        return {
            *_READ,
            *(self.name(field) for field in names),
            *family.defaults,
            *family.allowed,
            *family.same,
            *family.bias_switches,
        }

    @property
    def partial(self) -> float | None:
        """The part of a head that rotates, in families that know such a part."""
        name = self.name("partial_rotary_factor")
        return self.values.real(name) if name in self.family.defaults else None

    def rope(self) -> dict[str, Any]:
        """Both spellings, `rope_parameters` and `rope_scaling` beside `rope_theta`, as one dictionary."""
        found = self.config.get("rope_parameters") or self.config.get("rope_scaling") or {}
        if not isinstance(found, dict):
            raise ModelError(f"the config field `rope_scaling` is {found!r}, expected an object")
        rope = {"rope_theta": self.get("rope_theta"), **found}
        kind = rope.get("rope_type") or rope.get("type") or "default"
        rope["rope_type"] = "longrope" if kind == "su" else kind  # the name it had at first
        if rope["rope_type"] in ("llama3", "yarn", "longrope"):
            longest = self.get("max_position_embeddings")
            rope.setdefault(
                "original_max_position_embeddings", self.values.get("original_max_position_embeddings") or longest
            )
        return rope

    def positive(self, field: str) -> int:
        return self.values.integer(self.name(field))


def decoder_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The specification of a configuration without problems. Raises `ModelError` for impossible values."""
    family = FAMILIES[config["model_type"]]
    fields = _Fields(family, config)
    missing = [name for name in map(fields.name, _SIZES) if name not in fields.values]
    if missing:
        raise ModelError(f"the config lacks {', '.join(f'`{name}`' for name in missing)}")
    hidden, layers, heads, vocabulary = (fields.positive(name) for name in _SIZES)
    context = fields.positive("max_position_embeddings")
    switches = dict(family.switches(fields.values))
    pattern = switches.pop("window_pattern", 1)
    experts = {name: switches.pop(name) for name in FACTS if name in switches}
    expert_layers = switches.pop("expert_layers", [bool(experts)] * layers)
    if experts and experts["experts_per_token"] > experts["experts"]:
        raise ModelError(f"a token chooses {experts['experts_per_token']} of {experts['experts']} experts")
    kv_heads = switches.pop("kv_heads", fields.get("num_key_value_heads"))
    kv_heads = heads if kv_heads is None else Values(num_key_value_heads=kv_heads).integer("num_key_value_heads")
    if fields.get("head_dim") is None and hidden % heads:
        raise ModelError(f"`hidden_size` {hidden} is not a multiple of `num_attention_heads` {heads}")
    head_dim = hidden // heads if fields.get("head_dim") is None else fields.positive("head_dim")
    check_extents(layers=layers, heads=heads, kv_heads=kv_heads, head_dim=head_dim)
    # Models with plain MLPs may leave the size out.
    widen = not family.gated and fields.get("intermediate_size") is None
    windows = _windows(fields, layers, pattern)
    windows = [None if window is None or window >= context else window for window in windows]
    ropes, longrope = _ropes(fields, windows, head_dim, context)
    facts = DecoderFacts(
        layers=layers,
        hidden=hidden,
        intermediate=4 * hidden if widen else fields.positive("intermediate_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=vocabulary,
        context_length=context if longrope is None else _first_context(fields),
        windows=tuple(windows),
        gated_mlp=family.gated,
        tied_embedding=bool(fields.get("tie_word_embeddings")),
        longrope=longrope,
        **experts,
    )
    switches.setdefault("norm_epsilon", None)
    if switches["norm_epsilon"] is None:
        switches["norm_epsilon"] = fields.values.real(fields.name("rms_norm_eps"))
    switches.setdefault("activation", ACTIVATIONS[fields.get("hidden_act")])
    switched = [linears for name, linears in family.bias_switches.items() if fields.values.get(name)]
    spec = DecoderSpec(
        facts=facts,
        layers=tuple(map(LayerSpec, ropes, windows, expert_layers)),
        biases=family.biases.union(*switched),
        **switches,
    )
    return DecoderConfig(family, spec, family.layout(fields.values))


def _windows(fields: _Fields, layers: int, pattern: int) -> list[int | None]:
    """The window of each layer; None where a token sees all before it."""
    family, values = fields.family, fields.values
    switched_off = family.window_switch is not None and not values.get(family.window_switch)
    if switched_off or values.get("sliding_window") is None:
        return [None] * layers
    size = values.integer("sliding_window")
    types = values.get("layer_types")
    if types is not None:
        if not isinstance(types, list) or len(types) != layers:
            raise ModelError(f"the config field `layer_types` does not name the types of {layers} layers")
        sliding = [kind == "sliding_attention" for kind in types]
    elif family.windows == "after":
        first = 0 if values["max_window_layers"] == 0 else values.integer("max_window_layers")
        sliding = [number >= first for number in range(layers)]
    elif family.windows == "pattern":
        sliding = [(number + 1) % pattern != 0 for number in range(layers)]
    else:
        sliding = [True] * layers
    return [size if windowed else None for windowed in sliding]


def _ropes(
    fields: _Fields, windows: list[int | None], head_dim: int, context: int
) -> tuple[list[Rope | None], LongRope | None]:
    """The rotary embedding of each layer, and how a context beyond `_first_context` rotates."""
    family = fields.family
    if family.rope == "none":
        return [None for _ in windows], None
    rope = fields.rope()
    rotated = int(head_dim * (1.0 if fields.partial is None else fields.partial))
    if not 0 < rotated <= head_dim or rotated % 2:
        raise ModelError(f"{rotated} of {head_dim} features of a head rotate, expected a positive even number")

    def make(rope: Mapping[str, Any], name: str) -> Rope:
        theta = Values(rope).real(name)
        return Rope(*inverse_frequencies(rope, theta=theta, head_dim=rotated, context_length=context))

    everywhere = make(rope, "rope_theta")
    ropes: list[Rope | None] = [everywhere for _ in windows]
    if family.rope == "windowed":
        ropes = [None if window is None else everywhere for window in windows]
    elif family.rope == "local":
        # Layers with a window rotate by a frequency base of their own, without scaling.
        local = make({"rope_type": "default", **fields.values}, "rope_local_base_freq")
        ropes = [everywhere if window is None else local for window in windows]
    elif family.rope == "listed":
        ropes = [everywhere if rotates else None for rotates in _rotating(fields, len(windows))]
    if rope["rope_type"] != "longrope" or context <= _first_context(fields):
        return ropes, None
    theta = Values(rope).real("rope_theta")
    long, _ = inverse_frequencies(rope, theta=theta, head_dim=rotated, context_length=context, long=True)
    return ropes, LongRope(context, long)


def _first_context(fields: _Fields) -> int:
    """The length that a model with longrope was trained for first; with more tokens all of them rotate otherwise."""
    return int(Values(fields.rope()).real("original_max_position_embeddings"))


def _rotating(fields: _Fields, layers: int) -> list[bool]:
    listed = fields.values["no_rope_layers"]
    if listed is None:
        interval = fields.values.integer("no_rope_layer_interval")
        return [(number + 1) % interval != 0 for number in range(layers)]
    if not isinstance(listed, list) or len(listed) != layers:
        raise ModelError(f"the config field `no_rope_layers` does not say which of {layers} layers rotate")
    return [bool(rotates) for rotates in listed]


def _quoted(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


__all__ = ["DecoderConfig", "config_problems", "decoder_config", "family_problems"]
