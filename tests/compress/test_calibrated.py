"""The whole way on a small seeded language model: what calibrated quantizers gain, judged by onnxruntime."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir
import pytest

from edgec import profiles
from edgec.compress import compress, dequantized_model, generated_samples
from edgec.compress.calibration.generate import generated_windows
from edgec.compress.quantize import QUANTIZERS
from edgec.errors import ModelError, UsageError
from edgec.eval import ReferenceDecoder
from edgec.eval.language import kl_divergence, log_softmax
from edgec.frontend import load
from edgec.ir.model import ModelIR
from edgec.ir.plan import CALIBRATED_QUANTIZERS, Plan
from edgec.passes import simplify
from edgec.pipeline import CompileOptions, run_stages
from edgec.plan import make_plan
from tests.compress.graphs import plan_for, tied_text_model


@pytest.fixture(scope="module")
def llama(tiny_llama: Path) -> ModelIR:
    return simplify(load(str(tiny_llama)))


def plan(model: ModelIR, quantizer: str | None, bits: int) -> Plan:
    return make_plan(model, profiles.load("phone-8gb"), bits=bits, quantizer=quantizer, calibration="given")  # type: ignore[arg-type]


def divergence(model: ModelIR, other: ModelIR, ids: list[list[int]]) -> float:
    """KL in nats per token."""
    total = []
    with ReferenceDecoder(model) as ours, ReferenceDecoder(other) as theirs:
        for window in ids:
            pairs = zip(ours.logits(window), theirs.logits(window), strict=True)
            total += [kl_divergence(log_softmax(a), log_softmax(b)) for a, b in pairs]
    return float(np.mean(total))


def with_structure(model: ModelIR) -> ModelIR:
    """Weights of low rank and uneven norms, so that inputs are correlated as in a trained model."""
    rng = np.random.default_rng(8)
    copy = model.model.clone()
    for name, value in copy.graph.initializers.items():
        shape = tuple(value.const_value.shape.numpy())
        if len(shape) == 2 and name != "rope.inv_freq":
            array = rng.standard_normal((shape[0], 10)) @ rng.standard_normal((10, shape[1])) * 0.03
            array += rng.standard_normal(shape) * 0.02
        elif "norm" in name:
            array = rng.lognormal(-0.5, 0.7, shape)
        else:
            continue
        value.const_value = onnx_ir.Tensor(array.astype(np.float32), name=name)
    return dataclasses.replace(model, model=copy)


def test_each_quantizer_is_better_than_the_one_before(llama: ModelIR) -> None:
    model = with_structure(llama)
    samples = generated_samples(model)
    heldout = list(generated_windows(model, range(len(samples), 16), 96, [0]))
    lost = {}
    for quantizer in ("rtn", "irtn", "gptq"):
        chosen = plan(model, None if quantizer == "gptq" else quantizer, 4)
        compressed = compress(model, chosen, samples=samples)
        compressed.verify()
        assert compressed.report["tensors"]["model.layers.0.mlp.down_proj.weight"]["quantizer"] == quantizer
        lost[quantizer] = divergence(model, dequantized_model(compressed), heldout)
    assert lost["irtn"] < lost["rtn"]
    assert lost["gptq"] < 0.7 * lost["irtn"]


def test_the_planner_takes_gptq_where_it_can(llama: ModelIR) -> None:
    by_name = {tensor.name: tensor.quantizer for tensor in plan(llama, None, 4).tensors}
    assert by_name["model.embed_tokens.weight"] == "irtn"  # tied: it is an embedding, too
    assert by_name["model.layers.0.mlp.down_proj.weight"] == "gptq"
    assert by_name["model.norm.weight"] == "none"
    uncalibrated = make_plan(llama, profiles.load("phone-8gb"), bits=4)
    assert {tensor.quantizer for tensor in uncalibrated.tensors} == {"rtn", "none"}


def test_plans_say_which_quantizers_need_data() -> None:
    assert {name for name, quantizer in QUANTIZERS.items() if quantizer.needs != "nothing"} == set(
        CALIBRATED_QUANTIZERS
    )


def test_without_data_nothing_is_calibrated() -> None:
    model, base = tied_text_model(), plan_for({"linear": 4})
    planned = dataclasses.replace(base, tensors=(dataclasses.replace(base.tensors[0], quantizer="gptq"),))
    with pytest.raises(ModelError, match="`linear` the quantizer `gptq`, which needs calibration data"):
        compress(model, planned)


def test_tables_without_inputs_cannot_be_calibrated(minilm_folder: Path) -> None:
    model = simplify(load(str(minilm_folder)))
    chosen = make_plan(model, profiles.load("phone-8gb"), quantizer="gptq", calibration="given")
    quantizers = {tensor.name: tensor.quantizer for tensor in chosen.tensors}
    assert quantizers["embeddings.word_embeddings.weight"] == "rtn"
    wrong = tuple(
        dataclasses.replace(tensor, quantizer="gptq") if tensor.name == "embeddings.word_embeddings.weight" else tensor
        for tensor in chosen.tensors
    )
    with pytest.raises(ModelError, match="nothing is multiplied with it"):
        compress(model, dataclasses.replace(chosen, tensors=wrong), samples=[])


def test_graphs_need_the_users_data(minilm_folder: Path) -> None:
    options = CompileOptions(quantizer="irtn", stop_after="plan")
    with pytest.raises(UsageError, match="`irtn` needs calibration data"):
        run_stages(minilm_folder, "phone-8gb", options=options)
    with pytest.raises(UsageError, match="a target needs calibration data"):
        run_stages(minilm_folder, "phone-8gb", options=CompileOptions(target_bpw=4.0, stop_after="plan"))


_HASH = """
import hashlib, sys
from edgec.pipeline import CompileOptions, run_stages
work = run_stages(sys.argv[1], "phone-8gb", options=CompileOptions(bits=3, stop_after="compress"))
digest = hashlib.sha256()
for name, tensor in work.compressed.packed.items():
    for array in (tensor.high, tensor.scales, tensor.zeros):
        digest.update(array.tobytes())
print(digest.hexdigest())
"""


def test_the_same_codes_with_any_number_of_threads(tiny_llama: Path) -> None:
    """OpenBLAS takes its number of threads from the environment, as it would from the machine."""
    found = set()
    for threads in ("1", "2", "3"):
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        run = subprocess.run(
            [sys.executable, "-c", _HASH, str(tiny_llama)], env=environment, capture_output=True, text=True, check=True
        )
        found.add(run.stdout)
    assert len(found) == 1
