"""AWQ's scales in a graph: the same function, other weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from edgec import profiles
from edgec.compress import compress, dequantized_model, generated_samples
from edgec.compress.scaling import scaled
from edgec.errors import ModelError
from edgec.eval import ReferenceDecoder
from edgec.frontend import load
from edgec.ir.model import ModelIR
from edgec.ir.plan import Plan
from edgec.passes import simplify
from edgec.plan import make_plan

IDS = [1, 7, 30, 4, 2, 90, 11, 3]


@pytest.fixture(scope="module")
def llama(tiny_llama: Path) -> ModelIR:
    return simplify(load(str(tiny_llama)))


def plan(model: ModelIR, bits: int = 3) -> Plan:
    return make_plan(model, profiles.load("phone-8gb"), bits=bits, quantizer="awq", calibration="given")


def logits(model: ModelIR) -> np.ndarray:
    with ReferenceDecoder(model) as reference:
        return np.stack(list(reference.logits(IDS)))


def array(model: ModelIR, name: str) -> np.ndarray:
    return model.model.graph.initializers[name].const_value.numpy()


def test_the_same_function(llama: ModelIR) -> None:
    samples = generated_samples(llama, tokens=256)
    found = scaled(llama, plan(llama).tensors, samples)
    np.testing.assert_allclose(logits(found), logits(llama), rtol=0, atol=1e-4)
    norm = "model.layers.0.input_layernorm.weight"
    changed = array(found, norm) / array(llama, norm)
    weight = "model.layers.0.self_attn.q_k_v_proj.weight"
    np.testing.assert_allclose(array(found, weight), array(llama, weight) / changed[:, None], rtol=1e-5)
    other = "model.layers.0.self_attn.o_proj.weight"  # no norm is before it
    np.testing.assert_array_equal(array(found, other), array(llama, other))


def test_norms_whose_readers_are_not_all_scaled_stay(llama: ModelIR) -> None:
    given = [t for t in plan(llama).tensors if "o_proj" in t.name or "down" in t.name]
    assert scaled(llama, given, generated_samples(llama, tokens=256)) is llama


def test_compressed(llama: ModelIR) -> None:
    samples = generated_samples(llama, tokens=256)
    packed = compress(llama, plan(llama, 6), samples=samples)
    assert {packed.report["tensors"][name]["quantizer"] for name in packed.packed} <= {"awq", "rtn"}
    wanted, found = logits(llama), logits(dequantized_model(packed))
    assert np.square(found - wanted).mean() < 0.01 * wanted.var()


def test_needs_data(llama: ModelIR) -> None:
    with pytest.raises(ModelError, match="the quantizer `awq`, which needs calibration data"):
        compress(llama, plan(llama))
    asked = dataclasses.replace(plan(llama), tensors=())
    assert compress(llama, asked).packed == {}
