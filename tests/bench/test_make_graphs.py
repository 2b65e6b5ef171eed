"""What graphs.mjs measures is made once, from a table that names what exists."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(BENCH / "make_graphs.py"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """y = 2 x for rows of three."""
    text = '<ir_version: 8, opset_import: ["": 18]> double (float[rows, 3] x) => (float[rows, 3] y) { y = Add(x, x) }'
    path = tmp_path / "double.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def test_a_case_holds_inputs_and_the_outputs_for_them(script: dict[str, Any], model: Path, tmp_path: Path) -> None:
    script["make_case"](tmp_path / "case", model, {"pixels": [-1, 1]}, {"rows": 2})
    case = json.loads((tmp_path / "case" / "case.json").read_text())
    x, y = (np.fromfile(tmp_path / "case" / case[kind][0]["file"], np.float32) for kind in ("inputs", "outputs"))
    assert case["inputs"][0] == {"name": "x", "dtype": "float32", "shape": [2, 3], "file": "inputs-0.bin"}
    assert case["sizes"] == {"rows": 2}
    assert len(np.unique(x)) == 6 and np.abs(x).max() <= 1
    np.testing.assert_array_equal(y, 2 * x)


def test_sizes_can_be_fixed(script: dict[str, Any], model: Path) -> None:
    script["_fix_sizes"](model, {"rows": 4})
    graph = onnx.load(model).graph
    shapes = [value.type.tensor_type.shape.dim[0].dim_value for value in (*graph.input, *graph.output)]
    assert shapes == [4, 4]


def test_what_is_there_stays_and_what_breaks_leaves_nothing(script: dict[str, Any], tmp_path: Path) -> None:
    make, target = script["make"], tmp_path / "folder" / "file"

    def broken(path: Path) -> None:
        path.write_text("half")
        raise ValueError

    with pytest.raises(ValueError):
        make(target, broken)
    assert not target.exists()
    make(target, Path.write_text, "first")
    make(target, Path.write_text, "second")
    assert target.read_text() == "first"
    make(target, Path.write_text, "third", newest=target.stat().st_mtime + 1)
    assert target.read_text() == "third"
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def test_a_source_that_is_not_there_is_named(script: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(script["Skipped"], match=r"`a/b\.onnx` is not there"):
        script["make_float32"](tmp_path / "target", {"file": "a/b.onnx"}, tmp_path)


def test_the_table_is_consistent() -> None:
    table = json.loads((BENCH / "graphs.json").read_text())
    ids = [workload["id"] for workload in table["workloads"]]
    assert len(ids) == len(set(ids))
    for workload in table["workloads"]:
        bounds = table["models"][workload["model"]].get("bounds", {})
        sizes = workload.get("sizes", {})
        assert sizes.keys() == bounds.keys()
        assert all(size <= bounds[name] for name, size in sizes.items())
