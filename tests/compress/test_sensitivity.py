"""What one quantized matrix costs, against a plain computation in onnxruntime."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest

from edgec.cache import Cache
from edgec.compress import compress, dequantize, generated_samples, read_samples, sensitivities, sensitivity
from edgec.compress.calibration.session import Session
from edgec.compress.quantize import QUANTIZERS
from edgec.errors import ModelError
from edgec.eval import ReferenceDecoder
from edgec.eval.language import kl_divergence, log_softmax
from edgec.frontend import load
from edgec.ir.plan import PROBE_BITS
from edgec.ir.weight_use import weight_uses
from edgec.passes import simplify
from edgec.pipeline import CompileOptions, run_stages
from edgec.plan import quantizable
from tests.compress.graphs import plan_for, tied_text_model
from tests.heal.networks import classifier, pictures


def test_divergence_of_a_language_model(tiny_llama: Path) -> None:
    model = simplify(load(str(tiny_llama)))
    samples = generated_samples(model)
    names = quantizable(model)
    losses = sensitivities(model, names, samples)
    assert list(losses) == list(names) and all(loss > 0 for loss in losses.values())
    name = "model.layers.1.mlp.down_proj.weight"
    use, copy = weight_uses(model.model)[name], model.model.clone()
    matrix = use.to_matrix(copy.graph.initializers[name].const_value.numpy())
    values = QUANTIZERS["rtn"](PROBE_BITS, None).quantize(np.ascontiguousarray(matrix)).values()
    copy.graph.initializers[name].const_value = onnx_ir.Tensor(use.from_matrix(values), name=name)
    expected = []
    with ReferenceDecoder(model) as ours, ReferenceDecoder(dataclasses.replace(model, model=copy)) as theirs:
        for sample in samples[:2]:
            ids = sample["input_ids"][0].tolist()
            pairs = zip(ours.logits(ids), theirs.logits(ids), strict=True)
            expected += [kl_divergence(log_softmax(a), log_softmax(b)) for a, b in pairs]
    assert losses[name] == pytest.approx(np.mean(expected), rel=1e-3)


def test_only_what_follows_a_block_is_computed_again(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = simplify(load(str(tiny_llama)))
    samples, names = generated_samples(model), quantizable(model)
    lengths: list[int] = []
    monkeypatch.setattr(
        sensitivity, "Session", lambda *given, **more: lengths.append(len(given[1])) or Session(*given, **more)
    )
    losses = sensitivities(model, names, samples)
    assert len(lengths) == 3 and lengths[2] < lengths[1] < lengths[0]  # the whole, and from each of two layers on
    monkeypatch.setattr(sensitivity, "blocks", lambda model: [])
    whole = sensitivities(model, names, samples)
    assert losses == pytest.approx(whole, rel=1e-3)


def test_relative_error_of_a_graph() -> None:
    model = tied_text_model()
    samples = [{"ids": np.array([0, 7, 49])}]
    losses = sensitivities(model, ["linear", "gemm", "embed"], samples)
    assert all(0.001 < loss < 0.2 for loss in losses.values())


def test_losses_of_codes_that_there_are(tmp_path: Path) -> None:
    """Those of a classifier, on as many pictures as are asked for."""
    model = classifier()
    samples = read_samples(model, pictures(tmp_path, 6))
    names = quantizable(model)
    plan = plan_for(dict.fromkeys(names, 4))
    coded = compress(model, plan, samples=samples)
    losses = sensitivities(model, names, samples, coded=coded, pictures=4)
    name = "second.project"
    use, copy = weight_uses(model.model)[name], model.model.clone()
    array = use.from_matrix(dequantize(coded.packed[name]))
    copy.graph.initializers[name].const_value = onnx_ir.Tensor(array, name=name)
    logits = [
        [Session(m, list(m.model.graph), ["logits"], s, {})(s)["logits"][0] for s in samples[:4]]
        for m in (model, dataclasses.replace(model, model=copy))
    ]
    expected = [kl_divergence(log_softmax(a), log_softmax(b)) for a, b in zip(*logits, strict=True)]
    assert losses[name] == pytest.approx(np.mean(expected), rel=1e-3)
    assert losses[name] != pytest.approx(sensitivities(model, names, samples)[name], rel=0.1)


def test_losses_of_codes_are_kept_for_these_codes_alone(tmp_path: Path) -> None:
    model = classifier()
    samples = read_samples(model, pictures(tmp_path, 6))
    names = quantizable(model)
    four, five = (compress(model, plan_for(dict.fromkeys(names, bits)), samples=samples) for bits in (4, 5))
    cache = Cache(tmp_path / "cache")
    for coded in (four, five, None, four):
        kept = sensitivities(model, names, samples, coded=coded, store=cache, source_key="net")
        assert kept == sensitivities(model, names, samples, coded=coded)
    assert cache.counts.saved == 3 * len(names) and cache.counts.reused == len(names)


def test_a_classifier_is_planned_by_the_losses_of_its_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, folder = classifier(), tmp_path / "pictures"
    folder.mkdir()
    onnx.save(onnx_ir.to_proto(model.model), tmp_path / "net.onnx")
    (tmp_path / "task.json").write_text(json.dumps(model.task))
    options = CompileOptions(
        task=str(tmp_path / "task.json"), calibration=pictures(folder, 8), target_bpw=3.5, stop_after="plan"
    )
    plans = []
    for _ in range(2):
        work = run_stages(tmp_path / "net.onnx", "phone-6gb", options=options)
        assert work.plan is not None and work.model is not None
        plans.append(work.plan)
        monkeypatch.setattr("edgec.pipeline.planning._losses_of_codes", lambda *given: None)
    alone = [{t.name: t.reason.split("alone ")[-1] for t in plan.tensors if t.quantized} for plan in plans]
    assert alone[0].keys() == alone[1].keys() == set(quantizable(work.model)) and alone[0] != alone[1]
    sizes = {name: use.elements for name, use in weight_uses(work.model.model).items()}
    bits = [sum(t.bits * sizes[t.name] for t in plan.tensors if t.quantized) for plan in plans]
    assert bits[0] == pytest.approx(bits[1], rel=0.1)


def test_values_that_are_not_finite_are_said() -> None:
    model = tied_text_model()
    array = model.model.graph.initializers["bias"].const_value.numpy().copy()
    array[3] = np.inf
    model.model.graph.initializers["bias"].const_value = onnx_ir.Tensor(array, name="bias")
    with pytest.raises(ModelError, match=r"`bias` has the value inf at \[3\]"):
        sensitivities(model, ["linear"], [{"ids": np.array([1])}])


def test_a_target_is_met_and_the_plan_replays(tiny_llama: Path) -> None:
    options = CompileOptions(target_bpw=4.0, stop_after="compress")
    first = run_stages(tiny_llama, "phone-8gb", options=options)
    assert first.plan is not None and first.compressed is not None
    report = first.compressed.report
    assert 3.6 < report["packed_bytes"] * 8 / report["quantized_parameters"] <= 4.0
    assert len({tensor.bits for tensor in first.plan.tensors} - {32}) > 1
    again = run_stages(tiny_llama, "phone-8gb", options=CompileOptions(plan=first.plan, stop_after="compress"))
    assert again.compressed is not None
    for name, tensor in first.compressed.packed.items():
        assert np.array_equal(tensor.high, again.compressed.packed[name].high)
        assert np.array_equal(tensor.scales, again.compressed.packed[name].scales)


def test_a_target_in_bytes(tiny_llama: Path) -> None:
    options = CompileOptions(target_bytes=250_000, stop_after="plan")
    work = run_stages(tiny_llama, "phone-8gb", options=options)
    assert work.plan is not None
    assert 235_000 < work.plan.prediction.download_bytes <= 250_000
