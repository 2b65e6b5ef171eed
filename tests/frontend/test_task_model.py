"""Folders that bring their ONNX file along; `test_optimum.py` has those that must be exported."""

import json
import shutil
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgec.frontend import check, load


@pytest.fixture(params=["model.onnx", "onnx/model.onnx"])
def folder(request: pytest.FixtureRequest, tiny_llama: Path, tmp_path: Path) -> Path:
    shutil.copy(tiny_llama / "tokenizer.json", tmp_path)
    config = {"model_type": "bert", "architectures": ["BertModel"], "vocab_size": 300, "max_position_embeddings": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "modules.json").write_text(
        '[{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "p"}]'
    )
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    path = tmp_path / request.param
    path.parent.mkdir(exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return tmp_path


def test_graph_tokenizer_and_task(folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    model = load(folder, name="tiny")
    assert model.facts.license == "mit"
    assert (model.facts.name, model.facts.architecture, model.facts.source_format) == ("tiny", "bert", "onnx")
    assert model.task == {"type": "embedding", "pooling": "cls", "normalize": False, "max_length": 64}
    assert model.tokenizer is not None and json.loads(model.tokenizer.tokenizer_json)["model"]["type"] == "BPE"


def test_description_by_hand(folder: Path) -> None:
    (folder / "task.json").write_text('{"type": "tensors"}')
    assert load(folder, task=str(folder / "task.json")).task == {"type": "tensors"}


def test_operators_are_checked(folder: Path) -> None:
    assert check(folder, supported_ops={"Relu"}) == []
    assert [problem.subject for problem in check(folder, supported_ops={"Add"})] == ["Relu"]
