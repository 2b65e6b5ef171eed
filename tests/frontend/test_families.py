"""Fields of the families' configurations that edgec does not know how to honour, refused by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec.errors import EdgecError, UnsupportedError
from edgec.frontend import check, load
from tests.families import VOCABULARY
from tests.frontend.decoders import prefill_and_steps, reference_logits, save_reference

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before"),
    ("opt", {"word_embed_proj_dim": 32}, "word_embed_proj_dim"),
    ("opt", {"_remove_final_layer_norm": True}, "_remove_final_layer_norm"),
    ("falcon", {"alibi": True}, "alibi"),
    ("falcon", {"activation": "swiglu"}, "activation"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights"),
    ("gpt2", {"activation_function": "selu"}, "activation_function"),
    ("gpt-neox", {"rope_theta": 500.0}, "rope_theta"),
    ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ("gemma2", {"hidden_act": "relu"}, "hidden_act"),
    ("cohere", {"use_qk_norm": True}, "use_qk_norm"),
    ("stablelm", {"qk_layernorm": True}, "qk_layernorm"),
    ("smollm3", {"use_sliding_window": True}, "use_sliding_window"),
    ("cohere2", {"layer_switch": 5}, "layer_switch"),
    ("olmoe", {"clip_qkv": 8.0}, "clip_qkv"),
    ("granitemoe", {"shared_intermediate_size": 64}, "shared_intermediate_size"),
    ("mixtral", {"num_experts": 8}, "num_experts"),
    ("qwen3", {"embedding_multiplier": 2.0}, "embedding_multiplier"),
]
# Fields of published configurations that change nothing, or say what the family does anyway.
PUBLISHED: list[tuple[str, dict[str, Any]]] = [
    ("phi4", {"full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False, "mlp_bias": False}),
    ("cohere2", {"layer_switch": 4, "order_of_interleaved_layers": "local_attn_first", "rotary_pct": 1.0,
                 "position_embedding_type": "rope_gptj", "use_gated_activation": True, "use_parallel_block": True}),
    ("starcoder2", {"activation_function": "gelu", "mlp_type": "default", "norm_type": "layer_norm",
                    "scale_attention_softmax_in_fp32": True, "layer_norm_epsilon": 1e-5}),
    ("gpt2", {"n_ctx": 272, "task_specific_params": {"text-generation": {"max_length": 50}}}),
    ("opt", {"activation_dropout": 0.1, "prefix": "</s>", "layerdrop": 0.1}),
    ("gemma3", {"cache_implementation": "hybrid", "sliding_window_pattern": 6}),
    ("smollm3", {"max_window_layers": 28, "pretraining_tp": 2}),
    ("gpt-neox", {"classifier_dropout": 0.1}),
]  # fmt: skip
IMPOSSIBLE: list[tuple[str, dict[str, Any]]] = [
    ("stablelm", {"partial_rotary_factor": 0.01}),
    ("gemma2", {"layer_types": ["full_attention"]}),
    ("smollm3", {"no_rope_layers": [1]}),
    ("gemma3", {"rope_local_base_freq": 0}),
    ("granite", {"logits_scaling": "8"}),
    ("mixtral", {"num_experts_per_tok": 6}),
    ("mixtral", {"num_local_experts": 0}),
    ("mixtral", {"num_local_experts": 4}),
    ("qwen3-moe", {"decoder_sparse_step": 0}),
    ("gemma2", {"query_pre_attn_scalar": None}),
    ("phi3", {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}),
]


@pytest.mark.parametrize(("family", "fields", "named"), REFUSED)
def test_refused(family: str, fields: dict[str, Any], named: str, tmp_path: Path) -> None:
    save_reference(tmp_path, family, plain=False)
    change(tmp_path, fields)
    assert [problem.subject for problem in check(tmp_path)] == [named]
    with pytest.raises(UnsupportedError, match=f"`{named}` is "):
        load(tmp_path)


@pytest.mark.parametrize(("family", "fields"), PUBLISHED)
def test_fields_of_published_configurations(family: str, fields: dict[str, Any], tmp_path: Path) -> None:
    save_reference(tmp_path, family, plain=False)
    before = load(tmp_path).decoder
    change(tmp_path, fields)
    assert load(tmp_path).decoder == before


@pytest.mark.parametrize(("family", "fields"), IMPOSSIBLE)
def test_impossible_values(family: str, fields: dict[str, Any], tmp_path: Path) -> None:
    save_reference(tmp_path, family, plain=False)
    change(tmp_path, fields)
    with pytest.raises(EdgecError):
        load(tmp_path)


def test_longrope_ends_where_the_factors_change(tmp_path: Path) -> None:
    """Where `transformers` changes them: as soon as there are more tokens than the model was trained for at first."""
    import torch

    model = save_reference(tmp_path, "phi3", plain=False)
    decoder = load(tmp_path).decoder
    assert decoder is not None
    assert decoder.longrope is not None
    assert (decoder.context_length, decoder.longrope.context_length, decoder.longest_context) == (272, 544, 544)
    rotary = model.model.rotary_emb
    short, _ = rotary(torch.zeros(1), torch.arange(272)[None])
    long, _ = rotary(torch.zeros(1), torch.arange(273)[None])
    again, _ = rotary(torch.zeros(1), torch.arange(200)[None])
    assert torch.equal(short[:, :200], again) and not torch.equal(short, long[:, :272])


def test_longer_contexts_rotate_by_the_long_factors(tmp_path: Path) -> None:
    """All tokens: `transformers` rotates the first ones so too, once there are more than 272."""
    model = save_reference(tmp_path, "phi3", plain=False)
    ids = np.random.default_rng(4).integers(3, VOCABULARY, 290).tolist()
    wanted = reference_logits(model, ids)
    loaded = load(tmp_path)
    assert loaded.for_context(272) is loaded
    longer = loaded.for_context(288)
    assert longer.decoder is not None and longer.decoder.context_length == 544
    found = prefill_and_steps(longer, ids, prefill=280)
    assert float(np.abs(found - wanted).max()) < 2e-5
    assert float(np.abs(prefill_and_steps(loaded, ids, prefill=280) - wanted).max()) > 1e-2


def test_checkpoint_of_the_bare_model(tmp_path: Path) -> None:
    """GPT-2's own checkpoint lacks the prefix of the class with a head."""
    from safetensors.numpy import load_file, save_file

    save_reference(tmp_path, "gpt2", plain=False)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({n.removeprefix("transformer."): t for n, t in tensors.items()}, tmp_path / "model.safetensors")
    assert load(tmp_path).decoder is not None


def change(folder: Path, fields: dict[str, Any]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
