"""`compress` and the dequantized reference graph, judged by onnxruntime."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir
import onnxruntime
import pytest

from edgec.compress import compress, dequantize, dequantized_model
from edgec.compress.quantize.channels import round_channels
from edgec.errors import ModelError
from edgec.ir.model import ModelIR
from edgec.ir.narrow import scaled
from edgec.ir.plan import TensorPlan
from tests.compress.graphs import convolution_model, plan_for, tied_text_model


def run(model: ModelIR, feeds: dict[str, np.ndarray]) -> np.ndarray:
    proto = onnx_ir.serde.serialize_model(model.model)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def relative(difference: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(difference) / np.linalg.norm(reference))


def test_text_model_keeps_its_meaning() -> None:
    model = tied_text_model()
    ids = np.array([0, 7, 49])
    reference = run(model, {"ids": ids})
    for bits, tolerance in ((4, 0.2), (8, 0.015)):
        compressed = compress(model, plan_for({"embed": bits, "linear": bits, "gemm": bits, "bias": 32}))
        compressed.verify()
        assert set(compressed.packed) == {"embed", "linear", "gemm"}
        result = run(dequantized_model(compressed), {"ids": ids})
        assert 0 < relative(result - reference, reference) < tolerance
    assert np.array_equal(run(model, {"ids": ids}), reference), "the source model is left as it was"


def test_orientation_rows_are_outputs() -> None:
    model = tied_text_model()
    packed = compress(model, plan_for({"embed": 7, "linear": 7, "gemm": 7})).packed
    assert (packed["embed"].rows, packed["embed"].columns) == (50, 48)
    assert (packed["linear"].rows, packed["linear"].columns) == (64, 48)
    assert (packed["gemm"].rows, packed["gemm"].columns) == (48, 64)
    linear = model.model.graph.initializers["linear"].const_value.numpy()
    np.testing.assert_allclose(dequantize(packed["linear"]), linear.T, atol=0.03)


def test_convolutions() -> None:
    model = convolution_model()
    image = np.random.default_rng(5).standard_normal((1, 5, 8, 8)).astype(np.float32)
    compressed = compress(model, plan_for({"conv": 7, "depthwise": 32, "pointwise": 7}))
    assert (compressed.packed["conv"].rows, compressed.packed["conv"].columns) == (16, 45)
    weight = model.model.graph.initializers["conv"].const_value.numpy()
    channels_last = weight.transpose(0, 2, 3, 1).reshape(16, 45)
    np.testing.assert_allclose(dequantize(compressed.packed["conv"]), channels_last, atol=0.03)
    reference = run(model, {"image": image})
    assert relative(run(dequantized_model(compressed), {"image": image}) - reference, reference) < 0.02


def test_dequantized_rows_are_a_slice_of_the_whole() -> None:
    packed = compress(tied_text_model(vocabulary=1003), plan_for({"embed": 4})).packed["embed"]
    whole = dequantize(packed)
    assert whole.shape == (1003, 48)
    for start, stop in ((0, 1), (5, 23), (500, 1003), (1002, 1003), (7, 7)):
        np.testing.assert_array_equal(dequantize(packed, start, stop), whole[start:stop])


def test_the_top_nibble_is_the_4_bit_code() -> None:
    packed = compress(tied_text_model(), plan_for({"linear": 7})).packed["linear"]
    coarse = type(packed)(packed.name, packed.rows, packed.columns, 4, packed.high, None, packed.scales, packed.zeros)
    step = packed.scales.astype(np.float32).max()
    assert np.abs(dequantize(coarse) - dequantize(packed)).max() <= step


def test_padding_rows_have_scale_zero() -> None:
    packed = compress(tied_text_model(), plan_for({"embed": 4})).packed["embed"]
    assert (packed.scales[-1, :, 50 % 8 :] == 0).all()


def test_report_states_the_measured_error() -> None:
    model = tied_text_model()
    compressed = compress(model, plan_for({"embed": 4, "linear": 7}))
    embed = model.model.graph.initializers["embed"].const_value.numpy()
    entry = compressed.report["tensors"]["embed"]
    difference = dequantize(compressed.packed["embed"]) - embed
    assert entry["relative_rmse"] == pytest.approx(relative(difference, embed), rel=1e-3)
    assert entry["max_abs"] == pytest.approx(np.abs(difference).max(), rel=1e-3)
    assert entry["bytes"] == 7 * 2 * (128 + 16 + 8)
    assert compressed.report["worst_tensor"] == "embed"
    assert compressed.report["quantized_parameters"] == 50 * 48 + 48 * 64


def test_progress_ends_with_everything_done() -> None:
    calls: list[tuple[str, int, int]] = []
    compress(tied_text_model(), plan_for({"linear": 4}), progress=lambda *call: calls.append(call))
    total = 50 * 48 + 2 * 48 * 64 + 48
    assert calls[0] == ("embed", 0, total) and calls[-1] == ("", total, total)
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize(
    ("name", "bits", "index"), [("linear", 4, (33, 63)), ("embed", 7, (49, 3)), ("bias", 32, (5,))]
)
def test_bad_values_are_named(name: str, bits: int, index: tuple[int, ...], value: float) -> None:
    if bits == 32 and np.isfinite(value):
        return
    model = tied_text_model()
    array = model.model.graph.initializers[name].const_value.numpy().copy()
    array[index] = value
    model.model.graph.initializers[name].const_value = onnx_ir.Tensor(array, name=name)
    position = ", ".join(map(str, index))
    with pytest.raises(ModelError, match=rf"`{name}`.*\[{position}\]"):
        compress(model, plan_for({name: bits}))


def test_bad_values_in_convolutions_are_named_by_their_own_index() -> None:
    model = convolution_model()
    array = model.model.graph.initializers["conv"].const_value.numpy().copy()
    array[7, 4, 1, 2] = np.nan
    model.model.graph.initializers["conv"].const_value = onnx_ir.Tensor(array, name="conv")
    with pytest.raises(ModelError, match=r"\[7, 4, 1, 2\]"):
        compress(model, plan_for({"conv": 4}))


def test_plans_that_do_not_match_are_refused() -> None:
    with pytest.raises(ModelError, match="names the tensor `other`"):
        compress(tied_text_model(), plan_for({"other": 4}))
    with pytest.raises(ModelError, match="`bias` 4 bits"):
        compress(tied_text_model(), plan_for({"bias": 4}))
    with pytest.raises(ModelError, match="expected 2 to 8"):
        compress(tied_text_model(), plan_for({"linear": 9}))
    with pytest.raises(ModelError, match="`depthwise` 4 bits"):
        compress(convolution_model(), plan_for({"depthwise": 4}))


def test_half_precision_initializers() -> None:
    model = tied_text_model()
    array = model.model.graph.initializers["linear"].const_value.numpy().astype(np.float16)
    model.model.graph.initializers["linear"].const_value = onnx_ir.Tensor(array, name="linear")
    compressed = compress(model, plan_for({"linear": 7}))
    restored = dequantized_model(compressed).model.graph.initializers["linear"].const_value
    assert restored.dtype == onnx_ir.DataType.FLOAT16
    np.testing.assert_allclose(restored.numpy().astype(np.float32), array.astype(np.float32), atol=0.03)


def test_six_bits_are_seven_bit_codes_with_an_empty_plane() -> None:
    model = tied_text_model()
    compressed = compress(model, plan_for({"embed": 6}))
    packed = compressed.packed["embed"]
    assert packed.bits == 7 and packed.low is not None
    assert not np.any(packed.low & 0x33), "the two low bits of every code are zero"
    entry = compressed.report["tensors"]["embed"]
    assert (entry["bits"], entry["bytes"]) == (6, 7 * 2 * (128 + 64 + 16 + 8))
    embed = model.model.graph.initializers["embed"].const_value.numpy()
    errors = {b: compress(model, plan_for({"embed": b})).report["tensors"]["embed"]["relative_rmse"] for b in (4, 6, 7)}
    assert relative(dequantize(packed) - embed, embed) == pytest.approx(errors[6], rel=1e-3)
    assert errors[7] < errors[6] / 1.7 < errors[4] / 5


def test_floats_of_16_bits_are_bfloat16() -> None:
    model = convolution_model()
    compressed = compress(model, plan_for({"depthwise": 16}))
    before, after = (m.model.graph.initializers["depthwise"].const_value.numpy() for m in (model, compressed.model))
    assert after.dtype == np.float32
    assert not (after.view(np.uint32) & 0xFFFF).any()
    np.testing.assert_allclose(after, before, rtol=2**-8)
    assert (before.view(np.uint32) & 0xFFFF).any()  # the model itself is as it was


def test_filters_with_a_scale_per_channel() -> None:
    model = convolution_model()
    plan = dataclasses.replace(plan_for({}), tensors=(TensorPlan("depthwise", 8, 0, "channels", "test"),))
    before, after = (
        m.model.graph.initializers["depthwise"].const_value.numpy() for m in (model, compress(model, plan).model)
    )
    assert relative(after - before, before) < 0.006
    by_channel = np.ascontiguousarray(after.reshape(16, 9).T)  # as it lies in memory
    stored = scaled(by_channel.view(np.uint8).reshape(-1), 16)
    assert stored is not None and stored.size == 16 * 2 + 16 * 9
    plan = dataclasses.replace(plan_for({}), tensors=(TensorPlan("conv", 8, 0, "channels", "test"),))
    with pytest.raises(ModelError, match="`conv` the scheme `channels`"):
        compress(model, plan)


def test_channels_of_zeros_and_of_any_size() -> None:
    filters = np.random.default_rng(5).standard_normal((4, 1, 3, 3)).astype(np.float32)
    filters *= np.array([1e-30, 1e30, 0, 1], np.float32)[:, None, None, None]
    rounded = round_channels(filters)
    assert not rounded[2].any() and np.all(np.isfinite(rounded))
    for ours, theirs in zip(rounded, filters, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=0.006 * np.abs(theirs).max())


def test_rounded_channels_can_be_stored_and_stay() -> None:
    """Each has a code of 127, which `scaled8` finds the scale by, however its weights were balanced."""
    filters = np.random.default_rng(9).standard_normal((4000, 1, 3, 3)).astype(np.float32)
    rounded = round_channels(filters)
    by_channel = np.ascontiguousarray(rounded.reshape(4000, 9).T)
    assert scaled(by_channel.view(np.uint8).reshape(-1), 4000) is not None
    np.testing.assert_array_equal(round_channels(rounded), rounded)


def test_channels_keep_their_sums() -> None:
    """Each weight is within a step of where it was, each sum within half of one."""
    filters = np.random.default_rng(6).standard_normal((40, 1, 5, 5)).astype(np.float32)
    errors = (round_channels(filters) - filters).reshape(40, 25)
    steps = np.abs(filters).reshape(40, 25).max(axis=1) / 127 * 1.01
    assert np.all(np.abs(errors).max(axis=1) < steps) and np.all(np.abs(errors.sum(axis=1)) < 0.51 * steps)
    assert np.square(errors).mean() < 0.18 * np.square(steps).mean()
