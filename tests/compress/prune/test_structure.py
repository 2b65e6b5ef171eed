"""Fewer blocks, features and heads: the same as the whole model with what is gone at zero, by onnxruntime."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx_ir
import onnxruntime
import pytest

from edgec.compress import Sample, generated_samples
from edgec.compress.calibration.feeds import decoder_feeds
from edgec.compress.prune.blocks import blocks
from edgec.compress.prune.depth import block_influence, remove_blocks
from edgec.compress.prune.importance import measure
from edgec.compress.prune.width import attentions, feature_scores, fewer_heads, mlps, narrow_mlps
from edgec.frontend import load
from edgec.ir.model import ModelIR
from edgec.lower.wasm.decoder_match import match_decoder
from edgec.passes import simplify
from tests.compress.prune import encoders
from tests.frontend.decoders import save_reference


def run(model: ModelIR, sample: Sample, *names: str) -> list[np.ndarray]:
    """Named values, or the first output."""
    copy = model.model.clone()
    wanted = names or (copy.graph.outputs[0].name,)
    found = {output.name: output for node in copy.graph for output in node.outputs}
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(found[name] for name in wanted)
    session = onnxruntime.InferenceSession(onnx_ir.to_proto(copy).SerializeToString())
    return session.run(list(wanted), {value.name: sample[value.name] for value in session.get_inputs()})


def with_zeros(model: ModelIR, zeros: dict[str, np.ndarray | slice]) -> ModelIR:
    """The same model with some rows of matrices `[in, out]` at zero."""
    copy = model.model.clone()
    for name, rows in zeros.items():
        value = copy.graph.initializers[name]
        array = value.const_value.numpy().copy()
        array[rows] = 0
        value.const_value = onnx_ir.Tensor(array, name=name)
    return dataclasses.replace(model, model=copy)


@pytest.fixture(scope="module", params=["llama", "qwen3", "phi", "gemma2"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelIR:
    folder = tmp_path_factory.mktemp("model")
    save_reference(folder, request.param, num_hidden_layers=4)
    return simplify(load(str(folder)))


def feeds(model: ModelIR) -> Sample:
    return decoder_feeds(model, [3, 1, 4, 1, 5, 9, 2, 6])


# Depth


def test_the_blocks_of_a_decoder_are_its_layers(decoder: ModelIR) -> None:
    assert [block.layer for block in blocks(decoder)] == [0, 1, 2, 3]
    assert all(f"layers.{block.layer}." in name for block in blocks(decoder) for name in block.weights)


def test_a_decoder_without_layers_is_one_whose_layers_add_nothing(decoder: ModelIR) -> None:
    pruned = remove_blocks(decoder, [1, 2])
    pruned.verify()
    match_decoder(pruned)
    assert pruned.decoder is not None and pruned.decoder.layers == 2
    names = [name for name in decoder.model.graph.initializers if "layers.1." in name or "layers.2." in name]
    arrays = [decoder.model.graph.initializers[name].const_value for name in names]
    gone = sum(array.size for array in arrays if array.dtype.is_floating_point())
    assert pruned.facts.parameters == decoder.facts.parameters - gone
    if decoder.facts.architecture == "gemma2":
        return  # norms follow the updates, weights of zero would not silence them
    silent = dict.fromkeys((name for name in names if "o_proj" in name or "down_proj" in name), slice(None))
    (expected,), (got,) = run(with_zeros(decoder, silent), feeds(decoder)), run(pruned, feeds(pruned))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_influence_is_the_cosine_of_what_goes_in_and_comes_out() -> None:
    model, samples = encoders.encoder(), encoders.samples()
    found = blocks(model)
    assert len(found) == 2 * encoders.LAYERS
    assert found[0].weights == ("layers.0.qkv.weight", "layers.0.out.weight")
    assert (found[1].start.name, found[1].end.name) == ("layers.0.attention_norm.output", "layers.0.mlp_norm.output")
    expected: list[float] = []
    for sample in samples:
        before, after = run(model, sample, str(found[1].start.name), str(found[1].end.name))
        for a, b in zip(before[0].astype(np.float64), after[0].astype(np.float64), strict=True):
            expected.append(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert block_influence(model, samples)[1] == pytest.approx(np.mean(expected), rel=1e-6)


def test_blocks_of_an_encoder_give_what_they_take() -> None:
    model, sample = encoders.encoder(), encoders.samples()[0]
    found = blocks(model)
    # All but the first two are gone: the output is what the second one gives.
    pruned = remove_blocks(model, range(2, 6))
    assert pruned.model.graph.outputs[0].name == model.model.graph.outputs[0].name
    (expected,), (got,) = run(model, sample, str(found[1].end.name)), run(pruned, sample)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert len(blocks(pruned)) == 2


# Width


def test_features_that_are_gone_are_those_that_bring_least(decoder: ModelIR) -> None:
    samples = generated_samples(decoder)[:2]
    features, _ = feature_scores(decoder, measure(decoder, samples).powers)
    found = mlps(decoder)
    assert len(found) == 4
    pruned = narrow_mlps(decoder, features, 0.5)
    match_decoder(pruned)
    assert pruned.decoder is not None and pruned.decoder.intermediate == mlps(pruned)[0].features
    zeros: dict[str, np.ndarray | slice] = {}
    for mlp, score in zip(found, features, strict=True):
        zeros[str(mlp.down.name)] = np.argsort(-score, kind="stable")[pruned.decoder.intermediate :]
    (expected,), (got,) = run(with_zeros(decoder, zeros), feeds(decoder)), run(pruned, feeds(pruned))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_scores_are_powers_times_norms() -> None:
    model, samples = encoders.encoder(), encoders.samples()
    features, heads = feature_scores(model, measure(model, samples).powers)
    down = model.model.graph.initializers["layers.1.down.weight"].const_value.numpy()
    active = np.concatenate([run(model, sample, "layers.1.active")[0][0] for sample in samples]).astype(np.float64)
    expected = np.sqrt(np.square(active).mean(axis=0)) * np.linalg.norm(down.astype(np.float64), axis=1)
    np.testing.assert_allclose(features[1], expected, rtol=1e-5)
    assert [len(score) for score in heads] == [encoders.HEADS] * encoders.LAYERS


@pytest.mark.parametrize("count", [1, 3])
def test_an_encoder_with_fewer_heads(count: int) -> None:
    model, samples = encoders.encoder(), encoders.samples()
    _, heads = feature_scores(model, measure(model, samples).powers)
    pruned = fewer_heads(model, heads, count)
    zeros: dict[str, np.ndarray | slice] = {}
    width = encoders.HIDDEN // encoders.HEADS
    for layer, score in enumerate(heads):
        gone = np.argsort(-score, kind="stable")[count:]
        zeros[f"layers.{layer}.out.weight"] = (gone[:, None] * width + np.arange(width)).reshape(-1)
    for sample in samples:
        (expected,), (got,) = run(with_zeros(model, zeros), sample), run(pruned, sample)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert all(found.heads == count for found in attentions(pruned))


def test_groups_of_heads_share_keys(tmp_path: Path) -> None:
    save_reference(tmp_path, "llama", num_attention_heads=6, num_key_value_heads=3, head_dim=16)
    model = simplify(load(str(tmp_path)))
    _, groups = feature_scores(model, measure(model, generated_samples(model)[:1]).powers)
    pruned = fewer_heads(model, groups, 2)
    pruned.verify()
    match_decoder(pruned)
    assert pruned.decoder is not None and (pruned.decoder.heads, pruned.decoder.kv_heads) == (4, 2)
    zeros: dict[str, np.ndarray | slice] = {}
    for found, score in zip(attentions(model), groups, strict=True):
        gone = int(np.argmin(score))
        zeros[str(found.output.name)] = slice(32 * gone, 32 * gone + 32)
    (expected,), (got,) = run(with_zeros(model, zeros), feeds(model)), run(pruned, feeds(pruned))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_everything_together_keeps_the_contracts(decoder: ModelIR) -> None:
    samples = generated_samples(decoder)[:1]
    features, groups = feature_scores(decoder, measure(decoder, samples).powers)
    pruned = narrow_mlps(decoder, features, 0.75)
    if groups and len(groups[0]) > 1:
        pruned = fewer_heads(pruned, groups, len(groups[0]) - 1)
    pruned = remove_blocks(pruned, [1])
    pruned.verify()
    match_decoder(pruned)
    assert run(pruned, feeds(pruned))[0].shape == run(decoder, feeds(decoder))[0].shape
