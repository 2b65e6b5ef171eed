import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgec.errors import ModelError, UnsupportedError
from edgec.frontend import load
from edgec.frontend.hub import HubSource, _wanted
from tests.frontend.hub_server import COMMIT, Hub, serve

# The hub client reads its environment when it is imported, so each download has its own process.
LOAD = """
import json, sys
from edgec.errors import EdgecError
from edgec.frontend import load
for source in sys.argv[1:]:
    try:
        model = load(source)
        print(json.dumps({"name": model.facts.name, "sha256": model.facts.source_sha256}))
    except EdgecError as error:
        print(json.dumps({"error": type(error).__name__, "message": error.message, "hint": error.hint}))
"""


@pytest.fixture
def hub(tiny_llama: Path, tmp_path: Path) -> Iterator[Hub]:
    repository = tmp_path / "hub" / "org" / "tiny"
    shutil.copytree(tiny_llama, repository)
    for unneeded in ("pytorch_model.bin", "original/consolidated.safetensors", "tiny-q4.gguf", "photo.png"):
        (repository / unneeded).parent.mkdir(exist_ok=True)
        (repository / unneeded).write_bytes(b"not needed")
    (repository / "README.md").write_text("---\nlicense: mit\n---\n")
    with serve(tmp_path / "hub") as running:
        yield running


def load_from(hub: Hub, home: Path, *sources: str, **environment: str) -> list[dict[str, Any]]:
    variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment}
    command, everything = [sys.executable, "-c", LOAD, *sources], {**os.environ, **variables}
    finished = subprocess.run(command, env=everything, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in finished.stdout.splitlines()]


def large_model() -> onnx.ModelProto:
    """12 MiB, so that a cut transfer leaves a piece to continue from."""
    weight = numpy_helper.from_array(np.ones((3, 1 << 20), np.float32), "w")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 1 << 20]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def test_only_needed_files_then_from_the_cache(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    model, unknown = load_from(hub, home, "org/tiny", "org/nothing")
    assert model == {"name": "tiny", "sha256": load(tiny_llama).facts.source_sha256}
    assert hub.downloaded() == {path.name for path in tiny_llama.iterdir()} | {"README.md"}
    assert (home / "hub" / "models--org--tiny" / "snapshots" / COMMIT / "config.json").is_file()
    assert unknown["error"] == "ModelError"
    assert unknown["message"] == "`org/nothing` is no local path, and the hub has none that you may read (status 404)"

    for unreachable in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):  # nobody listens there
        cached, absent = load_from(hub, home, "org/tiny", "org/other", **unreachable)
        assert cached == model
        assert absent["error"] == "ModelError"
        assert absent["message"].startswith("`org/other` is no local path and cannot be downloaded: ")
        assert ("HF_HUB_OFFLINE" in absent["hint"]) == ("HF_HUB_OFFLINE" in unreachable)


def test_broken_download_continues(hub: Hub, tmp_path: Path) -> None:
    path = hub.root / "org" / "large" / "model.onnx"
    path.parent.mkdir()
    onnx.save(large_model(), path)
    hub.cut.add("model.onnx")
    results = load_from(hub, tmp_path / "home", "org/large", "org/large")
    if "error" in results[0]:  # the client may give up; the next try continues
        assert results[0]["error"] == "ModelError" and "cannot be downloaded" in results[0]["message"]
    assert results[1] == {"name": "large", "sha256": load(path).facts.source_sha256}
    assert hub.ranges == [f"model.onnx bytes={10 << 20}-"]


class TestChoice:
    def wanted(self, *files: str, file: str | None = None) -> list[str]:
        return _wanted(HubSource("org/name", file), files)

    def test_shards(self) -> None:
        shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        index = "model.safetensors.index.json"
        files = ["config.json", *shards, index, "model.fp16.safetensors", "onnx/model.onnx"]
        assert self.wanted(*files) == ["config.json", *shards, index]

    def test_onnx_with_its_data(self) -> None:
        files = ["config.json", "tokenizer.json", "onnx/model.onnx", "onnx/model.onnx_data", "onnx/model_q4.onnx"]
        assert self.wanted(*files) == ["config.json", "tokenizer.json", "onnx/model.onnx", "onnx/model.onnx_data"]

    def test_one_gguf(self) -> None:
        assert self.wanted("README.md", "q4.gguf") == ["q4.gguf"]

    def test_several_gguf(self) -> None:
        with pytest.raises(ModelError, match="has 2 GGUF files") as caught:
            self.wanted("q4.gguf", "q8.gguf")
        assert "org/name/q4.gguf" in (caught.value.hint or "")
        assert self.wanted("q4.gguf", "q8.gguf", file="q8.gguf") == ["q8.gguf"]

    def test_missing_file(self) -> None:
        with pytest.raises(ModelError, match=r"has no file `q5\.gguf`"):
            self.wanted("q4.gguf", file="q5.gguf")

    def test_only_pickles(self) -> None:
        with pytest.raises(UnsupportedError, match="no weights that edgec reads"):
            self.wanted("config.json", "pytorch_model.bin")
