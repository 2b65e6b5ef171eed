"""GGUF files of decoder language models: metadata and tensors into the same builder as `hf.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgec.errors import ModelError
from edgec.frontend.checkpoint import CheckpointWeights, Layout, check_tensors
from edgec.frontend.decoder import build_decoder
from edgec.frontend.files import source_sha256
from edgec.frontend.gguf_file import SUPPORTED_TYPES, GGUFFile
from edgec.frontend.gguf_metadata import Metadata
from edgec.frontend.gguf_tokenizer import read_tokenizer, tokenizer_problems
from edgec.frontend.problems import Problem, refuse
from edgec.frontend.rope import inverse_frequencies
from edgec.frontend.spec import DecoderSpec, LayerSpec, Rope
from edgec.frontend.tensors import check_extents, parameter_count
from edgec.ir.model import DecoderFacts, ModelFacts, ModelIR

# Architectures and whether their q and k rows lie interleaved (even and odd halves in turn).
ARCHITECTURES: Mapping[str, bool] = {"llama": True, "qwen2": False}

_PARTS = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_ROPE_FACTORS = "rope_freqs.weight"
_ROPE_SCALINGS = ("none", "linear", "yarn")

# Keys after `{architecture}.` that are read here, or say nothing about the mathematics.
_READ = frozenset(
    {
        "attention.head_count", "attention.head_count_kv", "attention.key_length",
        "attention.layer_norm_rms_epsilon", "attention.value_length", "attention.sliding_window", "block_count",
        "context_length", "embedding_length", "feed_forward_length", "rope.dimension_count", "rope.freq_base",
        "rope.scaling.factor", "rope.scaling.finetuned", "rope.scaling.original_context_length",
        "rope.scaling.type", "vocab_size",
    }
)  # fmt: skip


def check(path: Path) -> list[Problem]:
    """Every metadata key, tensor type and tokenizer kind that cannot be compiled; reads no weight."""
    return _problems(GGUFFile(path))


def load(path: Path, *, name: str | None = None) -> ModelIR:
    """Reads a file. Raises `UnsupportedError`, `ModelError` or `CorruptFileError` before any weight is read."""
    file = GGUFFile(path)
    refuse(path.name, _problems(file))
    spec = _spec(file, Metadata(file))
    layout = Layout(
        model="",
        layers="blk.",
        parts=_PARTS,
        interleaved=ARCHITECTURES[Metadata(file).required_text("general.architecture")],
        ignored=(_ROPE_FACTORS,),
    )
    check_tensors(spec, layout, {name: tensor.shape for name, tensor in file.tensors.items()})
    metadata = Metadata(file)
    model_name = name or path.stem
    model = ModelIR(
        model=build_decoder(spec, CheckpointWeights(spec, layout, file), name=model_name),
        kind="decoder",
        facts=ModelFacts(
            name=model_name,
            architecture=metadata.required_text("general.architecture"),
            source_format="gguf",
            source_sha256=source_sha256([path]),
            parameters=parameter_count(spec),
            license=metadata.text("general.license"),
        ),
        decoder=spec.facts,
        tokenizer=read_tokenizer(metadata, vocabulary=spec.facts.vocabulary),
        generation=_sampling_defaults(metadata),
    )
    model.verify()
    return model


def _problems(file: GGUFFile) -> list[Problem]:
    metadata = Metadata(file)
    architecture = metadata.required_text("general.architecture")
    supported = ", ".join(ARCHITECTURES)
    if architecture not in ARCHITECTURES:
        return [Problem("general.architecture", f"'{architecture}'", supported)]
    problems = []
    prefix = f"{architecture}."
    for key, value in file.metadata.items():
        if key.startswith(prefix) and key.removeprefix(prefix) not in _READ and value not in (0, False, "", []):
            problems.append(Problem(key, repr(value)[:60], "leaving it out"))
    heads = file.metadata.get(f"{prefix}attention.head_count")
    for key in ("attention.head_count", "attention.head_count_kv", "feed_forward_length"):
        value = file.metadata.get(prefix + key)
        if isinstance(value, list) and len(set(value)) > 1:
            problems.append(Problem(prefix + key, "different from layer to layer", "one value for all layers"))
    scaling = metadata.text(f"{prefix}rope.scaling.type") or "none"
    if scaling not in _ROPE_SCALINGS:
        problems.append(Problem(f"{prefix}rope.scaling.type", f"'{scaling}'", ", ".join(_ROPE_SCALINGS)))
    if isinstance(heads, int) and heads:
        head_dim = metadata.integer(f"{prefix}attention.key_length") or (
            metadata.required_integer(f"{prefix}embedding_length") // heads
        )
        for key in ("attention.value_length", "rope.dimension_count"):
            if metadata.integer(prefix + key) not in (None, head_dim):
                problems.append(
                    Problem(prefix + key, str(file.metadata[prefix + key]), f"the head dimension {head_dim}")
                )
    types = sorted({tensor.type_name for tensor in file.tensors.values()} - set(SUPPORTED_TYPES))
    if types:
        problems.append(Problem("tensor type", ", ".join(types), ", ".join(SUPPORTED_TYPES)))
    return problems + tokenizer_problems(metadata)


def _spec(file: GGUFFile, metadata: Metadata) -> DecoderSpec:
    prefix = f"{metadata.required_text('general.architecture')}."
    hidden = metadata.required_integer(f"{prefix}embedding_length")
    heads = metadata.required_integer(f"{prefix}attention.head_count")
    kv_heads = metadata.integer(f"{prefix}attention.head_count_kv") or heads
    head_dim = metadata.integer(f"{prefix}attention.key_length") or hidden // heads
    layers = metadata.required_integer(f"{prefix}block_count")
    check_extents(layers=layers, heads=heads, kv_heads=kv_heads, head_dim=head_dim)
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelError(f"`{file.path.name}` has no token embedding", hint="it is not a language model")
    trained = metadata.required_integer(f"{prefix}context_length")
    window = metadata.integer(f"{prefix}attention.sliding_window") or None
    window = None if window is None or window >= trained else window
    theta = metadata.real(f"{prefix}rope.freq_base") or 10000.0
    rope = Rope(*_rope(file, metadata, prefix, theta=theta, head_dim=head_dim, trained=trained))
    facts = DecoderFacts(
        layers=layers,
        hidden=hidden,
        intermediate=metadata.required_integer(f"{prefix}feed_forward_length"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=embedding.shape[0],
        context_length=trained,
        windows=(window,) * layers,
        tied_embedding="output.weight" not in file.tensors,
    )
    biased = [part.rpartition(".")[2] for part, stored in _PARTS.items() if f"blk.0.{stored}.bias" in file.tensors]
    return DecoderSpec(
        facts=facts,
        layers=(LayerSpec(rope, window),) * layers,
        norm_epsilon=metadata.required_real(f"{prefix}attention.layer_norm_rms_epsilon"),
        biases=frozenset(biased),
    )


def _rope(
    file: GGUFFile, metadata: Metadata, prefix: str, *, theta: float, head_dim: int, trained: int
) -> tuple[tuple[float, ...], float]:
    scaling = metadata.text(f"{prefix}rope.scaling.type") or "none"
    rope = {
        "rope_type": "default" if scaling == "none" else scaling,
        "factor": metadata.real(f"{prefix}rope.scaling.factor"),
        "original_max_position_embeddings": metadata.integer(f"{prefix}rope.scaling.original_context_length")
        or trained,
    }
    frequencies, scale = inverse_frequencies(rope, theta=theta, head_dim=head_dim, context_length=trained)
    if _ROPE_FACTORS not in file.tensors:
        return frequencies, scale
    factors = file.read(_ROPE_FACTORS)  # llama3 scaling comes as a divisor for each frequency
    if factors.shape != (head_dim // 2,) or not np.all(np.isfinite(factors) & (factors > 0)):
        raise ModelError(f"`{_ROPE_FACTORS}` is not {head_dim // 2} positive numbers")
    scaled = np.array(frequencies, dtype=np.float32) / factors
    return tuple(float(value) for value in scaled), scale


def _sampling_defaults(metadata: Metadata) -> dict[str, Any]:
    """Sampling defaults that newer files carry, under the names of `docs/runtime-abi.md`."""
    names = {
        "temperature": "temp",
        "top_p": "top_p",
        "min_p": "min_p",
        "repetition_penalty": "penalty_repeat",
    }
    defaults: dict[str, Any] = {
        name: value for name, key in names.items() if (value := metadata.real(f"general.sampling.{key}")) is not None
    }
    top_k = metadata.integer("general.sampling.top_k")
    return defaults if top_k is None else {**defaults, "top_k": top_k}


__all__ = ["ARCHITECTURES", "check", "load"]
