"""GGUF files for tests, written with the `gguf` package from a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

from edgec.frontend.hf_config import DecoderConfig

PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem in WHOLE:
        return f"{WHOLE[stem]}.{kind}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{PARTS[part]}.{kind}"


def interleave(array: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to q and k of Llama models."""
    halves = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)


def write_gguf(
    path: Path,
    folder: Path,
    config: DecoderConfig,
    *,
    rope_theta: float = 10000.0,
    tensor_type: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    metadata: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
    tokenizer: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
) -> None:
    """`metadata` (keys without the architecture) and `tensors` are added; None as a value drops a key."""
    facts, architecture = config.spec.facts, "qwen2" if config.family.name == "qwen2" else "llama"
    writer = gguf.GGUFWriter(path, architecture)
    keys: dict[str, Any] = {
        "block_count": facts.layers,
        "context_length": facts.context_length,
        "embedding_length": facts.hidden,
        "feed_forward_length": facts.intermediate,
        "attention.head_count": facts.heads,
        "attention.head_count_kv": facts.kv_heads,
        "attention.key_length": facts.head_dim,
        "attention.layer_norm_rms_epsilon": config.spec.norm_epsilon,
        "rope.freq_base": rope_theta,
        **(metadata or {}),
    }
    add_metadata(writer, keys)
    tokenizer(writer)
    for name, array in load_file(folder / "model.safetensors").items():
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            array = interleave(array, facts.heads if "q_proj" in name else facts.kv_heads)
        _add(writer, gguf_name(name), array, tensor_type)
    for name, array in (tensors or {}).items():
        _add(writer, name, array, gguf.GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_metadata(writer: gguf.GGUFWriter, keys: Mapping[str, Any]) -> None:
    """Keys without the architecture's name; None as a value drops a key."""
    for key, value in keys.items():
        name = f"{writer.arch}.{key}"
        match value:
            case bool():
                writer.add_bool(name, value)
            case int():
                writer.add_uint32(name, value)
            case float():
                writer.add_float32(name, value)
            case str():
                writer.add_string(name, value)


def _add(writer: gguf.GGUFWriter, name: str, array: np.ndarray, kind: gguf.GGMLQuantizationType) -> None:
    """Matrices whose rows hold whole blocks get the type, everything else stays float32."""
    block = gguf.GGML_QUANT_SIZES[kind][0]
    if array.ndim == 2 and array.shape[1] % block == 0 and kind != gguf.GGMLQuantizationType.F32:
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    else:
        writer.add_tensor(name, array)
