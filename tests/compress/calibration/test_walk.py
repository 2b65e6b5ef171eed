"""Waves and second moments, judged by onnxruntime on the whole graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import onnx_ir
import onnxruntime
import pytest

from edgec.compress.calibration.moments import Moment, vectors
from edgec.compress.calibration.session import Session
from edgec.compress.calibration.sites import schedule
from edgec.compress.calibration.walk import Walk, joining_wave
from edgec.errors import ModelError
from edgec.ir.model import ModelIR
from edgec.ir.weight_use import weight_uses
from tests.compress.graphs import convolution_model, model_ir, tied_text_model

FLOAT = onnx.TensorProto.FLOAT


def value_of(model: ModelIR, name: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """One intermediate value, from the whole graph."""
    proto = onnx_ir.serde.serialize_model(model.model)
    del proto.graph.output[:]
    proto.graph.output.append(onnx.ValueInfoProto(name=name))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([name], feeds)[0]


def moment_of(rows: np.ndarray) -> np.ndarray:
    rows = rows.reshape(-1, rows.shape[-1]).astype(np.float64)
    return rows.T @ rows / len(rows)


def test_waves_follow_the_graph() -> None:
    model = tied_text_model()
    uses = weight_uses(model.model)
    waves = schedule(model.model.graph, uses, ["embed", "linear", "gemm"]).waves
    assert [wave.weights for wave in waves] == [("linear",), ("gemm",), ("embed",)]
    assert [node.op_type for node in waves[0].nodes] == ["Gather"]
    assert [node.op_type for node in waves[2].nodes] == ["Gemm", "Add"]
    only = schedule(model.model.graph, uses, ["gemm"]).waves
    assert [wave.weights for wave in only] == [("gemm",)]
    assert [node.op_type for node in only[0].nodes] == ["Gather", "MatMul"]
    assert schedule(model.model.graph, uses, []).waves == ()


def test_moments_are_those_of_the_quantized_inputs() -> None:
    model = tied_text_model()
    samples = [{"ids": np.array(ids)} for ids in ([0, 7, 49], [3], [11, 12, 13, 14, 15])]
    names = ["embed", "linear", "gemm"]
    walk = Walk(model, schedule(model.model.graph, weight_uses(model.model), names), samples, ["linear", "gemm"])
    found, changed = {}, np.full((48, 64), 0.25, np.float32)
    for wave, statistics in walk:
        found |= statistics
        if wave.weights == ("linear",):
            walk.replace("linear", changed)
    copy = model.model.clone()
    copy.graph.initializers["linear"].const_value = onnx_ir.Tensor(changed, name="linear")
    quantized = ModelIR(copy, model.kind, model.facts)
    for weight, name, source in (("linear", "x", model), ("gemm", "a", quantized), ("embed", "c", quantized)):
        rows = np.concatenate([value_of(source, name, sample) for sample in samples])
        assert found[weight].count == 9
        np.testing.assert_allclose(found[weight].power, np.diagonal(moment_of(rows)), rtol=2e-4)
        if weight == "embed":
            assert found[weight].second_moment is None
        else:
            np.testing.assert_allclose(found[weight].second_moment, moment_of(rows), rtol=2e-4, atol=1e-4)


def test_a_matrix_with_two_uses_sees_both_inputs() -> None:
    rng = np.random.default_rng(4)
    weights = {"w": rng.standard_normal((6, 6)).astype(np.float32)}
    nodes = [
        oh.make_node("MatMul", ["x", "w"], ["a"]),
        oh.make_node("Relu", ["a"], ["b"]),
        oh.make_node("MatMul", ["b", "w"], ["y"]),
    ]
    x = oh.make_tensor_value_info("x", FLOAT, ["n", 6])
    model = model_ir(nodes, [x], [oh.make_tensor_value_info("y", FLOAT, ["n", 6])], weights)
    feed = {"x": rng.standard_normal((5, 6)).astype(np.float32)}
    (item,) = Walk(model, schedule(model.model.graph, weight_uses(model.model), ["w"]), [feed], ["w"])
    both = np.concatenate([feed["x"], value_of(model, "b", feed)])
    assert item[1]["w"].count == 10
    np.testing.assert_allclose(item[1]["w"].second_moment, moment_of(both), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "attributes"),
    [
        ((3, 3), {"pads": [1, 1, 1, 1]}),
        ((3, 2), {"strides": [2, 1], "pads": [0, 1, 2, 0]}),
        ((3, 3), {"dilations": [2, 1], "pads": [2, 0, 1, 1]}),
        ((3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ((2, 4), {"auto_pad": "SAME_LOWER"}),
        ((1, 1), {"auto_pad": "VALID"}),
    ],
)
def test_patches_times_the_matrix_are_the_convolution(kernel: tuple[int, int], attributes: dict) -> None:
    rng = np.random.default_rng(6)
    weight = rng.standard_normal((7, 5, *kernel)).astype(np.float32)
    nodes = [oh.make_node("Conv", ["x", "w"], ["y"], **attributes)]
    x = oh.make_tensor_value_info("x", FLOAT, ["n", 5, 9, 11])
    model = model_ir(nodes, [x], [oh.make_tensor_value_info("y", FLOAT, ["n", 7, "h", "v"])], {"w": weight})
    image = rng.standard_normal((2, 5, 9, 11)).astype(np.float32)
    uses = weight_uses(model.model)
    (site,) = schedule(model.model.graph, uses, ["w"]).sites["w"]
    rows = vectors(site, image)
    expected = value_of(model, "y", {"x": image})
    got = (rows @ uses["w"].to_matrix(weight).T).reshape(2, *expected.shape[2:], 7).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


class Views:
    """Samples that are made when they are asked for."""

    key, of_each = "views", 3

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for number in range(self._count):
            yield {"image": np.random.default_rng([9, number]).standard_normal((1, 5, 8, 8)).astype(np.float32)}


def test_those_who_join_late_have_passed_through_the_quantized_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(10)
    weights = {
        "wide": rng.standard_normal((64, 5, 3, 3)).astype(np.float32),
        "narrow": rng.standard_normal((24, 64, 1, 1)).astype(np.float32),
        "last": rng.standard_normal((6, 24, 1, 1)).astype(np.float32),
    }
    nodes = [
        oh.make_node("Conv", ["image", "wide"], ["a"], pads=[1, 1, 1, 1]),
        oh.make_node("Conv", ["a", "narrow"], ["b"]),
        oh.make_node("Conv", ["b", "last"], ["y"]),
    ]
    inputs = [oh.make_tensor_value_info("image", FLOAT, [1, 5, 8, 8])]
    model = model_ir(nodes, inputs, [oh.make_tensor_value_info("y", FLOAT, [1, 6, 8, 8])], weights)
    for node, channels in zip(model.model.graph, (64, 24, 6), strict=True):
        node.outputs[0].shape, node.outputs[0].dtype = onnx_ir.Shape([1, channels, 8, 8]), onnx_ir.DataType.FLOAT
    first = [{"image": rng.standard_normal((1, 5, 8, 8)).astype(np.float32)}]
    views, changed = Views(3), {name: np.full(array.shape, 0.125, np.float32) for name, array in weights.items()}
    monkeypatch.setattr("edgec.compress.calibration.walk._MOST_BYTES", 4 * 24 * 64 * 4)  # of `b`, for four samples
    waves = schedule(model.model.graph, weight_uses(model.model), list(weights))
    assert joining_wave(model, waves, 4) == 2 and joining_wave(model, waves, 5) == 3
    walk = Walk(model, waves, first, list(weights), more=views, joining=2)
    statistics = {}
    for wave, seen in walk:
        statistics |= seen
        walk.replace(wave.weights[0], changed[wave.weights[0]])
    assert {name: one.count for name, one in statistics.items()} == {
        "wide": 64,
        "narrow": 64,
        "last": 128,
    }  # alike ones count once
    copy = model.model.clone()
    for name, array in changed.items():
        copy.graph.initializers[name].const_value = onnx_ir.Tensor(array, name=name)
    quantized = ModelIR(copy, model.kind, model.facts)
    rows = np.concatenate([value_of(quantized, "b", s).transpose(0, 2, 3, 1).reshape(-1, 24) for s in [*first, *views]])
    np.testing.assert_allclose(statistics["last"].second_moment, moment_of(rows), rtol=1e-4, atol=1e-4)
    monkeypatch.setattr("edgec.compress.calibration.walk._ENOUGH", 3)
    waves = schedule(model.model.graph, weight_uses(model.model), ["last"])
    (*_, (_, seen)) = Walk(model, waves, first, ["last"], more=views)
    assert seen["last"].count == 43  # every third position


def test_large_pictures_give_some_of_their_patches() -> None:
    model = convolution_model()
    (site,) = schedule(model.model.graph, weight_uses(model.model), ["conv"]).sites["conv"]
    rows = vectors(site, np.ones((1, 5, 130, 130), np.float32))
    assert 1000 < rows.shape[0] <= 4500 and rows.shape[1] == 45


def test_inputs_that_are_not_finite_are_refused() -> None:
    moment = Moment(2, whole=True)
    moment.add(np.array([[1, np.inf]], np.float32))
    with pytest.raises(ModelError, match="inputs of `w` are not finite"):
        moment.statistics("w")


def test_what_onnxruntime_cannot_run_is_said() -> None:
    model = tied_text_model()
    walk = Walk(model, schedule(model.model.graph, weight_uses(model.model), ["gemm"]), [{"ids": np.array([99])}])
    with pytest.raises(ModelError, match="cannot run `tiny` on the calibration data"):
        list(walk)


def test_constants_in_a_file_beside_the_model_are_found(tmp_path: Path) -> None:
    model = tied_text_model()
    onnx_ir.save(model.model, tmp_path / "model.onnx", external_data="model.onnx.data")
    stored = dataclasses.replace(model, model=onnx_ir.load(tmp_path / "model.onnx"))
    sample = {"ids": np.array([0, 7, 49])}
    (expected,), (got,) = (
        Session(each, list(each.model.graph), ["logits"], sample, {})(sample).values() for each in (model, stored)
    )
    np.testing.assert_array_equal(got, expected)
