"""The families of `tests.families` as GGUF: names from the `gguf` package, orders as llama.cpp's converter has them."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

from tests.frontend.gguf_files import add_metadata, interleave

Config = Mapping[str, Any]
Tensors = dict[str, np.ndarray]


def _as_it_is(tensors: Tensors, config: Config) -> Tensors:
    return tensors


def _permuted(tensors: Tensors, config: Config) -> Tensors:
    """Rows of q and k so that rotation pairs neighbours."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, array in tensors.items():
        for part, count in heads.items():
            if part in name:
                tensors[name] = interleave(array, count)
    return tensors


def _shifted(tensors: Tensors, config: Config) -> Tensors:
    return {name: array + 1 if name.endswith("norm.weight") else array for name, array in tensors.items()}


def _transposed(tensors: Tensors, config: Config) -> Tensors:
    linears = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")
    return {name: np.ascontiguousarray(a.T) if name.endswith(linears) else a for name, a in tensors.items()}


def _by_parts(tensors: Tensors, config: Config) -> Tensors:
    """qkv of heads or groups become all queries, all keys, all values."""
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_kv_heads") if config.get("new_decoder_architecture") else None
    kv_heads = kv_heads or (1 if config.get("multi_query") else heads)
    for name, array in tensors.items():
        if "query_key_value" in name:
            groups = array.reshape(kv_heads, heads // kv_heads + 2, -1, *array.shape[1:])
            parts = groups[:, :-2], groups[:, -2:-1], groups[:, -1:]
            tensors[name] = np.concatenate([part.reshape(-1, *array.shape[1:]) for part in parts])
    return tensors


def _stacked(tensors: Tensors, config: Config) -> Tensors:
    """Experts that are stored one by one become one tensor."""
    names = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
    result, stacks = {}, defaultdict(list)
    for name, array in tensors.items():
        match = re.fullmatch(r"(.*)\.(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(\w+)\.weight", name)
        if match is None:
            result[name] = array
        else:
            stacks[f"{match[1]}.mlp.experts.{names.get(match[3], match[3])}.weight"].append((int(match[2]), array))
    return {**result, **{name: np.stack([array for _, array in sorted(s)]) for name, s in stacks.items()}}


def _granite_experts(tensors: Tensors, config: Config) -> Tensors:
    """Gates and ups apart."""
    tensors = _permuted(tensors, config)
    for name in [name for name in tensors if name.endswith("input_linear.weight")]:
        gate, up = np.split(tensors.pop(name), 2, axis=1)
        stem = name.removesuffix("block_sparse_moe.input_linear.weight")
        tensors |= {f"{stem}mlp.experts.gate_proj.weight": gate, f"{stem}mlp.experts.up_proj.weight": up}
    return tensors


def _experts(config: Config) -> Mapping[str, Any]:
    return {
        "expert_count": config.get("num_local_experts") or config["num_experts"],
        "expert_used_count": config["num_experts_per_tok"],
        "expert_feed_forward_length": config.get("moe_intermediate_size") or config["intermediate_size"],
    }


def _granite(config: Config) -> Mapping[str, Any]:
    return {
        "attention.scale": config["attention_multiplier"],
        "embedding_scale": config["embedding_multiplier"],
        "residual_scale": config["residual_multiplier"],
        "logit_scale": config["logits_scaling"],
    }


@dataclass(frozen=True)
class GGUFCase:
    """`keys`: metadata besides what every architecture has."""

    architecture: gguf.MODEL_ARCH
    convert: Callable[[Tensors, Config], Tensors] = _as_it_is
    keys: Callable[[Config], Mapping[str, Any]] = lambda config: {}
    factors: bool = False  # longrope


A = gguf.MODEL_ARCH
CASES: Mapping[str, GGUFCase] = {
    "qwen3": GGUFCase(A.QWEN3),
    "smollm3": GGUFCase(A.SMOLLM3, _permuted),
    "gemma": GGUFCase(A.GEMMA, _shifted),
    "gemma2": GGUFCase(
        A.GEMMA2,
        _shifted,
        lambda c: {
            "attn_logit_softcapping": c["attn_logit_softcapping"],
            "final_logit_softcapping": c["final_logit_softcapping"],
            "attention.sliding_window": c["sliding_window"],
        },
    ),
    "gemma3": GGUFCase(
        A.GEMMA3,
        _shifted,
        lambda c: {
            "attention.sliding_window": c["sliding_window"],
            "rope.freq_base_swa": c["rope_local_base_freq"],
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 4.0,
        },
    ),
    "phi": GGUFCase(A.PHI2, keys=lambda c: {"rope.dimension_count": 4}),
    "phi3": GGUFCase(
        A.PHI3,
        keys=lambda c: {
            "attention.sliding_window": c["sliding_window"],
            "rope.scaling.original_context_length": c["original_max_position_embeddings"],
            "rope.scaling.attn_factor": float(np.sqrt(1 + np.log(2) / np.log(c["original_max_position_embeddings"]))),
            "rope.dimension_count": 8,
        },
        factors=True,
    ),
    "olmo2": GGUFCase(A.OLMO2),
    "granite": GGUFCase(A.GRANITE, _permuted, _granite),
    "cohere": GGUFCase(A.COMMAND_R, keys=lambda c: {"logit_scale": c["logit_scale"]}),
    "stablelm": GGUFCase(A.STABLELM, keys=lambda c: {"rope.dimension_count": 6, "use_parallel_residual": False}),
    "gpt-neox": GGUFCase(
        A.GPTNEOX, _by_parts, lambda c: {"rope.dimension_count": 4, "use_parallel_residual": True}
    ),
    "starcoder2": GGUFCase(A.STARCODER2, keys=lambda c: {"attention.sliding_window": c["sliding_window"]}),
    "gpt2": GGUFCase(A.GPT2, _transposed),
    "mixtral": GGUFCase(A.LLAMA, lambda tensors, config: _stacked(_permuted(tensors, config), config), _experts),
    "granitemoe": GGUFCase(A.GRANITE_MOE, _granite_experts, lambda config: {**_granite(config), **_experts(config)}),
    "qwen3-moe": GGUFCase(A.QWEN3MOE, _stacked, _experts),
    "olmoe": GGUFCase(A.OLMOE, _stacked, _experts),
    "falcon": GGUFCase(A.FALCON, _by_parts),
    "falcon-40b": GGUFCase(A.FALCON, _by_parts),
}  # fmt: skip


def write_family(path: Path, folder: Path, family: str) -> None:
    """A GGUF file of the Hugging Face folder of a family."""
    case = CASES[family]
    config = json.loads((folder / "config.json").read_text())
    names = gguf.get_tensor_name_map(case.architecture, config.get("num_hidden_layers", config.get("n_layer")))
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[case.architecture])
    heads = config.get("num_attention_heads", config.get("n_head"))
    hidden = config.get("hidden_size", config.get("n_embd"))
    one_head = config.get("multi_query") and not config.get("new_decoder_architecture")
    kv_heads = 1 if one_head else config.get("num_kv_heads") or config.get("num_key_value_heads") or heads
    norms = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
    epsilon = next(config[key] for key in norms if key in config)
    kind = "attention.layer_norm_rms_epsilon" if "rms_norm_eps" in config else "attention.layer_norm_epsilon"
    sizes = ("intermediate_size", "n_inner", "ffn_hidden_size")
    keys: dict[str, Any] = {
        "block_count": config.get("num_hidden_layers", config.get("n_layer")),
        "context_length": config.get("max_position_embeddings", config.get("n_positions")),
        "embedding_length": hidden,
        "feed_forward_length": next(config[key] for key in sizes if config.get(key)),
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": config.get("head_dim") or hidden // heads,
        kind: float(epsilon),
        "rope.freq_base": float(config.get("rope_theta", 10000.0)),
        **case.keys(config),
    }
    add_metadata(writer, keys)
    for name, array in case.convert(load_file(folder / "model.safetensors"), config).items():
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert stored is not None, name
        writer.add_tensor(stored, np.ascontiguousarray(array))
    if case.factors:
        for kind in ("long", "short"):
            factors = np.array(config["rope_scaling"][f"{kind}_factor"], np.float32)
            writer.add_tensor(f"rope_factors_{kind}.weight", factors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
