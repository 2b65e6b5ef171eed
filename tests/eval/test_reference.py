from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir
import pytest

from edgec.errors import ModelError, UsageError
from edgec.eval.reference import ReferenceDecoder, ReferenceGraph, open_reference
from edgec.frontend import load
from edgec.ir import ModelFacts, ModelIR


def graph_model() -> ModelIR:
    """y = x @ w over [batch, 3], and its Relu."""
    weight = np.arange(6, dtype=np.float32).reshape(3, 2)
    x = onnx_ir.val("x", onnx_ir.DataType.FLOAT, ["batch", 3])
    w = onnx_ir.Value(name="w", const_value=onnx_ir.tensor(weight, name="w"))
    product = onnx_ir.Node("", "MatMul", [x, w], num_outputs=1)
    product.outputs[0].name = "y"
    relu = onnx_ir.Node("", "Relu", product.outputs, num_outputs=1)
    relu.outputs[0].name = "z"
    for node in (product, relu):
        node.outputs[0].type = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
        node.outputs[0].shape = onnx_ir.Shape(["batch", 2])
    outputs = [product.outputs[0], relu.outputs[0]]
    graph = onnx_ir.Graph([x], outputs, nodes=[product, relu], initializers=[w], opset_imports={"": 23}, name="g")
    return ModelIR(onnx_ir.Model(graph, ir_version=10), "graph", ModelFacts("g", "onnx", "onnx", "0" * 64, 6))


def test_the_cache_gives_the_same_logits_as_one_step(tiny_llama: Path) -> None:
    ids = [int(id) for id in np.random.default_rng(0).integers(0, 200, 100)]
    with ReferenceDecoder(load(str(tiny_llama)), threads=1) as reference:
        whole = reference.step(ids)
        streamed = np.stack(list(reference.logits(ids)))  # 64 and 36 ids
        reference.reset()
        single = np.concatenate([reference.step([id]) for id in ids[:10]])
    assert whole.dtype == np.float32 and whole.shape == streamed.shape
    np.testing.assert_allclose(streamed, whole, atol=2e-5)
    np.testing.assert_allclose(single, whole[:10], atol=2e-5)


def test_greedy_takes_the_most_likely(tiny_llama: Path) -> None:
    model = load(str(tiny_llama))
    with ReferenceDecoder(model, threads=1) as reference:
        answer = reference.greedy([1, 2, 3], 6)
        ids = [1, 2, 3]
        for token in answer:
            rows = list(reference.logits(ids))
            assert token == int(np.argmax(rows[-1]))
            ids.append(token)
    assert model.tokenizer is not None
    assert len(answer) == 6 or int(np.argmax(list(reference.logits(ids))[-1])) in model.tokenizer.eos_token_ids


def test_a_graph_runs_by_names() -> None:
    with ReferenceGraph(graph_model(), threads=1) as reference:
        [slot] = reference.inputs
        assert (slot.name, slot.dtype, slot.shape) == ("x", "float32", ("batch", 3))
        out = reference.run({"x": [[1, 0, -1], [0, 1, 0]]})
    assert list(out) == ["y", "z"]
    assert out["y"].tolist() == [[-4, -4], [2, 3]] and out["z"].tolist() == [[0, 0], [2, 3]]


def test_the_kind_decides(tiny_llama: Path) -> None:
    with open_reference(graph_model(), threads=1) as reference:
        assert isinstance(reference, ReferenceGraph)
    with pytest.raises(UsageError, match="not a language model"):
        ReferenceDecoder(graph_model())


def test_nothing_stays_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    reference = ReferenceGraph(graph_model(), threads=1)
    assert len(list(tmp_path.iterdir())) == 1
    reference.close()
    reference.close()
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_onnxruntime_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = graph_model()
    next(iter(model.model.graph)).op_type = "NoSuchOperator"
    with pytest.raises(ModelError, match="onnxruntime cannot run `g`"):
        ReferenceGraph(model, threads=1)
    assert list(tmp_path.iterdir()) == []
