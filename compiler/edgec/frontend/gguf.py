"""GGUF files of decoder language models: metadata and tensors into the same builder as `hf.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.errors import ModelError
from edgec.frontend.checkpoint import CheckpointWeights, Layout, check_tensors
from edgec.frontend.decoder import build_decoder
from edgec.frontend.files import source_sha256
from edgec.frontend.gguf_families import ARCHITECTURES, EXPERTS, PARTS, Architecture, Header
from edgec.frontend.gguf_file import SUPPORTED_TYPES, GGUFFile
from edgec.frontend.gguf_metadata import Metadata
from edgec.frontend.gguf_tokenizer import read_tokenizer, tokenizer_problems
from edgec.frontend.problems import Problem, refuse
from edgec.frontend.rope import inverse_frequencies
from edgec.frontend.spec import DecoderSpec, LayerSpec, Rope
from edgec.frontend.tensors import check_extents, parameter_count
from edgec.ir.model import DecoderFacts, LongRope, ModelFacts, ModelIR

_ROPE_SCALINGS = ("none", "linear", "yarn")
_LOCAL_THETA = 10000.0  # frequency base of layers with a window, where it is their own and no key gives it

# Keys after `{architecture}.` that are read here, or say nothing about the mathematics.
_READ = frozenset(
    {
        "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
        "attention.sliding_window", "block_count", "context_length", "embedding_length", "feed_forward_length",
        "rope.dimension_count", "rope.freq_base", "rope.scaling.factor", "rope.scaling.finetuned",
        "rope.scaling.original_context_length", "rope.scaling.type", "tensor_data_layout", "vocab_size",
    }
)  # fmt: skip
_EPSILONS = {"rms": "attention.layer_norm_rms_epsilon", "layer": "attention.layer_norm_epsilon"}


def check(path: Path) -> list[Problem]:
    """Every metadata key, tensor type and tokenizer kind that cannot be compiled; reads no weight."""
    return _problems(GGUFFile(path))


def load(path: Path, *, name: str | None = None) -> ModelIR:
    """Reads a file. Raises `UnsupportedError`, `ModelError` or `CorruptFileError` before any weight is read."""
    file = GGUFFile(path)
    refuse(path.name, _problems(file))
    metadata = Metadata(file)
    architecture = ARCHITECTURES[metadata.required_text("general.architecture")]
    header = Header(file, metadata, f"{metadata.required_text('general.architecture')}.")
    spec, layout = _spec(header, architecture), _layout(header, architecture)
    check_tensors(spec, layout, {name: tensor.shape for name, tensor in file.tensors.items()})
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
    parts = metadata.integer("split.count") or 1
    if parts > 1:
        return [Problem("split.count", str(parts), "a whole file: join the parts with `llama-gguf-split --merge`")]
    prefix = f"{architecture}."
    known = ARCHITECTURES[architecture]
    read = _READ | known.reads | {_EPSILONS[known.norm]} | (EXPERTS if known.experts else set())
    for key, value in file.metadata.items():
        if key.startswith(prefix) and key.removeprefix(prefix) not in read and value not in (0, False, "", []):
            problems.append(Problem(key, repr(value)[:60], "leaving it out"))
    heads = file.metadata.get(f"{prefix}attention.head_count")
    for key in ("attention.head_count", "attention.head_count_kv", "feed_forward_length"):
        value = file.metadata.get(prefix + key)
        if isinstance(value, list) and len(set(value)) > 1:
            problems.append(Problem(prefix + key, "different from layer to layer", "one value for all layers"))
    scaling = metadata.text(f"{prefix}rope.scaling.type") or "none"
    scalings = _ROPE_SCALINGS if len(known.rope_factors) == 1 else (*_ROPE_SCALINGS, "longrope")
    if scaling not in scalings:
        problems.append(Problem(f"{prefix}rope.scaling.type", f"'{scaling}'", ", ".join(scalings)))
    if isinstance(heads, int) and heads:
        head_dim = metadata.integer(f"{prefix}attention.key_length") or (
            metadata.required_integer(f"{prefix}embedding_length") // heads
        )
        key = f"{prefix}attention.value_length"
        if metadata.integer(key) not in (None, head_dim):
            problems.append(Problem(key, str(file.metadata[key]), f"the head dimension {head_dim}"))
    types = sorted({tensor.type_name for tensor in file.tensors.values()} - set(SUPPORTED_TYPES))
    if types:
        problems.append(Problem("tensor type", ", ".join(types), ", ".join(SUPPORTED_TYPES)))
    return problems + tokenizer_problems(metadata)


def _layout(header: Header, architecture: Architecture) -> Layout:
    return Layout(
        model="",
        layers="blk.",
        parts={**PARTS, **architecture.parts(header)},
        qkv="attn_qkv" if header.has("blk.0.attn_qkv.weight") else None,
        gate_up=architecture.gate_up,
        interleaved=architecture.interleaved,
        ignored=architecture.rope_factors,
        factors=architecture.factors(header),
    )


def _spec(header: Header, architecture: Architecture) -> DecoderSpec:
    heads, head_dim, layers = header.heads, header.head_dim, header.integer("block_count")
    kv_heads = header.optional_integer("attention.head_count_kv") or heads
    check_extents(layers=layers, heads=heads, kv_heads=kv_heads, head_dim=head_dim)
    embedding = header.file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelError(f"`{header.file.path.name}` has no token embedding", hint="it is not a language model")
    trained = header.integer("context_length")
    window = header.optional_integer("attention.sliding_window")
    pattern = architecture.window_pattern
    windows = [None if pattern and (number + 1) % pattern == 0 else window for number in range(layers)]
    windows = [None if size is None or size >= trained else size for size in windows]
    ropes, context, longrope = _ropes(header, architecture, windows, trained)
    facts = DecoderFacts(
        layers=layers,
        hidden=header.integer("embedding_length"),
        intermediate=header.integer("feed_forward_length"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=embedding.shape[0],
        context_length=context,
        windows=tuple(windows),
        gated_mlp=architecture.gated,
        tied_embedding=not header.has("output.weight"),
        longrope=longrope,
        **_experts(header, architecture),
    )
    return DecoderSpec(
        facts=facts,
        layers=tuple(LayerSpec(rope, size, facts.experts > 0) for rope, size in zip(ropes, windows, strict=True)),
        norm=architecture.norm,
        norm_epsilon=header.real(_EPSILONS[architecture.norm]),
        norm_bias=header.has("output_norm.bias"),
        biases=frozenset(_biased(header)),
        **architecture.switches(header),
    )


def _experts(header: Header, architecture: Architecture) -> dict[str, int]:
    """Their number and sizes, as fields of `DecoderFacts`."""
    count = header.optional_integer("expert_count") if architecture.experts else None
    if count is None:
        return {}
    chosen = header.integer("expert_used_count")
    if chosen > count:
        raise ModelError(f"a token chooses {chosen} of {count} experts")
    width = header.optional_integer("expert_feed_forward_length") or header.integer("feed_forward_length")
    return {"experts": count, "experts_per_token": chosen, "expert_intermediate": width}


def _biased(header: Header) -> Iterator[str]:
    """Linears with a bias; the first layer's tell of all."""
    joined = header.has("blk.0.attn_qkv.bias")
    for part, stored in PARTS.items():
        linear = part.rpartition(".")[2]
        if part.endswith("_proj") and (header.has(f"blk.0.{stored}.bias") or (joined and linear[0] in "qkv")):
            yield linear
    if header.has("output.bias"):
        yield "lm_head"


