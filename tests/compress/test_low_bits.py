"""2, 3 and 5 bits all the way to a bundle: fewer bytes to download, and the wasm computes what they mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgec
from edgec.compress import dequantized_model
from edgec.eval import ReferenceDecoder
from edgec.ir.plan import Bits
from edgec.pipeline import CompileOptions, Work, run_stages
from edgec.plan.memory import weight_bytes


@pytest.mark.parametrize("bits", ["ternary", 2, 3, 5])
def test_bundles_of_few_bits(tiny_llama: Path, tmp_path: Path, bits: Bits) -> None:
    out = tmp_path / "tiny.edgec"
    work = run_stages(tiny_llama, "phone-8gb", out, CompileOptions(bits=bits, quantizer="irtn"))
    assert work.compressed is not None and work.bundle is not None and work.plan is not None
    stored = sum(entry.bytes for name, entry in work.bundle.manifest.files.items() if name.startswith("weights/"))
    report = work.compressed.report
    assert stored == pytest.approx(report["packed_bytes"] + 4 * report["float_parameters"], rel=0.05)
    assert all(tensor.ternary == (bits == "ternary") for tensor in work.plan.tensors if tensor.quantized)
    check_logits(work, out)


@pytest.mark.parametrize("bits_per_weight", [2.5, 3.5, 4.6])
def test_compact_bundles(tiny_llama: Path, tmp_path: Path, bits_per_weight: float) -> None:
    """Scales and zero points are stored in fewer bits, and mean the same."""
    out = tmp_path / "tiny.edgec"
    work = run_stages(tiny_llama, "phone-8gb", out, CompileOptions(target_bpw=bits_per_weight))
    assert work.compressed is not None and work.bundle is not None and work.plan is not None
    assert all(tensor.compact for tensor in work.plan.tensors if tensor.quantized)
    ops = {segment.op for file in work.bundle.manifest.weights for segment in file.segments}
    assert ("trits" in ops) == any(tensor.ternary for tensor in work.plan.tensors)
    assert "scale8" in ops and ("upper4" in ops or bits_per_weight > 4)
    predicted = weight_bytes(work.compressed.model, work.plan.tensors, stored=True)
    stored = sum(entry.bytes for name, entry in work.bundle.manifest.files.items() if name.startswith("weights/"))
    assert stored == pytest.approx(predicted, rel=0.03)
    check_logits(work, out)


def check_logits(work: Work, out: Path) -> None:
    assert work.compressed is not None
    ids = [0, 17, 200, 31, 8, 99]
    with ReferenceDecoder(dequantized_model(work.compressed)) as reference, edgec.load(out) as model:
        ours, theirs = np.stack(list(model.logits(ids))), np.stack(list(reference.logits(ids)))
    assert np.linalg.norm(ours - theirs) < 0.02 * np.linalg.norm(theirs)  # activations and KV cache are quantized, too
