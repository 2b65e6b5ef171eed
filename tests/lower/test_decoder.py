"""A whole decoder in wasm against its ONNX graph in onnxruntime."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir
import onnxruntime
import pytest

import edgec.bundle
import edgec.run
from edgec import profiles
from edgec.compress import compress, dequantized_model
from edgec.errors import UnsupportedError
from edgec.frontend import load
from edgec.ir import CompressedModel, LoweredModule, ModelIR
from edgec.ir.model import TURN, TURN_BACK
from edgec.lower.wasm import lower
from edgec.lower.wasm.decoder_match import match_decoder
from edgec.passes import rotate, simplify
from edgec.plan import make_plan

Logits = npt.NDArray[np.float32]
IDS = [3, 99, 41, 41, 7, 250, 12, 63, 5, 81, 190, 33, 2, 77, 140, 9, 18, 201, 64, 150, 11, 30, 222]


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> ModelIR:
    return simplify(load(tiny_llama))


def reference(model: ModelIR) -> Logits:
    """Logits of all positions of `IDS`, in float32."""
    decoder = model.decoder
    assert decoder is not None
    session = onnxruntime.InferenceSession(onnx_ir.to_proto(model.model).SerializeToString())
    empty = np.zeros((1, decoder.kv_heads, 0, decoder.head_dim), np.float32)
    feeds: dict[str, Any] = {value.name: empty for value in session.get_inputs()}
    feeds["input_ids"] = np.array([IDS], np.int64)
    feeds["position_ids"] = np.arange(len(IDS), dtype=np.int64)[None]
    return np.asarray(session.run(["logits"], feeds)[0][0], np.float32)


def compressed(model: ModelIR, **choices: Any) -> CompressedModel:
    plan = make_plan(model, profiles.load("phone-8gb"), context_length=64, **choices)
    return compress(model, dataclasses.replace(plan, prefill_chunk=8))


class Lowered:
    def __init__(self, source: CompressedModel, folder: Path) -> None:
        self.source = source
        self.module: LoweredModule = lower(source)
        self.path = folder / "model.edgec"
        edgec.bundle.write(self.module, model=source.model, plan=source.plan, accuracy={}, out=self.path)

    def logits(self, *, variant: str = "simd128", threads: int = 1) -> Logits:
        with edgec.run.load(self.path, variant=variant, threads=threads) as running:
            return np.stack(list(running.logits(IDS)))

    def decoded(self) -> Logits:
        """The same logits, one `decode` after the other."""
        with edgec.run.load(self.path) as running:
            state = running._require_decoder()
            steps = []
            for token in IDS:
                state.decode(token)
                steps.append(state.logits())
        return np.stack(steps)


@pytest.fixture(scope="module")
def floats(model: ModelIR, tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    return Lowered(compressed(model, precision="float32"), tmp_path_factory.mktemp("floats"))


@pytest.fixture(scope="module")
def quantized(model: ModelIR, tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    return Lowered(compressed(model, bits=4), tmp_path_factory.mktemp("quantized"))


def test_float32_equals_onnxruntime(model: ModelIR, floats: Lowered) -> None:
    np.testing.assert_allclose(floats.logits(), reference(model), rtol=0, atol=2e-5)


def test_quantized_is_close_to_its_dequantized_weights(quantized: Lowered) -> None:
    wanted = reference(dequantized_model(quantized.source))
    error = np.sqrt(np.square(quantized.logits() - wanted).mean())
    assert error < 0.02 * wanted.std()


def test_prefill_equals_decode(floats: Lowered, quantized: Lowered) -> None:
    for lowered in (floats, quantized):
        np.testing.assert_array_equal(lowered.logits(), lowered.decoded())


def test_variants_and_threads_agree_to_the_bit(quantized: Lowered) -> None:
    wanted = quantized.logits()
    for variant, threads in [
        ("relaxed", 1),
        ("relaxed16", 1),
        ("simd128-threads", 2),
        ("relaxed-threads", 2),
        ("relaxed16-threads", 3),
    ]:
        np.testing.assert_array_equal(quantized.logits(variant=variant, threads=threads), wanted)


@pytest.mark.parametrize("quantizer", ["rtn", "hqq"])
def test_scales_of_64_columns(model: ModelIR, tmp_path: Path, quantizer: Any) -> None:
    """Whole rows of 64, and one and a half spans in rows of 96."""
    lowered = Lowered(compressed(model, bits=4, group_size=64, quantizer=quantizer), tmp_path)
    assert {tensor.spans for tensor in lowered.source.packed.values()} == {1, 2}
    wanted = reference(dequantized_model(lowered.source))
    found = lowered.logits()
    assert np.sqrt(np.square(found - wanted).mean()) < 0.02 * wanted.std()
    for variant in ("relaxed", "relaxed16"):
        np.testing.assert_array_equal(lowered.logits(variant=variant), found)
    np.testing.assert_array_equal(lowered.decoded(), found)


def test_a_rotated_stream(tiny_llama: Path, tmp_path: Path) -> None:
    lowered = Lowered(compressed(simplify(rotate(load(tiny_llama))), bits=4), tmp_path)
    packed = lowered.source.packed
    assert all(packed[name].error["relative_rmse"] < 2**-11 for name in (TURN, TURN_BACK))
    wanted = reference(dequantized_model(lowered.source))
    found = lowered.logits()
    assert np.sqrt(np.square(found - wanted).mean()) < 0.02 * wanted.std()
    np.testing.assert_array_equal(lowered.decoded(), found)


def test_same_model_same_modules(quantized: Lowered) -> None:
    assert lower(quantized.source).variants == quantized.module.variants


def test_layers_share_kernels(quantized: Lowered) -> None:
    statistics = quantized.module.statistics
    assert statistics["kernels"] < 16
    assert statistics["calls"] > 20


def test_another_graph_is_refused(model: ModelIR) -> None:
    changed = copy_of(model)
    node = next(node for node in changed.model.graph if node.op_type == "Sigmoid")
    node.op_type = "Tanh"
    with pytest.raises(UnsupportedError, match="expected `Sigmoid`"):
        match_decoder(changed)


def copy_of(model: ModelIR) -> ModelIR:
    return dataclasses.replace(model, model=model.model.clone())
