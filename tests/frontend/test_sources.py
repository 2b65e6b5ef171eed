import shutil
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgec.errors import ModelError, UnsupportedError
from edgec.frontend import check, load
from edgec.frontend.hub import HubSource, parse


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    path = tmp_path / "relu.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def test_hugging_face_folder(tiny_llama: Path) -> None:
    assert load(tiny_llama).facts.name == "tiny-llama"
    assert load(str(tiny_llama), name="other").facts.name == "other"
    assert check(tiny_llama) == []


def test_folder_with_one_model(identity: Path) -> None:
    assert load(identity.parent).facts.name == "relu"


def test_folder_with_two_models(identity: Path) -> None:
    shutil.copy(identity, identity.with_name("other.onnx"))
    with pytest.raises(ModelError, match=r"holds 2 models: other\.onnx, relu\.onnx"):
        load(identity.parent)


def test_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="holds no model"):
        load(tmp_path)


def test_one_file_of_a_model(tiny_llama: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"`model\.safetensors` is one file of a model"):
        load(tiny_llama / "model.safetensors")


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "model.txt").write_bytes(b"")
    with pytest.raises(UnsupportedError, match="of no kind that edgec reads"):
        check(tmp_path / "model.txt")


@pytest.mark.parametrize("source", ["nowhere.gguf", "./no/where", "a" * 5000, "/no/such/folder"])
def test_what_does_not_exist(source: str) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        load(source)


def test_hub_ids() -> None:
    assert parse("org/name") == HubSource("org/name", None)
    assert parse("org/name/q4/model.gguf") == HubSource("org/name", "q4/model.gguf")
    for text in ("name", "/org/name", "org/../name", "org/name with space", "./name", "../name"):
        assert parse(text) is None
