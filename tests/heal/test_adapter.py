"""An adapter beside frozen codes gives back what they took: trained, stored, added by the runtime."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import edgec.run
from edgec.adapters import pack_adapter
from edgec.compress import Sample, compress, generated_samples
from edgec.errors import UnsupportedError, UsageError
from edgec.frontend import load
from edgec.heal.adapter import HealingAdapter, _fit, _parts, train_adapter
from edgec.ir.compressed import CompressedModel
from edgec.ir.lowered import AdapterSlot
from edgec.ir.model import ModelIR
from edgec.pipeline import CompileOptions, compile_model, run_stages
from edgec.plan import make_plan
from edgec.profiles import load as load_profile
from tests.frontend.decoders import save_reference

RANK = 8
_LAYER = {"self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64)}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    save_reference(folder, "llama")
    return folder


Prepared = tuple[ModelIR, CompressedModel, tuple[AdapterSlot, ...], list[Sample]]


@pytest.fixture(scope="module")
def prepared(source: Path) -> Prepared:
    """At 2 bits, so that there is something to heal."""
    from edgec.lower.wasm import lower
    from edgec.passes import simplify

    model = simplify(load(source))
    plan = make_plan(model, load_profile("phone-8gb"), bits=2, quantizer="rtn", adapter_rank=RANK, context_length=64)
    compressed = compress(model, dataclasses.replace(plan, variants=("simd128",)))
    slots = lower(compressed).adapters
    assert slots is not None
    return model, compressed, slots.linears, generated_samples(model, tokens=2048)


def trained(prepared: Prepared, steps: int, folder: Path | None = None) -> HealingAdapter:
    model, compressed, linears, samples = prepared
    return train_adapter(model, compressed, linears, samples, rank=RANK, steps=steps, folder=folder)


def test_it_is_trained(prepared: Prepared) -> None:
    adapter = trained(prepared, 40)
    assert adapter.fitted < adapter.before
    assert adapter.after < 0.9 * adapter.fitted
    assert adapter.pairs.keys() == {linear.name for linear in prepared[2]}
    for linear in prepared[2]:
        pair = adapter.pairs[linear.name]
        assert pair.down.shape == (RANK, linear.columns) and pair.up.shape == (linear.rows, RANK)


def test_steps_that_were_interrupted_give_the_same(prepared: Prepared, tmp_path: Path) -> None:
    whole = trained(prepared, 6)

    class Stop(Exception):
        pass

    def stop(item: str, done: int, total: int) -> None:
        if done == 3:
            raise Stop

    model, compressed, linears, samples = prepared
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgec.heal.training._SAVE_SECONDS", -1.0)
        with pytest.raises(Stop):
            train_adapter(model, compressed, linears, samples, rank=RANK, steps=6, folder=tmp_path, progress=stop)
    resumed = trained(prepared, 6, tmp_path)
    assert (resumed.before, resumed.fitted, resumed.after) == (whole.before, whole.fitted, whole.after)
    for name, pair in whole.pairs.items():
        np.testing.assert_array_equal(resumed.pairs[name].down, pair.down)
        np.testing.assert_array_equal(resumed.pairs[name].up, pair.up)
    with pytest.raises(UsageError, match="is of 6 steps, not of 7"):
        trained(prepared, 7, tmp_path)


def test_the_fit_is_the_closest_of_its_rank() -> None:
    random = np.random.default_rng(0)
    for shape in ((48, 20), (20, 48)):
        error = random.normal(size=shape).astype(np.float32)
        down, up = _fit(error, 5)
        left, values, right = np.linalg.svd(error)
        best = (left[:, :5] * values[:5]) @ right[:5]
        np.testing.assert_allclose(up @ down, best, atol=1e-4)
        assert np.isclose(np.linalg.norm(down), np.linalg.norm(up))
    down, up = _fit(error[:3], 8)  # of less than this rank
    assert down.shape == (8, 48) and up.shape == (3, 8)
    np.testing.assert_allclose(up @ down, error[:3], atol=1e-4)


def test_linears_inside_matrices() -> None:
    import torch

    slots = [AdapterSlot(f"model.layers.0.{name}", *shape, 0, 0, 0) for name, shape in _LAYER.items()]
    joined = "model.layers.0.self_attn.q_k_v_proj.weight"
    (parts,) = _parts(slots, {joined: torch.zeros(64, 128), "model.norm.weight": torch.zeros(64)}).values()
    assert [(part.first, part.last) for part in parts] == [(0, 64), (64, 96), (96, 128)]
    with pytest.raises(UnsupportedError, match="is no matrix of its own"):
        _parts(slots, {joined: torch.zeros(64, 96)})


def test_from_the_pipeline_into_the_runtime(source: Path, tmp_path: Path) -> None:
    """The bundle is byte for byte the one without it; with the adapter its logits are nearer to the float model's."""
    common = {"bits": 2, "quantizer": "rtn", "adapter_rank": RANK, "context_length": 64}
    out = tmp_path / "healed.edgec"
    work = run_stages(source, "phone-8gb", out, CompileOptions(heal_adapter=30, **common))  # type: ignore[arg-type]
    file = tmp_path / "healed.healed.lora"
    assert file == work.adapter_file() and file.is_file() and not (tmp_path / "healed.edgec.heal").exists()
    assert work.adapter is not None and work.bundle is not None and work.bundle.manifest.adapters is not None
    assert file.read_bytes() == pack_adapter(work.bundle.manifest.adapters, work.adapter.pairs, RANK, "healed")
    plain = tmp_path / "plain.edgec"
    compile_model(source, "phone-8gb", plain, CompileOptions(**common))  # type: ignore[arg-type]
    files = [{p.relative_to(at): p.read_bytes() for p in at.rglob("*") if p.is_file()} for at in (plain, out)]
    assert files[0] == files[1]
    floats = tmp_path / "float.edgec"
    compile_model(source, "phone-8gb", floats, CompileOptions(precision="float32", context_length=64))
    ids = np.random.default_rng(4).integers(3, 130, 24).tolist()
    with edgec.run.load(floats) as model:
        expected = _log_probabilities(model, ids)
    with edgec.run.load(out) as model:
        losses = []
        for adapter in (None, file):
            if adapter is not None:
                model.use_adapter(model.load_adapter(adapter))
            found = _log_probabilities(model, ids)
            losses.append(float((np.exp(expected) * (expected - found)).sum(-1).mean()))
    assert losses[1] < 0.8 * losses[0]


def _log_probabilities(model: edgec.run.Model, ids: list[int]) -> np.ndarray:  # type: ignore[type-arg]
    from edgec.run.decoder import DecoderState

    logits = np.array(list(DecoderState(model.engine).all_logits(ids)), np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (CompileOptions(heal_adapter=5), "needs room"),
        (CompileOptions(heal_adapter=5, adapter_rank=8, heal_steps=5), "the weights, or an adapter"),
        (CompileOptions(heal_adapter=5, adapter_rank=8, slim=0.9), "not a slimmed one"),
    ],
)
def test_what_excludes_it(source: Path, tmp_path: Path, options: CompileOptions, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run_stages(source, "phone-8gb", tmp_path / "out.edgec", options)
    assert not list(tmp_path.iterdir())


def test_its_dump(source: Path, tmp_path: Path) -> None:
    options = CompileOptions(
        bits=4, quantizer="rtn", adapter_rank=8, heal_adapter=2, context_length=64, stop_after="adapter", dump=tmp_path
    )
    work = run_stages(source, "phone-8gb", None, options)
    (file,) = tmp_path.glob("*-adapter/adapter.json")
    assert work.adapter is not None
    assert json.loads(file.read_text())["after"] == work.adapter.after
