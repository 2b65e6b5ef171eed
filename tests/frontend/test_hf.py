import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from edgec.errors import CorruptFileError, ModelError, UnsafePathError, UnsupportedError
from edgec.frontend import check, load
from edgec.ir.model import ModelIR
from tests.frontend.decoders import prefill_and_steps, reference_logits, save_reference

IDS = [5, 77, 3, 120, 64, 9, 31, 2]


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text()) if path.is_file() else {}
    change(content)
    path.write_text(json.dumps(content))


def set_config(folder: Path, **fields: Any) -> None:
    edit_json(folder / "config.json", lambda config: config.update(fields))


def shard(folder: Path) -> dict[str, str]:
    """Splits `model.safetensors` in two and writes the index; returns its weight map."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        weight_map.update(dict.fromkeys(part, file))
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return weight_map


def values(model: ModelIR) -> dict[str, np.ndarray]:
    """All initializers, read."""
    tensors = {name: value.const_value for name, value in model.model.graph.initializers.items()}
    return {name: tensor.numpy() for name, tensor in tensors.items() if tensor is not None}


class TestWholeModels:
    def test_sharded_equals_single(self, tiny_llama_copy: Path) -> None:
        single = values(load(tiny_llama_copy))
        shard(tiny_llama_copy)
        sharded = values(load(tiny_llama_copy))
        assert single.keys() == sharded.keys()
        for name, array in single.items():
            np.testing.assert_array_equal(array, sharded[name])

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_becomes_float32(self, dtype: torch.dtype, tmp_path: Path) -> None:
        reference = save_reference(tmp_path, "llama", dtype=dtype)
        logits = prefill_and_steps(load(tmp_path), IDS, prefill=5)
        np.testing.assert_allclose(logits, reference_logits(reference, IDS), atol=1e-4)

    def test_facts(self, tiny_llama_copy: Path) -> None:
        (tiny_llama_copy / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Tiny\n")
        facts = load(tiny_llama_copy, name="tiny").facts
        tensors = load_file(tiny_llama_copy / "model.safetensors")
        assert (facts.name, facts.architecture, facts.source_format) == ("tiny", "llama", "hf")
        assert facts.license == "apache-2.0"
        assert facts.parameters == sum(tensor.size for tensor in tensors.values())

    def test_source_hash_follows_the_weights(self, tiny_llama_copy: Path) -> None:
        before = load(tiny_llama_copy).facts.source_sha256
        assert load(tiny_llama_copy).facts.source_sha256 == before
        with (tiny_llama_copy / "model.safetensors").open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"\x3e")
        assert load(tiny_llama_copy).facts.source_sha256 != before

    def test_window_does_not_limit_the_context(self, tmp_path: Path) -> None:
        save_reference(tmp_path, "mistral", sliding_window=40)
        decoder = load(tmp_path).decoder
        assert decoder is not None
        assert (decoder.windows, decoder.context_length) == ((40, 40), 272)

    def test_window_that_is_switched_off(self, tmp_path: Path) -> None:
        save_reference(tmp_path, "qwen2", sliding_window=40, use_sliding_window=False)
        decoder = load(tmp_path).decoder
        assert decoder is not None
        assert (decoder.windows, decoder.context_length) == ((None, None), 272)

    def test_tied_matrix_stored_as_the_head(self, tmp_path: Path) -> None:
        reference = save_reference(tmp_path, "llama", tie_word_embeddings=True)
        tensors = load_file(tmp_path / "model.safetensors")
        tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
        save_file(tensors, tmp_path / "model.safetensors")
        logits = prefill_and_steps(load(tmp_path), IDS, prefill=5)
        np.testing.assert_allclose(logits, reference_logits(reference, IDS), atol=1e-4)


class TestGenerationAndTokenizer:
    def test_sampling_defaults(self, tiny_llama_copy: Path) -> None:
        settings = {"do_sample": True, "temperature": 0.2, "top_p": 0.9, "top_k": 40, "max_new_tokens": 9}
        (tiny_llama_copy / "generation_config.json").write_text(json.dumps(settings))
        assert load(tiny_llama_copy).generation == {"temperature": 0.2, "top_p": 0.9, "top_k": 40}

    def test_greedy_models_have_no_temperature(self, tiny_llama_copy: Path) -> None:
        (tiny_llama_copy / "generation_config.json").write_text('{"temperature": 0.7, "repetition_penalty": 1.1}')
        assert load(tiny_llama_copy).generation == {"repetition_penalty": 1.1}

    def test_all_end_tokens_count(self, tiny_llama_copy: Path) -> None:
        (tiny_llama_copy / "generation_config.json").write_text('{"eos_token_id": [7, 8]}')
        (tiny_llama_copy / "tokenizer_config.json").write_text('{"eos_token": {"content": "<|end|>"}}')
        tokenizer = load(tiny_llama_copy).tokenizer
        assert tokenizer is not None
        assert tokenizer.eos_token_ids == (7, 8, 1)
        assert tokenizer.special_tokens == {"eos_token": "<|end|>"}

    def test_template_file_wins(self, tiny_llama_copy: Path) -> None:
        (tiny_llama_copy / "tokenizer_config.json").write_text('{"chat_template": "inline"}')
        tokenizer = load(tiny_llama_copy).tokenizer
        assert tokenizer is not None and tokenizer.chat_template == "inline"
        (tiny_llama_copy / "chat_template.jinja").write_text("from the file")
        tokenizer = load(tiny_llama_copy).tokenizer
        assert tokenizer is not None and tokenizer.chat_template == "from the file"

    def test_named_templates(self, tiny_llama_copy: Path) -> None:
        templates = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
        (tiny_llama_copy / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))
        tokenizer = load(tiny_llama_copy).tokenizer
        assert tokenizer is not None and tokenizer.chat_template == "d"

    def test_truncation_and_padding_are_removed(self, tiny_llama_copy: Path) -> None:
        truncation = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
        edit_json(tiny_llama_copy / "tokenizer.json", lambda content: content.update(truncation=truncation))
        tokenizer = load(tiny_llama_copy).tokenizer
        assert tokenizer is not None and json.loads(tokenizer.tokenizer_json)["truncation"] is None

    def test_a_model_may_have_no_tokenizer(self, tmp_path: Path) -> None:
        save_reference(tmp_path, "llama")
        assert load(tmp_path).tokenizer is None

    def test_damaged_tokenizer(self, tiny_llama_copy: Path) -> None:
        (tiny_llama_copy / "tokenizer.json").write_text('{"version": "1.0"}')
        with pytest.raises(CorruptFileError, match=r"tokenizer\.json"):
            load(tiny_llama_copy)

    def test_tokenizer_of_a_larger_model(self, tiny_llama_copy: Path) -> None:
        token = {"id": 5000, "content": "<extra>", "single_word": False, "lstrip": False, "rstrip": False,
                 "normalized": False, "special": True}  # fmt: skip
        edit_json(tiny_llama_copy / "tokenizer.json", lambda content: content["added_tokens"].append(token))
        with pytest.raises(ModelError, match="knows 1 tokens that the model does not"):
            load(tiny_llama_copy)

    def test_python_only_tokenizer(self, tiny_llama_copy: Path) -> None:
        (tiny_llama_copy / "tokenizer.json").rename(tiny_llama_copy / "tokenizer.model")
        with pytest.raises(UnsupportedError, match=r"only as `tokenizer\.model`"):
            load(tiny_llama_copy)


class TestRefusals:
    """Before any weight is read: the weights of these folders are unreadable."""

    @pytest.mark.parametrize(
        ("fields", "named"),
        [
            ({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}, "model_type"),
            ({"architectures": ["LlamaForCausalLM", "Other"]}, "architectures"),
            ({"hidden_act": "selu"}, "hidden_act"),
            ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type"),
            ({"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
            ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "mystery": 3}}, "rope.mystery"),
            ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
            ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
            ({"num_local_experts": 8}, "num_local_experts"),
            ({"qk_layernorm": True}, "qk_layernorm"),
            ({"embedding_multiplier": 12.0}, "embedding_multiplier"),
            ({"quantization_config": {"quant_method": "hqq"}}, "quantization_config.quant_method"),
            ({"layer_types": ["full_attention", "linear_attention"]}, "layer_types"),
        ],
    )
    def test_config_fields(self, fields: dict[str, Any], named: str, tiny_llama_copy: Path) -> None:
        set_config(tiny_llama_copy, **fields)
        assert [problem.subject for problem in check(tiny_llama_copy)] == [named]
        with pytest.raises(UnsupportedError, match=named) as caught:
            load(tiny_llama_copy)
        assert "supported: " in caught.value.message

    def test_all_problems_are_named_at_once(self, tiny_llama_copy: Path) -> None:
        set_config(tiny_llama_copy, hidden_act="quick_gelu", logit_scale=2.0, sandwich_norm=True)
        with pytest.raises(UnsupportedError, match=r"hidden_act.*logit_scale.*sandwich_norm"):
            load(tiny_llama_copy)

    def test_fields_without_effect_are_no_problem(self, tiny_llama_copy: Path) -> None:
        set_config(tiny_llama_copy, attention_dropout=0.1, sandwich_norm=False, clip_qkv=None, _attn="sdpa")
        assert check(tiny_llama_copy) == []

    @pytest.mark.parametrize(
        "fields",
        [
            {"hidden_size": 0},
            {"hidden_size": "64"},
            {"vocab_size": -1},
            {"num_attention_heads": 5},
            {"num_key_value_heads": 3},
            {"rms_norm_eps": float("nan")},
            {"rope_scaling": {"rope_type": "linear"}},
            {"rope_scaling": "linear"},
            {"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}},
            {"head_dim": 7},
        ],
    )
    def test_impossible_values(self, fields: dict[str, Any], tiny_llama_copy: Path) -> None:
        set_config(tiny_llama_copy, **fields)
        with pytest.raises(ModelError):
            load(tiny_llama_copy)

    @pytest.mark.parametrize("dim", [4, 12, 20])
    def test_head_dimension_without_kernels(self, dim: int, tiny_llama_copy: Path) -> None:
        set_config(tiny_llama_copy, head_dim=dim)
        with pytest.raises(UnsupportedError, match=f"head dimension is {dim} .supported: multiples of 8"):
            load(tiny_llama_copy)

    def test_config_of_another_model(self, tiny_llama_copy: Path) -> None:
        set_config(tiny_llama_copy, intermediate_size=100)
        with pytest.raises(ModelError, match=r"instead of .*; and \d more"):
            load(tiny_llama_copy)

    def test_damaged_config(self, tiny_llama_copy: Path) -> None:
        (tiny_llama_copy / "config.json").write_bytes(b'{"model_type": "lla')
        with pytest.raises(CorruptFileError, match=r"`config\.json` is not valid JSON"):
            load(tiny_llama_copy)


class TestFiles:
    def test_no_weights(self, tiny_llama_copy: Path) -> None:
        (tiny_llama_copy / "model.safetensors").rename(tiny_llama_copy / "pytorch_model.bin")
        with pytest.raises(ModelError, match="neither") as caught:
            load(tiny_llama_copy)
        assert "pickled weights are not read" in (caught.value.hint or "")

    def test_missing_shard(self, tiny_llama_copy: Path) -> None:
        shard(tiny_llama_copy)
        (tiny_llama_copy / "model-00002-of-00002.safetensors").unlink()
        with pytest.raises(ModelError, match=r"missing shards: `model-00002-of-00002\.safetensors`"):
            load(tiny_llama_copy)

    def test_swapped_shards(self, tiny_llama_copy: Path) -> None:
        shard(tiny_llama_copy)
        first, second = (tiny_llama_copy / f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
        first.rename(tiny_llama_copy / "swap")
        second.rename(first)
        (tiny_llama_copy / "swap").rename(second)
        with pytest.raises(
            ModelError, match=r"says that `model\.embed_tokens\.weight` is in `model-00001.*`, but it is not"
        ):
            load(tiny_llama_copy)

    def test_index_that_leads_outside(self, tiny_llama_copy: Path) -> None:
        weight_map = shard(tiny_llama_copy)
        outside = tiny_llama_copy.parent / "outside.safetensors"
        (tiny_llama_copy / "model-00002-of-00002.safetensors").rename(outside)
        moved = {k: "../outside.safetensors" if v.endswith("2.safetensors") else v for k, v in weight_map.items()}
        (tiny_llama_copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": moved}))
        with pytest.raises(UnsafePathError, match=r"\.\./outside\.safetensors"):
            load(tiny_llama_copy)

    def test_index_entry_that_links_outside(self, tiny_llama_copy: Path) -> None:
        shard(tiny_llama_copy)
        linked = tiny_llama_copy / "model-00002-of-00002.safetensors"
        linked.rename(tiny_llama_copy.parent / "outside.safetensors")
        linked.symlink_to(tiny_llama_copy.parent / "outside.safetensors")
        with pytest.raises(UnsafePathError):
            load(tiny_llama_copy)

    def test_foreign_dtype(self, tiny_llama_copy: Path) -> None:
        tensors = load_file(tiny_llama_copy / "model.safetensors")
        tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.int8)
        save_file(tensors, tiny_llama_copy / "model.safetensors")
        with pytest.raises(UnsupportedError, match="`tensor dtype` is I8"):
            load(tiny_llama_copy)

    def test_truncated(self, tiny_llama_copy: Path) -> None:
        path = tiny_llama_copy / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(CorruptFileError, match=r"is truncated: it has \d+ bytes of \d+"):
            load(tiny_llama_copy)

    def test_file_that_shrinks_after_loading(self, tiny_llama_copy: Path) -> None:
        model = load(tiny_llama_copy)
        path = tiny_llama_copy / "model.safetensors"
        path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])
        with pytest.raises(CorruptFileError, match="ends inside tensor"):
            values(model)


def header(content: Any, data: bytes = b"") -> bytes:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(raw)) + raw + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (bytes(7), "too few"),
        (struct.pack("<Q", 1 << 40), "says that its header has"),
        (struct.pack("<Q", 64) + b"{}", "says that its header has"),
        (header(b"{nonsense"), "is not JSON"),
        (header(b"[" * 50_000), "is not JSON"),
        (header([1]), "is not a JSON object"),
        (header({"a": 1}), "describes `a` wrongly"),
        (header({"a": {"dtype": "F32", "shape": [1]}}), "describes `a` wrongly"),
        (header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)), "describes `a` wrongly"),
        (header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, bytes(4)), "describes `a` wrongly"),
        (header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)), "stores 4 bytes for `a`"),
        (header({"a": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 4]}}, bytes(4)), "stores 4"),
        (header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)), "starts at byte"),
        (
            header(
                {
                    "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                    "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                },
                bytes(4),
            ),
            "starts at byte",
        ),
        (header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(3)), "is truncated"),
        (header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(5)), "1 bytes after"),
    ],
)
def test_damaged_safetensors(content: bytes, message: str, tiny_llama_copy: Path) -> None:
    (tiny_llama_copy / "model.safetensors").write_bytes(content)
    with pytest.raises(CorruptFileError, match=message):
        load(tiny_llama_copy)
