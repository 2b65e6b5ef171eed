from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec.errors import ModelError, UnsupportedError
from edgec.frontend import load
from edgec.frontend.checkpoint import Layout, check_tensors
from edgec.frontend.spec import DecoderSpec, LayerSpec, Rope
from edgec.frontend.tensors import tensor_shapes
from edgec.ir.model import DecoderFacts
from tests.families import CASES, SHAPES
from tests.frontend.decoders import prefill_and_steps, reference_logits, save_reference

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"tie_word_embeddings": False}),
    "llama tied": ("llama", {"tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
    "llama one kv head": ("llama", {"num_key_value_heads": 1}),
    "llama no sharing": ("llama", {"num_key_value_heads": 6}),
    "llama head_dim": ("llama", {"head_dim": 16}),
    "llama biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama rope linear": ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.5}}),
    "llama rope llama3": ("llama", {"rope_scaling": LLAMA3, "rope_theta": 500.0}),
    "llama rope yarn": ("llama", {"rope_scaling": YARN}),
    "mistral": ("mistral", {"sliding_window": None, "head_dim": 8}),
    "mistral window": ("mistral", {"sliding_window": 40, "head_dim": 8}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2 rope yarn": ("qwen2", {"rope_scaling": YARN, "rope_theta": 1e6}),
}
FACTS = DecoderFacts(
    layers=1, hidden=8, intermediate=12, heads=2, kv_heads=1, head_dim=4, vocabulary=16, context_length=32,
)  # fmt: skip
SPEC = DecoderSpec(FACTS, (LayerSpec(Rope((1.0, 0.01))),))


@pytest.mark.parametrize("family", CASES)
def test_families_equal_transformers(family: str, tmp_path: Path) -> None:
    reference = save_reference(tmp_path, family, plain=False)
    ids = np.random.default_rng(3).integers(3, SHAPES["vocab_size"], 36).tolist()
    logits = prefill_and_steps(load(tmp_path), ids, prefill=20)
    np.testing.assert_allclose(logits, reference_logits(reference, ids), atol=1e-4)


@pytest.mark.parametrize("case", VARIANTS)
def test_logits_equal_transformers(case: str, tmp_path: Path) -> None:
    family, config = VARIANTS[case]
    reference = save_reference(tmp_path, family, **config)
    ids = np.random.default_rng(3).integers(0, SHAPES["vocab_size"], 36).tolist()

    model = load(tmp_path)
    logits = prefill_and_steps(model, ids, prefill=20)

    assert model.facts.architecture == family
    np.testing.assert_allclose(logits, reference_logits(reference, ids), atol=1e-4)


def test_initializers_are_read_only_when_asked_for(tmp_path: Path) -> None:
    save_reference(tmp_path, "llama")
    model = load(tmp_path)
    (tmp_path / "model.safetensors").unlink()

    weight = model.model.graph.initializers["model.layers.1.mlp.down_proj.weight"].const_value

    assert weight is not None
    assert tuple(weight.shape) == (84, 48)  # [in, out]
    with pytest.raises(FileNotFoundError):
        weight.numpy()


def test_tied_head_is_a_transpose_of_the_embedding(tmp_path: Path) -> None:
    save_reference(tmp_path, "llama", tie_word_embeddings=True)
    graph = load(tmp_path).model.graph

    head = graph.outputs[0].producer()
    assert head is not None and head.op_type == "MatMul"
    transpose = head.inputs[1].producer()
    assert transpose is not None and transpose.op_type == "Transpose"
    assert transpose.inputs[0].name == "model.embed_tokens.weight"
    assert "lm_head.weight" not in graph.initializers


def test_every_value_has_type_and_shape(tmp_path: Path) -> None:
    save_reference(tmp_path, "qwen2")
    for node in load(tmp_path).model.graph:
        for value in node.outputs:
            assert value.dtype is not None and value.shape is not None, value.name


def test_missing_tensors_are_named() -> None:
    found = dict(tensor_shapes(SPEC))
    del found["model.layers.0.mlp.up_proj.weight"], found["model.norm.weight"]
    with pytest.raises(ModelError, match=r"lacks `model.layers.0.mlp.up_proj.weight`, `model.norm.weight`"):
        check_tensors(SPEC, Layout(), found)


def test_wrong_shapes_are_named_with_both_shapes() -> None:
    found = dict(tensor_shapes(SPEC))
    found["model.layers.0.self_attn.k_proj.weight"] = (8, 8)
    with pytest.raises(
        ModelError, match=r"`model.layers.0.self_attn.k_proj.weight` has shape \[8, 8\] instead of \[4, 8\]"
    ):
        check_tensors(SPEC, Layout(), found)


def test_tensors_that_the_builder_would_leave_out_are_refused() -> None:
    found = dict(tensor_shapes(SPEC))
    found["model.layers.0.self_attn.q_norm.weight"] = (4,)
    with pytest.raises(UnsupportedError, match=r"`model\.layers\.0\.self_attn\.q_norm\.weight`"):
        check_tensors(SPEC, Layout(), found)
