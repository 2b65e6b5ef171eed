"""Early exits: heads that are trained, stored, lowered and measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx_ir
import onnxruntime
import pytest
from safetensors.numpy import load_file, save_file

import edgec.bundle
import edgec.run
from edgec import profiles
from edgec.compress import compress, generated_samples
from edgec.compress.dequantize import dequantize, dequantized_model
from edgec.compress.prune.blocks import blocks
from edgec.errors import UnsupportedError, UsageError
from edgec.frontend import load
from edgec.heal.exits import _threshold, spread, train_exits
from edgec.ir import CompressedModel, PackedTensor
from edgec.lower.wasm import lower
from edgec.passes import simplify
from edgec.plan import make_plan
from tests.frontend.decoders import save_reference

IDS = np.random.default_rng(4).integers(3, 130, 14).tolist()


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> CompressedModel:
    """Of three layers, of which the last two say little."""
    folder = tmp_path_factory.mktemp("llama")
    save_reference(folder, "llama", num_hidden_layers=3)
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if name.startswith(("model.layers.1.", "model.layers.2.")) and ("o_proj" in name or "down_proj" in name):
            tensors[name] = 0.3 * tensor
    save_file(tensors, folder / "model.safetensors")
    model = simplify(load(folder))
    plan = make_plan(model, profiles.load("phone-8gb"), bits=4, context_length=64)
    return compress(model, dataclasses.replace(plan, prefill_chunk=10, variants=("simd128", "relaxed-threads")))


@pytest.fixture(scope="module")
def trained(compressed: CompressedModel) -> CompressedModel:
    samples = generated_samples(compressed.model, tokens=3072)
    heads = train_exits(compressed, samples, [2, 1], agreement=0.8, steps=40)
    return dataclasses.replace(compressed, exits=heads)


def test_heads_learn_what_the_model_says(compressed: CompressedModel, trained: CompressedModel) -> None:
    samples = generated_samples(compressed.model, tokens=3072)
    untrained = train_exits(compressed, samples, [1, 2], agreement=0.8, steps=1)
    for before, after in zip(untrained, trained.exits, strict=True):
        assert (before.layer, before.tokens) == (after.layer, after.tokens)
        assert after.share > before.share
        assert after.threshold is not None and 0 < after.threshold < 1
        assert after.agreement > 0.7  # of tokens that the threshold has not seen
    assert trained.exits[1].share > trained.exits[0].share
    again = train_exits(compressed, samples, [1, 2], agreement=0.8, steps=40)
    for one, other in zip(trained.exits, again, strict=True):
        np.testing.assert_array_equal(one.norm, other.norm)
        assert isinstance(one.up, PackedTensor) and isinstance(other.up, PackedTensor)
        np.testing.assert_array_equal(one.up.high, other.up.high)
        assert one.threshold == other.threshold


def test_the_module_computes_them(trained: CompressedModel, tmp_path: Path) -> None:
    """`exit_<layer>` against its formula in numpy; in pieces, the whole model gives the bits that it gave."""
    path = tmp_path / "exits.edgec"
    model = trained.model
    edgec.bundle.write(lower(trained), model=model, plan=trained.plan, accuracy={}, out=path)
    plain = tmp_path / "plain.edgec"
    whole = dataclasses.replace(trained, exits=())
    edgec.bundle.write(lower(whole), model=model, plan=trained.plan, accuracy={}, out=plain)
    initializers = dequantized_model(trained).model.graph.initializers
    head = np.asarray(initializers["lm_head.weight"].const_value.numpy(), np.float64)  # type: ignore[union-attr]
    found = {}
    for variant, threads in (("simd128", 1), ("relaxed-threads", 2)):
        with edgec.run.load(path, variant=variant, threads=threads) as running:
            engine, manifest = running.engine, running.manifest
            assert [exit.layer for exit in manifest.exits] == [1, 2]
            logits = []
            tokens = engine.view(manifest.input("tokens"), 8)
            tokens[:] = IDS[:8]
            engine.ensure_kv(16)
            engine.call("layers_0", 8, 0)
            for exit in trained.exits:
                engine.call(f"exit_{exit.layer}", 7)
                logits.append(engine.view(manifest.output("logits"), len(head.T)).copy())
                engine.call(f"layers_{exit.layer}", 8, 0)
            engine.call("head", 7)
            logits.append(engine.view(manifest.output("logits"), len(head.T)).copy())
            found[variant] = np.stack(logits)
    np.testing.assert_array_equal(found["simd128"], found["relaxed-threads"])
    with edgec.run.load(plain) as running:
        expected = list(running.logits(IDS[:8]))[-1]
    np.testing.assert_array_equal(found["simd128"][-1], expected)
    wanted = _by_numpy(trained, IDS[:8], head)
    for exit, got, right in zip(trained.exits, found["simd128"], wanted, strict=False):
        assert np.sqrt(np.square(got - right).mean()) < 0.03 * right.std(), exit.layer


def _by_numpy(trained: CompressedModel, ids: list[int], head: np.ndarray) -> list[np.ndarray]:
    copy = dequantized_model(trained)
    ends = [str(block.end.name) for block in blocks(copy)]
    graph = copy.model.graph
    graph.outputs.extend(block.end for block in blocks(copy)[:2])
    session = onnxruntime.InferenceSession(onnx_ir.to_proto(copy.model).SerializeToString())
    decoder = copy.decoder
    assert decoder is not None
    empty = np.zeros((1, decoder.kv_heads, 0, decoder.head_dim), np.float32)
    feeds = {value.name: empty for value in session.get_inputs()}
    feeds["input_ids"] = np.array([ids], np.int64)
    feeds["position_ids"] = np.arange(len(ids), dtype=np.int64)[None]
    streams = session.run(ends[:2], feeds)
    results = []
    for exit, stream in zip(trained.exits, streams, strict=True):
        x = stream[0, -1].astype(np.float64)
        z = x / np.sqrt(np.square(x).mean() + 1e-6) * exit.norm
        assert isinstance(exit.down, PackedTensor) and isinstance(exit.up, PackedTensor)
        results.append((z + dequantize(exit.up) @ (dequantize(exit.down) @ z)) @ head)
    return results


def test_thresholds() -> None:
    sure = np.linspace(1, 0, 101)
    right = np.ones(101, bool)
    right[60:] = False
    assert _threshold(sure, right, 0.95) == pytest.approx(sure[62])
    assert _threshold(sure, ~right, 0.95) is None
    assert _threshold(np.ones(40), np.arange(40) < 20, 0.9) is None  # all of them leave, or none
    assert spread(30) == (15, 22) and spread(2) == (1,)


def test_what_cannot_be_left(compressed: CompressedModel) -> None:
    samples = generated_samples(compressed.model, tokens=2048)
    with pytest.raises(UsageError, match="has 3 layers, no token can leave after 3"):
        train_exits(compressed, samples, [3], agreement=0.9)
    with pytest.raises(UsageError, match="too few"):
        train_exits(compressed, samples[:4], [1], agreement=0.9)
    other = dataclasses.replace(compressed, model=dataclasses.replace(compressed.model, decoder=None, kind="graph"))
    with pytest.raises(UnsupportedError, match="for decoder language models"):
        train_exits(other, samples, [1], agreement=0.9)
