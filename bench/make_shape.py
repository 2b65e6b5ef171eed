"""Write a model of a known shape with random weights as a Q4_0 GGUF file.

Usage: make_shape.py NAME OUT.gguf TOKENIZER.gguf. NAME is in shapes.json. Speed depends on sizes and formats, not on
what the weights say, so this stands in for models that cannot be downloaded. Formats are those of make_gguf.py: the
embedding, also the output, is Q8_0. (`llama-quantize` would take Q6_K where rows are multiples of 256, as in Llama-3.2,
which `gguf` cannot write.) The tokenizer is that of another model, cut or padded to the shape's vocabulary.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader, GGUFWriter, LlamaFileType, TokenType
from gguf.quants import quant_shape_to_byte_shape, quantize
from make_gguf import add_field

from edgec.whole_file import whole_file

SEED = 20250101
DEVIATION = 0.02  # what models of this kind are initialised with
ROWS_AT_ONCE = 4096
TOKENS, TOKEN_TYPES, MERGES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"

Shape = dict[str, Any]


def tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...], Type]]:
    """Name, extents (rows first) and format of every tensor."""
    hidden, intermediate = shape["hidden"], shape["intermediate"]
    keys = hidden // shape["heads"] * shape["kv_heads"]
    yield "token_embd.weight", (shape["vocabulary"], hidden), Type.Q8_0
    if "rope_scaling" in shape:
        yield "rope_freqs.weight", (hidden // shape["heads"] // 2,), Type.F32
    for layer in range(shape["layers"]):
        block = f"blk.{layer}."
        yield f"{block}attn_norm.weight", (hidden,), Type.F32
        for name, rows in (("attn_q", hidden), ("attn_k", keys), ("attn_v", keys)):
            yield f"{block}{name}.weight", (rows, hidden), Type.Q4_0
            if shape["architecture"] == "qwen2":
                yield f"{block}{name}.bias", (rows,), Type.F32
        yield f"{block}attn_output.weight", (hidden, hidden), Type.Q4_0
        yield f"{block}ffn_norm.weight", (hidden,), Type.F32
        yield f"{block}ffn_gate.weight", (intermediate, hidden), Type.Q4_0
        yield f"{block}ffn_up.weight", (intermediate, hidden), Type.Q4_0
        yield f"{block}ffn_down.weight", (hidden, intermediate), Type.Q4_0
    yield "output_norm.weight", (hidden,), Type.F32


def values(name: str, extents: tuple[int, ...], kind: Type, index: int, shape: Shape) -> npt.NDArray[Any]:
    """A tensor's content in its format, the same at every call."""
    if name == "rope_freqs.weight":
        return rope_divisors(shape)
    if name.endswith("norm.weight"):
        return np.ones(extents, np.float32)
    random = np.random.default_rng([SEED, index])
    parts = []
    for start in range(0, extents[0], ROWS_AT_ONCE):
        rows = (min(ROWS_AT_ONCE, extents[0] - start), *extents[1:])
        parts.append(quantize(random.standard_normal(rows, np.float32) * np.float32(DEVIATION), kind))
    return np.concatenate(parts)


def rope_divisors(shape: Shape) -> npt.NDArray[np.float32]:
    """Llama 3's scaling as GGUF has it: the factor divides slow rotations, not fast ones, some in between."""
    scaling, size = shape["rope_scaling"], shape["hidden"] // shape["heads"]
    turns = scaling["original_context"] * shape["rope_theta"] ** (-np.arange(0, size, 2) / size) / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    fast = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - fast) / scaling["factor"] + fast)).astype(np.float32)


def fit_vocabulary(
    tokens: list[str], types: list[int], merges: list[str], size: int
) -> tuple[list[str], list[int], list[str]]:
    """A tokenizer's lists with `size` tokens: the last ones are left out, or unreachable ones added."""
    padding = [f"[PAD{index}]" for index in range(len(tokens), size)]
    known = set(tokens[:size])
    kept = [merge for merge in merges if {*merge.split(" "), merge.replace(" ", "")} <= known]
    # They are normal tokens, so that a model that chooses one still says something.
    return tokens[:size] + padding, types[:size] + [int(TokenType.NORMAL)] * len(padding), kept


def add_metadata(writer: GGUFWriter, name: str, shape: Shape, tokenizer: GGUFReader) -> None:
    writer.add_name(name)
    writer.add_file_type(LlamaFileType.MOSTLY_Q4_0)
    writer.add_quantization_version(2)
    writer.add_block_count(shape["layers"])
    writer.add_context_length(shape["context"])
    writer.add_embedding_length(shape["hidden"])
    writer.add_feed_forward_length(shape["intermediate"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["kv_heads"])
    writer.add_layer_norm_rms_eps(shape["norm_epsilon"])
    writer.add_rope_freq_base(shape["rope_theta"])
    writer.add_rope_dimension_count(shape["hidden"] // shape["heads"])
    writer.add_vocab_size(shape["vocabulary"])
    contents = {
        field.name: field.contents() for field in tokenizer.fields.values() if field.name.startswith("tokenizer.")
    }
    lists = fit_vocabulary(contents[TOKENS], contents[TOKEN_TYPES], contents[MERGES], shape["vocabulary"])
    contents.update(zip((TOKENS, TOKEN_TYPES, MERGES), lists, strict=True))
    for key, content in contents.items():
        add_field(writer, tokenizer.fields[key], content)


def write(name: str, shape: Shape, target: Path, tokenizer: Path) -> None:
    """Write the model tensor by tensor, so that no more than one is in memory."""
    with whole_file(target) as partial:
        writer = GGUFWriter(partial, shape["architecture"])
        add_metadata(writer, name, shape, GGUFReader(tokenizer))
        listed = list(tensors(shape))
        for tensor, extents, kind in listed:
            stored = extents if kind == Type.F32 else quant_shape_to_byte_shape(extents, kind)
            dtype = np.dtype(np.float32 if kind == Type.F32 else np.uint8)
            writer.add_tensor_info(tensor, stored, dtype, math.prod(stored) * dtype.itemsize, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for index, (tensor, extents, kind) in enumerate(listed):
            writer.write_tensor_data(values(tensor, extents, kind, index, shape))
        writer.close()


if __name__ == "__main__":
    shapes = json.loads(Path(__file__).with_name("shapes.json").read_text())
    write(sys.argv[1], shapes[sys.argv[1]], Path(sys.argv[2]), Path(sys.argv[3]))
