from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir
import pytest

from edgec.compress import compress, hollow
from edgec.ir.compressed import LARGEST_CODE
from edgec.pipeline import CompileOptions, run_stages
from tests.compress.graphs import plan_for, tied_text_model
from tests.passes.graphs import convolutional_network, encoder


@pytest.mark.parametrize("bits", [2, 4, 5, 7, 8])
def test_sizes_are_those_of_the_real_one(bits: int) -> None:
    model = tied_text_model()
    plan = plan_for(dict.fromkeys(["embed", "linear", "gemm"], bits))
    real, empty = compress(model, plan), hollow(model, plan)
    empty.verify()
    for name, tensor in real.packed.items():
        other = empty.packed[name]
        assert (other.rows, other.columns, other.bits) == (tensor.rows, tensor.columns, tensor.bits)
        for part in ("high", "low", "scales", "zeros"):
            a, b = getattr(tensor, part), getattr(other, part)
            assert (a is None) == (b is None) and (a is None or (a.shape, a.dtype) == (b.shape, b.dtype))
        if other.low is not None:
            codes = np.stack([(other.high >> s & 15) << 4 | other.low >> s & 15 for s in (0, 4)])
            assert codes.max() <= LARGEST_CODE[8]
            assert other.bits == 8 or not (codes & 1).any()


@pytest.mark.parametrize("make", [convolutional_network, encoder])
def test_memory_of_graphs_is_predicted_to_the_byte(make: object, tmp_path: Path) -> None:
    model, _ = make()  # type: ignore[operator]
    onnx_ir.save(model.model, tmp_path / "graph.onnx")
    work = run_stages(tmp_path / "graph.onnx", "phone-8gb", tmp_path / "a.edgec", CompileOptions())
    assert work.plan is not None and work.bundle is not None
    memory, predicted = work.bundle.manifest.memory, work.plan.prediction
    assert predicted.peak_bytes == memory.maximum_bytes
    assert (predicted.weight_bytes, predicted.workspace_bytes) == (memory.weights.bytes, memory.workspace.bytes)
