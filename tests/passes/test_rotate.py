"""The rotation of a decoder's stream: the same function, with norms that have no gains and inputs without outliers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgec.errors import UnsupportedError, UsageError
from edgec.eval import ReferenceDecoder
from edgec.frontend import load
from edgec.ir.model import TURN, TURN_BACK, ModelIR
from edgec.passes import rotate, simplify
from edgec.passes.rotate import Turn
from tests.frontend.decoders import save_reference
from tests.passes.graphs import convolutional_network

IDS = [3, 99, 41, 41, 7, 100, 12, 63, 5, 81, 19, 33, 2, 77]


def logits(model: ModelIR) -> np.ndarray:
    with ReferenceDecoder(model) as decoder:
        return np.concatenate([rows.reshape(-1, rows.shape[-1]) for rows in decoder.logits(IDS)])


def initializer(model: ModelIR, name: str) -> np.ndarray:
    tensor = model.model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


@pytest.mark.parametrize("width", [1, 8, 24, 48, 64, 72, 576])
def test_a_turn_is_orthogonal_and_its_own_inverse(width: int) -> None:
    turn = Turn(width)
    matrix = turn.apply(np.eye(width, dtype=np.float32), 0)
    np.testing.assert_array_equal(matrix, turn.apply(np.eye(width, dtype=np.float32), 1))
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-7)
    np.testing.assert_allclose(matrix.astype(np.float64) @ matrix, np.eye(width), atol=1e-6)
    array = np.random.default_rng(width).normal(size=(3, width, 5)).astype(np.float32)
    np.testing.assert_allclose(turn.apply(array, 1), np.einsum("ij,ajb->aib", matrix, array), atol=1e-5)


def test_many_vectors_are_turned_as_each_alone() -> None:
    array = np.random.default_rng(0).normal(size=(24, 5000)).astype(np.float32)
    np.testing.assert_array_equal(Turn(24).apply(array, 0)[:, 4321], Turn(24).apply(array[:, 4321:4322], 0)[:, 0])


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma", "granite", "helium", "mixtral", "qwen3-moe"])
def test_the_function_stays(family: str, tmp_path: Path) -> None:
    save_reference(tmp_path, family, plain=False)
    model = load(tmp_path)
    wanted = logits(model)
    rotated = rotate(model)
    assert model.decoder is not None
    assert ({TURN, TURN_BACK} <= set(rotated.model.graph.initializers)) == model.decoder.tied_embedding
    for found in (logits(rotated), logits(simplify(rotated))):
        np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())
    np.testing.assert_array_equal(logits(model), wanted)
    for name, value in rotated.model.graph.initializers.items():
        if name.endswith(("input_layernorm.weight", "post_attention_layernorm.weight", "model.norm.weight")):
            assert value.const_value is not None and np.all(value.const_value.numpy() == 1)


def test_the_same_weights_each_time(tiny_llama: Path) -> None:
    name = "model.layers.1.self_attn.o_proj.weight"
    first, second = (initializer(rotate(load(tiny_llama)), name) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.allclose(first, initializer(load(tiny_llama), name), atol=1e-2)


def test_a_feature_that_stands_out_does_so_no_longer(tiny_llama: Path) -> None:
    model = load(tiny_llama)
    name = "model.layers.0.mlp.down_proj.weight"
    large = initializer(model, name).copy()
    large[:, 5] *= 100
    crests = []
    for array in (large, Turn(64).apply(large, -1)):
        written = np.random.default_rng(1).normal(size=(50, 96)).astype(np.float32) @ array
        crests.append(float((np.abs(written).max(axis=1) / np.sqrt(np.square(written).mean(axis=1))).mean()))
    assert crests[0] > 7 and crests[1] < 2


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("gpt2", "subtract the mean"),
        ("cohere", "subtract the mean"),
        ("gemma2", "norms of its own"),
        ("olmo2", "norms of its own"),
        ("bitnet", "quantized before"),
    ],
)
def test_other_streams_are_refused(family: str, why: str, tmp_path: Path) -> None:
    save_reference(tmp_path, family, plain=False)
    with pytest.raises(UnsupportedError, match=f"cannot be rotated.*{why}"):
        rotate(load(tmp_path))


def test_graphs_are_refused() -> None:
    with pytest.raises(UsageError, match="no language model"):
        rotate(convolutional_network()[0])
