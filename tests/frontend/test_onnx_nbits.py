"""`com.microsoft.MatMulNBits` against onnxruntime, which has the operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import edgec.run
from edgec import profiles
from edgec.compress import compress
from edgec.errors import ModelError, UnsupportedError
from edgec.frontend import check, load
from edgec.ir.weight_use import weight_uses
from edgec.passes import simplify
from edgec.pipeline import CompileOptions, compile_model
from edgec.plan import make_plan
from tests.frontend.test_onnx import model, run, tensor, value

ROWS = 24
RANDOM = np.random.default_rng(3)


def packed(codes: np.ndarray, bits: int) -> np.ndarray:
    """Rows of codes as bytes, the first code in the lowest bits; the last byte is filled with zeros."""
    each = 8 // bits
    rows = np.pad(codes, ((0, 0), (0, -codes.shape[1] % each))).reshape(codes.shape[0], -1, each)
    return (rows << np.arange(0, 8, bits)).sum(-1).astype(np.uint8)


def nbits(
    columns: int = 96,
    *,
    bits: int = 4,
    block: int = 32,
    zeros: str = "packed",
    bias: bool = False,
    order: bool = False,
    half: bool = False,
    opset: int = 21,
    **attributes: Any,
) -> onnx.ModelProto:
    """x -> MatMulNBits -> Relu -> y"""
    count = -(-columns // block)
    codes = RANDOM.integers(0, 1 << bits, (ROWS, count * block))
    kind, dtype = (TensorProto.FLOAT16, np.float16) if half else (TensorProto.FLOAT, np.float32)
    # Steps that are float16, as those of every quantizer that stores such.
    scales = RANDOM.uniform(0.01, 0.05, (ROWS, count)).astype(np.float16).astype(dtype)
    inputs, weights = ["x", "B", "scales"], [tensor("B", packed(codes, bits).reshape(ROWS, count, -1))]
    weights.append(tensor("scales", scales))
    points = RANDOM.integers(0, 1 << bits, (ROWS, count))
    if zeros == "packed":
        weights.append(tensor("zeros", packed(points, bits)))
    elif zeros != "none":
        weights.append(tensor("zeros", (points + (0.3 if zeros == "between" else 0)).astype(dtype)))
    inputs.append("" if zeros == "none" else "zeros")
    if order:
        index = np.sort(np.arange(columns) // block)
        weights.append(tensor("index", RANDOM.permutation(index).astype(np.int32)))
    inputs.append("index" if order else "")
    if bias:
        weights.append(tensor("bias", RANDOM.normal(size=ROWS).astype(dtype)))
        inputs.append("bias")
    settings = {"K": columns, "N": ROWS, "bits": bits, "block_size": block, **attributes}
    nodes = [
        helper.make_node("MatMulNBits", inputs, ["product"], "linear", domain="com.microsoft", **settings),
        helper.make_node("Relu", ["product"], ["y"]),
    ]
    return model(
        nodes, [value("x", ["n", 3, columns], kind)], [value("y", ["n", 3, ROWS], kind)], weights, opset,
        imports=[helper.make_opsetid("com.microsoft", 1)],
    )  # fmt: skip


def saved(proto: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(proto, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.parametrize("zeros", ["packed", "none", "whole", "between"])
@pytest.mark.parametrize(("columns", "block"), [(96, 32), (160, 64), (256, 128), (80, 16), (70, 32)])
def test_equals_onnxruntime(columns: int, block: int, zeros: str, tmp_path: Path) -> None:
    proto = nbits(columns, block=block, zeros=zeros)
    loaded = load(saved(proto, tmp_path))
    assert [node.op_type for node in loaded.model.graph] == ["MatMul", "Relu"]
    feeds = {"x": RANDOM.normal(size=(2, 3, columns)).astype(np.float32)}
    np.testing.assert_allclose(run(loaded, feeds)[0], run(proto, feeds)[0], atol=2e-5)
    (use,) = weight_uses(loaded.model).values()
    assert use.grid_bits == (4 if block != 16 and zeros != "between" else None)


@pytest.mark.parametrize(
    "options", [{"bits": 8}, {"bits": 2}, {"bias": True}, {"opset": 17}, {"bits": 8, "zeros": "none", "block": 64}]
)
def test_options(options: dict[str, Any], tmp_path: Path) -> None:
    proto = nbits(**options)
    loaded = load(saved(proto, tmp_path))
    feeds = {"x": RANDOM.normal(size=(1, 3, 96)).astype(np.float32)}
    np.testing.assert_allclose(run(loaded, feeds)[0], run(proto, feeds)[0], atol=2e-5)
    (use,) = weight_uses(loaded.model).values()
    assert use.grid_bits == (None if options.get("bits") == 8 else 4)


def test_half_precision(tmp_path: Path) -> None:
    proto = nbits(half=True)
    loaded = load(saved(proto, tmp_path))
    feeds = {"x": RANDOM.normal(size=(1, 3, 96)).astype(np.float16)}
    np.testing.assert_allclose(run(loaded, feeds)[0], run(proto, feeds)[0], atol=0.02)


def test_weights_in_another_file(tmp_path: Path) -> None:
    proto = nbits(256)
    path = tmp_path / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=16)
    loaded = load(path)
    feeds = {"x": RANDOM.normal(size=(1, 3, 256)).astype(np.float32)}
    np.testing.assert_allclose(run(loaded, feeds)[0], run(onnx.load(path), feeds)[0], atol=2e-5)


def test_two_nodes_share_weights(tmp_path: Path) -> None:
    proto = nbits()
    twin = onnx.NodeProto()
    twin.CopyFrom(proto.graph.node[0])
    twin.name, twin.output[0] = "twin", "z"
    proto.graph.node.append(twin)
    proto.graph.output.append(value("z", ["n", 3, ROWS]))
    loaded = load(saved(proto, tmp_path))
    assert list(loaded.model.graph.initializers) == ["B.dequantized"]
    feeds = {"x": RANDOM.normal(size=(1, 3, 96)).astype(np.float32)}
    for found, wanted in zip(run(loaded, feeds), run(proto, feeds), strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-5)


@pytest.mark.parametrize("columns", [96, 70])
def test_codes_are_kept(columns: int, tmp_path: Path) -> None:
    loaded = simplify(load(saved(nbits(columns), tmp_path)))
    compressed = compress(loaded, make_plan(loaded, profiles.load("phone-8gb")))
    (planned,) = (tensor for tensor in compressed.plan.tensors if tensor.bits != 32)
    assert (planned.bits, planned.quantizer) == (4, "grid")
    assert compressed.report["tensors"][planned.name]["relative_rmse"] == 0


@pytest.mark.parametrize(
    ("attributes", "named"), [({"bits": 3}, "bits"), ({"weight_prepacked": 1}, "weight_prepacked")]
)
def test_attributes_that_are_refused(attributes: dict[str, int], named: str, tmp_path: Path) -> None:
    proto = nbits()
    kept = [attribute for attribute in proto.graph.node[0].attribute if attribute.name not in attributes]
    del proto.graph.node[0].attribute[:]
    proto.graph.node[0].attribute.extend(kept)
    proto.graph.node[0].attribute.extend(helper.make_attribute(name, number) for name, number in attributes.items())
    path = saved(proto, tmp_path)
    assert [problem.subject for problem in check(path)] == [f"MatMulNBits (linear).{named}"]
    with pytest.raises(UnsupportedError, match=named):
        load(path)


def test_an_order_of_inputs_is_refused(tmp_path: Path) -> None:
    problems = check(saved(nbits(order=True), tmp_path))
    assert [problem.subject for problem in problems] == ["MatMulNBits (linear).g_idx"]


def test_computed_weights_are_refused(tmp_path: Path) -> None:
    proto = nbits()
    proto.graph.node[0].input[1] = "codes"
    proto.graph.node.insert(0, helper.make_node("Identity", ["B"], ["codes"]))
    assert [problem.subject for problem in check(saved(proto, tmp_path))] == ["MatMulNBits (linear).B"]


@pytest.mark.parametrize("name", ["K", "N", "block_size"])
def test_attributes_of_another_matrix(name: str, tmp_path: Path) -> None:
    proto = nbits()
    for attribute in proto.graph.node[0].attribute:
        if attribute.name == name:
            attribute.i *= 2
    with pytest.raises(ModelError, match=r"MatMulNBits. .linear"):
        load(saved(proto, tmp_path))
    for attribute in proto.graph.node[0].attribute:
        if attribute.name == name:
            attribute.i = 0
    with pytest.raises(ModelError, match=f"`{name}` 0"):
        load(saved(proto, tmp_path))


def test_compiled(tmp_path: Path) -> None:
    proto = nbits(160, block=64, bias=True)
    options = CompileOptions(max_dims={"n": 2}, precision="float32")
    compile_model(saved(proto, tmp_path), "phone-8gb", tmp_path / "floats.edgec", options)
    x = RANDOM.normal(size=(2, 3, 160)).astype(np.float32)
    with edgec.run.load(tmp_path / "floats.edgec") as running:
        np.testing.assert_allclose(running.run({"x": x})["y"], run(proto, {"x": x})[0], atol=2e-5)
