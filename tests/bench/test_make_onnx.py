"""The ONNX file that onnxruntime-web gets computes what the GGUF's own graph computes."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnxruntime
import pytest
from gguf import GGMLQuantizationType as Type

from edgec.frontend.gguf import load
from tests.frontend.decoders import GraphRunner

BENCH = Path(__file__).parents[2] / "bench"
CONVERT = runpy.run_path(str(BENCH / "make_onnx.py"))
HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, VOCABULARY, LAYERS = 64, 96, 4, 2, 50, 2
KEYS = HIDDEN // HEADS * KV_HEADS


def write_model(path: Path, architecture: str) -> None:
    random = np.random.default_rng(3)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)

    def add(name: str, *extents: int) -> None:
        values = random.standard_normal(extents, np.float32) * np.float32(0.3)
        if len(extents) == 1:
            writer.add_tensor(name, values + np.float32("norm" in name))
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, Type.Q4_0), raw_dtype=Type.Q4_0)

    add("token_embd.weight", VOCABULARY, HIDDEN)
    add("output_norm.weight", HIDDEN)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        for norm in ("attn_norm", "ffn_norm"):
            add(f"{block}.{norm}.weight", HIDDEN)
        for name, rows in (("attn_q", HIDDEN), ("attn_k", KEYS), ("attn_v", KEYS)):
            add(f"{block}.{name}.weight", rows, HIDDEN)
            if architecture == "qwen2":
                add(f"{block}.{name}.bias", rows)
        add(f"{block}.attn_output.weight", HIDDEN, HIDDEN)
        add(f"{block}.ffn_gate.weight", INTERMEDIATE, HIDDEN)
        add(f"{block}.ffn_up.weight", INTERMEDIATE, HIDDEN)
        add(f"{block}.ffn_down.weight", HIDDEN, INTERMEDIATE)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Runner:
    def __init__(self, path: Path) -> None:
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        empty = np.zeros((1, KV_HEADS, 0, HIDDEN // HEADS), np.float32)
        self.cache = {value.name: empty for value in self.session.get_inputs() if value.name.startswith("past.")}
        self.position = 0

    def step(self, ids: list[int]) -> Any:
        self.position += len(ids)
        lengths = {
            "seqlens_k": np.array([self.position - 1], np.int32),
            "total_sequence_length": np.array(self.position, np.int32),
        }
        logits, *present = self.session.run(None, {"input_ids": np.array([ids]), **lengths, **self.cache})
        self.cache = dict(zip(self.cache, present, strict=True))
        return logits[0, 0]


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_the_same_logits(tmp_path: Path, architecture: str) -> None:
    write_model(tmp_path / "tiny.gguf", architecture)
    CONVERT["convert"](tmp_path / "tiny.gguf", tmp_path / "tiny.onnx")
    expected, actual = GraphRunner(load(tmp_path / "tiny.gguf")), Runner(tmp_path / "tiny.onnx")
    for ids in ([3, 1, 4, 1, 5, 9, 2, 6], [5], [3]):
        wanted, got = expected.step(ids)[-1], actual.step(ids)
        # Activations have 8 bits there, which costs about 1 % of a logit's size.
        assert np.linalg.norm(got - wanted) < 0.05 * np.linalg.norm(wanted)


def test_blocks_hold_the_same_values() -> None:
    random = np.random.default_rng(5)
    packed = gguf.quants.quantize(random.standard_normal((3, 64), np.float32), Type.Q4_0)
    tensor = gguf.ReaderTensor("w", Type.Q4_0, np.array([64, 3]), 192, packed.size, 0, packed, None)
    codes, scales = CONVERT["blocks"](tensor)
    values = np.stack([codes & 15, codes >> 4], axis=-1).reshape(3, 2, 32).astype(np.float32) - 8
    np.testing.assert_array_equal(
        (values * scales[..., None]).reshape(3, 64), gguf.quants.dequantize(packed, Type.Q4_0)
    )
