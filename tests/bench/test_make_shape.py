"""Models with random weights are models: the compiler's frontend reads them, and their tokenizer fits."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from edgec.frontend.gguf import load
from edgec.frontend.rope import inverse_frequencies

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "bench" / "make_shape.py"))
TINY: dict[str, Any] = {
    "architecture": "llama",
    "layers": 2,
    "hidden": 64,
    "intermediate": 96,
    "heads": 4,
    "kv_heads": 2,
    "vocabulary": 300,
    "context": 128,
    "norm_epsilon": 1e-5,
    "rope_theta": 10000,
}
SCALING = {"factor": 32, "low_freq_factor": 1, "high_freq_factor": 4, "original_context": 64}


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """All bytes, and two merges."""
    path = tmp_path / "tokenizer.gguf"
    letters = [chr(33 + index) for index in range(94)] + [chr(161 + index) for index in range(162)]
    tokens = [*letters, "ab", "abc"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(tokens))
    writer.add_token_merges(["a b", "ab c"])
    writer.add_eos_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("changes", [{}, {"architecture": "qwen2"}, {"rope_scaling": SCALING}])
def test_the_frontend_reads_it(tmp_path: Path, tokenizer: Path, changes: dict[str, Any]) -> None:
    shape, target = {**TINY, **changes}, tmp_path / "tiny.gguf"
    SCRIPT["write"]("tiny", shape, target, tokenizer)
    model = load(target)
    facts = model.decoder
    assert facts is not None and model.tokenizer is not None
    assert (facts.layers, facts.hidden, facts.intermediate, facts.heads, facts.kv_heads) == (2, 64, 96, 4, 2)
    assert facts.vocabulary == 300 and facts.tied_embedding
    assert [path.name for path in tmp_path.glob("*.partial")] == []


def test_it_is_the_same_at_every_call(tmp_path: Path, tokenizer: Path) -> None:
    for name in ("one", "two"):
        SCRIPT["write"]("tiny", TINY, tmp_path / name, tokenizer)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_rope_divisors_are_llama_3s_scaling() -> None:
    shape = {"hidden": 2048, "heads": 32, "rope_theta": 500000, "rope_scaling": {**SCALING, "original_context": 8192}}
    rope = {
        "rope_type": "llama3",
        "factor": 32,
        "low_freq_factor": 1,
        "high_freq_factor": 4,
        "original_max_position_embeddings": 8192,
    }
    wanted, _ = inverse_frequencies(rope, theta=500000, head_dim=64, context_length=131072)
    plain, _ = inverse_frequencies({"rope_type": "default"}, theta=500000, head_dim=64, context_length=131072)
    np.testing.assert_allclose(np.array(plain) / SCRIPT["rope_divisors"](shape), wanted, rtol=1e-5)


def test_a_vocabulary_is_cut_with_its_merges_or_padded() -> None:
    lists = (["a", "b", "ab", "aba"], [1, 1, 1, 1], ["a b", "ab a"])
    assert SCRIPT["fit_vocabulary"](*lists, 3) == (["a", "b", "ab"], [1, 1, 1], ["a b"])
    tokens, types, merges = SCRIPT["fit_vocabulary"](*lists, 6)
    assert tokens[4:] == ["[PAD4]", "[PAD5]"] and types == [1] * 6 and merges == lists[2]
