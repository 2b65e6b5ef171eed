import types
from typing import Any

import numpy as np
import pytest
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from edgec.errors import ModelError
from edgec.frontend.rope import inverse_frequencies

HEAD_DIM = 64
CONTEXT = 131072
LLAMA3 = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
YARN = {"factor": 4.0, "original_max_position_embeddings": 32768}


@pytest.mark.parametrize(
    ("rope", "theta"),
    [
        ({"rope_type": "linear", "factor": 4.0}, 10000.0),
        ({"rope_type": "llama3", **LLAMA3}, 500000.0),
        ({"rope_type": "yarn", **YARN}, 1e6),
        ({"rope_type": "yarn", **YARN, "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False}, 1e6),
        ({"rope_type": "yarn", **YARN, "attention_factor": 1.25}, 1e6),
        ({"rope_type": "yarn", **YARN, "mscale": 1.0, "mscale_all_dim": 0.8}, 1e6),
    ],
)
def test_same_as_transformers(rope: dict[str, Any], theta: float) -> None:
    config = transformers.LlamaConfig(
        hidden_size=HEAD_DIM * 4,
        num_attention_heads=4,
        head_dim=HEAD_DIM,
        rope_theta=theta,
        max_position_embeddings=CONTEXT,
        rope_scaling=dict(rope),
    )
    expected, expected_scale = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, "cpu")
    frequencies, scale = inverse_frequencies(rope, theta=theta, head_dim=HEAD_DIM, context_length=CONTEXT)
    np.testing.assert_allclose(np.array(frequencies), expected.numpy(), rtol=3e-7)
    assert scale == pytest.approx(expected_scale)


def test_plain_frequencies() -> None:
    frequencies, scale = inverse_frequencies({"rope_type": "default"}, theta=1e4, head_dim=8, context_length=64)
    np.testing.assert_allclose(frequencies, [1, 0.1, 0.01, 0.001], rtol=1e-6)
    assert scale == 1.0


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear"},
        {"rope_type": "linear", "factor": 0},
        {"rope_type": "linear", "factor": float("inf")},
        {"rope_type": "llama3", **LLAMA3, "low_freq_factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": True},
    ],
)
def test_impossible_values(rope: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        inverse_frequencies(types.MappingProxyType(rope), theta=1e4, head_dim=8, context_length=64)
