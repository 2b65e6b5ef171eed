"""Networks that classify pictures are healed from the codes that their quantizers found."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest

from edgec.cache import Cache
from edgec.compress import PictureViews, compress, dequantized_model, float_rounding, read_samples, stored_rows
from edgec.heal.pictures import heal_pictures
from edgec.heal.train import Healed
from edgec.ir.compressed import CompressedModel
from edgec.ir.model import ModelIR
from edgec.ir.plan import Plan, TensorPlan
from edgec.ir.weight_use import is_depthwise_filter, weight_uses
from edgec.pipeline import CompileOptions, run_stages
from edgec.plan import quantizable
from tests.compress.graphs import plan_for
from tests.heal.networks import classifier, pictures

Start = tuple[ModelIR, CompressedModel, PictureViews, Path]


def plan_of(model: ModelIR, bits: int) -> Plan:
    """Compact matrices, and floats of fewer bits as under a target."""
    plan = plan_for(dict.fromkeys(quantizable(model), bits))
    tensors = [dataclasses.replace(tensor, scheme="compact", quantizer="gptq") for tensor in plan.tensors]
    for name, value in model.model.graph.initializers.items():
        if is_depthwise_filter(value):
            tensors.append(TensorPlan(name, 8, 0, "channels", "test"))
        elif name.endswith(".bias"):
            tensors.append(TensorPlan(name, 16, 0, "float", "test", "none"))
    return dataclasses.replace(plan, tensors=tuple(tensors))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    model, folder = classifier(), pictures(tmp_path_factory.mktemp("pictures"), 8)
    compressed = compress(model, plan_of(model, 2), samples=read_samples(model, folder))
    views = PictureViews(model, folder)
    views.of_each = 6
    return model, compressed, views, folder


def arrays(model: ModelIR) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in model.model.graph.initializers.items()}


def test_a_classifier_is_healed_by_its_biases(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    model, compressed, views, _ = start
    monkeypatch.setattr("edgec.heal.pictures._RATE", 4e-3)  # so that a few steps show
    progress: list[tuple[str, int, int]] = []
    healed = heal_pictures(model, compressed, views, steps=40, progress=lambda *step: progress.append(step))
    assert progress[0] == ("views of the pictures", 0, len(views)) and progress[-1] == ("", 40, 40)
    assert healed.after < 0.8 * healed.before
    before, after = arrays(dequantized_model(compressed)), arrays(healed.model)
    changed = {name for name, array in before.items() if not np.array_equal(array, after[name])}
    assert {"second.project.bias", "head.bias"} <= changed
    assert not changed & {*compressed.packed, "first.depthwise"}
    for name in changed:
        rounding = float_rounding(compressed.plan.tensor(name))
        if rounding is not None:
            assert np.array_equal(rounding(after[name]), after[name]), name
    for name, rows in healed.rows.items():
        np.testing.assert_array_equal(weight_uses(model.model)[name].to_matrix(after[name]), rows.values())


def test_first_layers_with_few_weights_stay(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    model, compressed, views, _ = start
    monkeypatch.setattr("edgec.heal.pictures._FRONT", 0.5)
    before, after = (
        arrays(dequantized_model(compressed)),
        arrays(heal_pictures(model, compressed, views, steps=4).model),
    )
    same = {name for name, array in before.items() if np.array_equal(array, after[name])}
    first = {name for name in before if name.startswith(("stem", "project", "first"))}
    assert first < same and not {"second.expand.bias", "second.project.bias", "head.bias"} & same


def test_it_begins_with_what_was_compressed(start: Start) -> None:
    """A step of no size: the packed model, bit for bit."""
    model, compressed, views, _ = start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgec.heal.training.Steps.share", lambda steps, number: 0.0)
        healed = heal_pictures(model, compressed, views, steps=1)
    assert healed.before == healed.after
    for name, array in arrays(dequantized_model(compressed)).items():
        np.testing.assert_array_equal(arrays(healed.model)[name], array, err_msg=name)


def test_training_that_does_harm_is_not_taken(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    model, compressed, views, _ = start
    monkeypatch.setattr("edgec.heal.pictures._RATE", 50.0)
    healed = heal_pictures(model, compressed, views, steps=3)
    assert healed.after == healed.before
    for name, array in arrays(dequantized_model(compressed)).items():
        np.testing.assert_array_equal(arrays(healed.model)[name], array, err_msg=name)


def test_what_is_packed_is_what_was_trained(start: Start) -> None:
    model, compressed, views, _ = start
    healed = heal_pictures(model, compressed, views, steps=3)
    plan = compressed.plan
    tensors = tuple(
        dataclasses.replace(tensor, quantizer="healed") if tensor.name in healed.rows else tensor
        for tensor in plan.tensors
    )
    packed = compress(healed.model, dataclasses.replace(plan, tensors=tensors), healed=healed.rows)
    for name, array in arrays(dequantized_model(packed)).items():
        np.testing.assert_array_equal(array, arrays(healed.model)[name], err_msg=name)


def test_interrupted_training_goes_on_to_the_same_weights(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, compressed, views, _ = start
    whole = heal_pictures(model, compressed, views, steps=5)
    monkeypatch.setattr("edgec.heal.training._SAVE_SECONDS", 0.0)

    def stop(item: str, done: int, total: int) -> None:
        if item.startswith("step") and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        heal_pictures(model, compressed, views, steps=5, folder=tmp_path, progress=stop)
    again = heal_pictures(model, compressed, views, steps=5, folder=tmp_path)
    assert same(again, whole) and again.before == whole.before


def same(a: Healed, b: Healed) -> bool:
    others = arrays(b.model)
    return all(np.array_equal(array, others[name]) for name, array in arrays(a.model).items())


def test_views_are_the_same_everywhere(tmp_path: Path) -> None:
    model = classifier()
    views = PictureViews(model, pictures(tmp_path, 3))
    assert len(views) == 3 * 16  # as many of a picture as there may be
    first, second = list(views), list(PictureViews(model, tmp_path))
    assert all(np.array_equal(a["image"], b["image"]) for a, b in zip(first, second, strict=True))
    assert len({a["image"].tobytes() for a in first}) == len(first)
    assert {a["image"].shape for a in first} == {(1, 3, 24, 24)}
    assert views.key == PictureViews(model, tmp_path).key
    pictures(tmp_path, 4)
    assert views.key != PictureViews(model, tmp_path).key


def test_calibration_looks_at_views(start: Start, tmp_path: Path) -> None:
    """Codes are others than without, the same each time, and those that a store has."""
    model, compressed, views, folder = start
    samples = read_samples(model, folder)
    cache = Cache(tmp_path)
    found = [
        arrays(dequantized_model(compress(model, compressed.plan, samples=samples, more=views, store=store)))
        for store in (None, cache, cache)
    ]
    assert all(np.array_equal(array, other[name]) for other in found[1:] for name, array in found[0].items())
    assert not np.array_equal(found[0]["fc"], arrays(dequantized_model(compressed))["fc"])
    without = arrays(dequantized_model(compress(model, compressed.plan, samples=samples, store=cache)))
    assert np.array_equal(without["fc"], arrays(dequantized_model(compressed))["fc"])


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_stored_rows_are_those_that_were_packed(start: Start, bits: int) -> None:
    model = start[0]
    plan = plan_for(dict.fromkeys(quantizable(model), bits))
    compressed, values = compress(model, plan), arrays(dequantized_model(compress(model, plan)))
    for name, packed in compressed.packed.items():
        planned = plan.tensor(name)
        assert planned is not None
        rows = stored_rows(packed, planned)
        np.testing.assert_array_equal(rows.values(), weight_uses(model.model)[name].to_matrix(values[name]))


def test_a_bundle_of_pictures_is_healed(tmp_path: Path) -> None:
    """The whole way, from a file and a folder of pictures."""
    model = classifier()
    onnx.save(onnx_ir.to_proto(model.model), tmp_path / "net.onnx")
    (tmp_path / "task.json").write_text(json.dumps(model.task))
    folder = tmp_path / "pictures"
    folder.mkdir()
    options = CompileOptions(
        task=str(tmp_path / "task.json"), calibration=pictures(folder, 8), target_bpw=3.0, heal_steps=20
    )
    work = run_stages(tmp_path / "net.onnx", "phone-6gb", tmp_path / "net.edgec", options)
    assert work.bundle is not None and work.plan is not None and work.plan.heal is not None
    assert work.plan.heal.after < work.plan.heal.before
    assert "healed in 20 steps" in (tmp_path / "net.edgec" / "report.html").read_text()
    assert not (tmp_path / "net.edgec.heal").exists()
    assert {tensor.quantizer for tensor in work.plan.tensors if tensor.quantized} == {"healed"}