def _ropes(
    header: Header, architecture: Architecture, windows: list[int | None], trained: int
) -> tuple[list[Rope | None], int, LongRope | None]:
    """The rotary embedding of each layer, the longest context for which it is exact, and how longer ones rotate."""
    if architecture.rope == "none":
        return [None for _ in windows], trained, None
    rotated = header.optional_integer("rope.dimension_count") or header.head_dim
    if rotated > header.head_dim or rotated % 2:
        raise ModelError(f"{rotated} of {header.head_dim} features of a head rotate, expected an even number")
    scaling = header.metadata.text(f"{header.prefix}rope.scaling.type") or "none"
    original = header.optional_integer("rope.scaling.original_context_length") or trained
    rope = {
        "rope_type": "default" if scaling in ("none", "longrope") else scaling,
        "factor": header.optional_real("rope.scaling.factor"),
        "original_max_position_embeddings": original,
    }
    theta = header.optional_real("rope.freq_base") or 10000.0
    frequencies, scale = inverse_frequencies(rope, theta=theta, head_dim=rotated, context_length=trained)
    factors = [_factors(header, name, rotated // 2) for name in architecture.rope_factors if header.has(name)]
    context, longrope = trained, None
    if len(factors) == 1:
        frequencies = tuple(float(value) for value in np.array(frequencies, np.float32) / factors[0])
    elif factors:
        frequencies, long = (
            inverse_frequencies(
                {"rope_type": "longrope", "short_factor": divisors.tolist(), "attention_factor": 1.0},
                theta=theta, head_dim=rotated, context_length=trained,
            )[0]
            for divisors in factors
        )  # fmt: skip
        if original < trained:
            # Beyond this length the model rotates by other factors, the tokens before it included.
            context, longrope = original, LongRope(trained, long)
    if "rope.scaling.attn_factor" in architecture.reads:
        scale *= header.optional_real("rope.scaling.attn_factor") or 1.0
    everywhere = Rope(frequencies, scale)
    match architecture.rope:
        case "windowed":
            return [None if window is None else everywhere for window in windows], context, longrope
        case "fourth":
            return [everywhere if (number + 1) % 4 else None for number in range(len(windows))], context, longrope
        case "local":
            theta = header.optional_real("rope.freq_base_swa") or _LOCAL_THETA
            plain = {"rope_type": "default"}
            local = Rope(*inverse_frequencies(plain, theta=theta, head_dim=rotated, context_length=trained))
            return [everywhere if window is None else local for window in windows], context, longrope
        case _:
            return [everywhere for _ in windows], context, longrope


def _factors(header: Header, name: str, count: int) -> npt.NDArray[np.float32]:
    """A tensor with a divisor for each frequency."""
    factors = header.file.read(name)
    if factors.shape != (count,) or not np.all(np.isfinite(factors) & (factors > 0)):
        raise ModelError(f"`{name}` is not {count} positive numbers")
    return factors


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
