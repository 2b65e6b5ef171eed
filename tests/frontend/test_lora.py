"""Adapters of the peft library, merged into the weights of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edgec.errors import EdgecError, ModelError, UnsupportedError
from edgec.frontend import load
from tests.adapters import ALPHA, RANK, adapt, write_adapter
from tests.frontend.decoders import prefill_and_steps, reference_logits, save_reference

IDS = np.random.default_rng(3).integers(3, 130, 20).tolist()
SHAPES = {"model.layers.0.self_attn.q_proj": (64, 64), "model.layers.1.mlp.down_proj": (64, 96)}


@pytest.mark.parametrize(
    ("family", "ends"),
    [
        ("llama", "q_proj v_proj down_proj lm_head"),
        ("qwen2", "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj"),
        ("phi3", "qkv_proj gate_up_proj o_proj"),
        ("gpt2", "c_attn c_proj c_fc"),
        ("cohere", "q_proj k_proj o_proj"),
        ("granite", "o_proj down_proj"),
        ("falcon-40b", "query_key_value dense dense_4h_to_h"),
    ],
)
def test_merged_equals_transformers(tmp_path: Path, family: str, ends: str) -> None:
    model = save_reference(tmp_path / "model", family, plain=False)
    plain = reference_logits(model, IDS)
    adapt(model, tmp_path / "adapter", ends.split(), scale=ALPHA / RANK)
    wanted = reference_logits(model, IDS)
    found = prefill_and_steps(load(tmp_path / "model", lora=tmp_path / "adapter"), IDS, prefill=12)
    assert np.abs(wanted - plain).max() > 0.05
    np.testing.assert_allclose(found, wanted, rtol=0, atol=5e-4)


@pytest.mark.parametrize(
    ("config", "scale"),
    [({"use_rslora": True}, ALPHA / RANK**0.5), ({"alpha_pattern": {"q_proj": 3}, "lora_alpha": 3}, 3 / RANK)],
)
def test_scales(tmp_path: Path, config: dict[str, Any], scale: float) -> None:
    model = save_reference(tmp_path / "model", "llama")
    adapt(model, tmp_path / "adapter", ["q_proj"], scale=scale, **config)
    found = prefill_and_steps(load(tmp_path / "model", lora=tmp_path / "adapter"), IDS, prefill=12)
    np.testing.assert_allclose(found, reference_logits(model, IDS), rtol=0, atol=5e-4)


def test_another_source(tiny_llama: Path, tmp_path: Path) -> None:
    """The same model with another adapter is another source, and merging is repeatable."""
    write_adapter(tmp_path / "one", SHAPES)
    write_adapter(tmp_path / "two", SHAPES, seed=6)
    hashes = {load(tiny_llama, lora=lora).facts.source_sha256 for lora in (None, tmp_path / "one", tmp_path / "two")}
    assert len(hashes) == 3
    assert load(tiny_llama, lora=tmp_path / "one").facts.source_sha256 in hashes


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dora": True}, "`use_dora` is True"),
        ({"peft_type": "LOHA"}, "`peft_type` is 'LOHA'"),
        ({"modules_to_save": ["lm_head"]}, "`modules_to_save`"),
        ({"bias": "all"}, "`bias` is 'all'"),
        ({"init_lora_weights": "pissa"}, "`init_lora_weights` is 'pissa'"),
        ({"some_new_thing": 3}, "`some_new_thing`"),
        ({"alpha_pattern": {"(a+)+$": 3}}, "`alpha_pattern`"),
    ],
)
def test_other_methods_are_refused_by_name(
    tiny_llama: Path, tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    write_adapter(tmp_path / "adapter", SHAPES, **config)
    with pytest.raises(UnsupportedError, match=r"adapter") as caught:
        load(tiny_llama, lora=tmp_path / "adapter")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"model.layers.2.self_attn.q_proj": (64, 64)}, "which the model does not have"),
        ({"model.layers.0.self_attn.q_proj": (64, 32)}, "of 32 inputs and 64 outputs, the model's has 64 and 64"),
        ({"lm_head": (288, 64)}, "shares with its embedding"),
    ],
)
def test_adapters_of_other_models(
    tiny_llama: Path, tmp_path: Path, shapes: dict[str, tuple[int, int]], message: str
) -> None:
    write_adapter(tmp_path / "adapter", shapes)
    with pytest.raises(EdgecError) as caught:
        load(tiny_llama, lora=tmp_path / "adapter")
    assert message in str(caught.value)


def test_damaged_folders(tiny_llama: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    with pytest.raises(ModelError, match="not a folder"):
        load(tiny_llama, lora=adapter)
    write_adapter(adapter, SHAPES)
    weights = adapter / "adapter_model.safetensors"
    tensors = load_file(weights)
    first = next(iter(tensors))
    for changed, message in (
        ({name: tensor for name, tensor in tensors.items() if name != first}, "no whole pair"),
        ({**tensors, "base_model.model.lm_head.weight": tensors[first]}, "beside those of LoRA"),
        ({**tensors, first: np.full_like(tensors[first], np.nan)}, "not finite"),
        ({}, "changes nothing"),
    ):
        save_file(changed, weights)
        with pytest.raises(EdgecError, match=message):
            model = load(tiny_llama, lora=adapter)
            for value in model.model.graph.initializers.values():
                assert value.const_value is not None
                value.const_value.numpy()
    weights.unlink()
    (adapter / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="only `adapter_model"):
        load(tiny_llama, lora=adapter)
    (adapter / "adapter_config.json").write_text(json.dumps([]))
    with pytest.raises(ModelError, match="not a JSON object"):
        load(tiny_llama, lora=adapter)
