"""Two-tower ONNX graphs become parts, by their outputs or where they meet; the comparison becomes numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgec.errors import UnsupportedError
from edgec.frontend import load
from edgec.ir import GraphPart, ModelIR

RANDOM = np.random.default_rng(3)
IMAGE = {
    "width": 4, "height": 4, "layout": "NCHW", "channels": "RGB", "fit": "stretch", "interpolation": "bilinear",
    "mean": [0, 0, 0], "std": [1, 1, 1],
}  # fmt: skip
TASK = {"type": "text-image-similarity", "text": {"max_length": 6}, "image": IMAGE}
NAMES = ("logits", "text_embeds", "image_embeds")


def save(
    folder: Path,
    *,
    outputs: tuple[str, ...] = NAMES,
    mask: bool = True,
    end: str = "scaled",
    bias: float = -3.0,
    vocabulary: int = 10,
) -> Path:
    """Towers of one matrix each; `end`: how they meet."""
    integers, floats = TensorProto.INT64, TensorProto.FLOAT
    value = helper.make_tensor_value_info
    inputs = [value("input_ids", integers, ["texts", "length"]), value("pixels", floats, ["images", 3, 4, 4])]
    inputs += [value("attention_mask", integers, ["texts", "length"])] * mask
    weights = {
        "table": RANDOM.normal(size=(vocabulary, 5)), "w": RANDOM.normal(size=(48, 5)), "scale": np.array(2.5),
        "bias": np.array(bias), "gate": RANDOM.normal(size=(5,)),
    }  # fmt: skip
    node = helper.make_node
    nodes = [node("Gather", ["table", "input_ids"], ["vectors"])]
    if mask:
        nodes += [
            node("Cast", ["attention_mask"], ["maskf"], to=floats),
            node("Unsqueeze", ["maskf", "last"], ["mask1"]),
            node("Mul", ["vectors", "mask1"], ["masked"]),
        ]
    nodes += [
        node("ReduceSum", ["masked" if mask else "vectors", "one"], ["text_embeds"], keepdims=0),
        node("Flatten", ["pixels"], ["flat"]),
        node("MatMul", ["flat", "w"], ["image_embeds"]),
        node("Transpose", ["image_embeds"], ["turned"], perm=[1, 0]),
    ]
    if end == "scaled":
        nodes += [
            node("MatMul", ["text_embeds", "turned"], ["product"]),
            node("Exp", ["scale"], ["factor"]),
            node("Mul", ["product", "factor"], ["multiplied"]),
            node("Add", ["multiplied", "bias"], ["logits"]),
        ]
    elif end == "gated":
        nodes += [node("Mul", ["text_embeds", "gate"], ["gated"]), node("MatMul", ["gated", "turned"], ["logits"])]
    elif end == "mask":
        nodes += [
            node("MatMul", ["text_embeds", "turned"], ["product"]),
            node("ReduceSum", ["maskf", "one"], ["count"], keepdims=1),
            node("Add", ["product", "count"], ["logits"]),
        ]
    initializers = [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in weights.items()]
    initializers += [numpy_helper.from_array(np.array([at]), name) for name, at in (("one", 1), ("last", -1))]
    graph = helper.make_graph(nodes, "g", inputs, [value(name, floats, [None, None]) for name in outputs], initializers)
    if {"text_embeds", "image_embeds"} & set(outputs):
        for declared in graph.output:
            if declared.name != "logits":
                declared.type.tensor_type.shape.dim[1].dim_value = 5
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def read(path: Path, task: dict[str, Any] | None = None) -> ModelIR:
    (path.parent / "task.json").write_text(json.dumps(task or TASK))
    return load(path, task=str(path.parent / "task.json"))


@pytest.mark.parametrize("outputs", [NAMES, ("logits",)])
def test_split(outputs: tuple[str, ...], tmp_path: Path) -> None:
    """With the vectors among the outputs, and with the logits alone."""
    path = save(tmp_path, outputs=outputs)
    model = read(path)
    assert dict(model.parts) == {
        "text": GraphPart(("input_ids", "attention_mask"), ("text_embeds",)),
        "image": GraphPart(("pixels",), ("image_embeds",)),
    }
    model.verify()
    task = dict(model.task or {})
    assert task["scores"] == "sigmoid" and task["normalize"] is False
    assert [value.name for value in model.model.graph.outputs] == ["text_embeds", "image_embeds"]
    assert not {"Exp", "Transpose"} & {node.op_type for node in model.model.graph}

    feeds = {
        "input_ids": np.array([[1, 2, 3], [4, 5, 9]]),
        "attention_mask": np.array([[1, 1, 1], [1, 1, 0]]),
        "pixels": RANDOM.normal(size=(3, 3, 4, 4)).astype(np.float32),
    }
    [logits] = onnxruntime.InferenceSession(path).run(["logits"], feeds)
    session = onnxruntime.InferenceSession(onnx_ir.to_proto(model.model).SerializeToString())
    text, image = session.run(None, feeds)
    np.testing.assert_allclose(task["scale"] * (text @ image.T) + task["bias"], logits, rtol=1e-4, atol=1e-3)


def test_without_bias_a_softmax(tmp_path: Path) -> None:
    assert (read(save(tmp_path, bias=0.0)).task or {})["scores"] == "softmax"


def test_texts_without_a_mask_have_one_length(tmp_path: Path) -> None:
    model = read(save(tmp_path, mask=False))
    [ids] = [value for value in model.model.graph.inputs if value.name == "input_ids"]
    assert ids.shape is not None and [str(dim) for dim in ids.shape] == ["texts", "6"]


def test_numbers_of_the_task_win(tmp_path: Path) -> None:
    given = {"scale": 7.0, "bias": 1.0, "scores": "softmax", "normalize": True}
    model = read(save(tmp_path, outputs=NAMES[1:], end="nothing"), {**TASK, **given})
    assert {name: (model.task or {})[name] for name in given} == given


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"outputs": NAMES[1:], "end": "nothing"}, "no output that compares texts with images"),
        ({"end": "gated"}, "an output `logits` that is no scaled product"),
        ({"end": "mask"}, "an output `logits` that depends on more than the towers' vectors"),
        ({"outputs": ("logits", "text_embeds")}, "the outputs none that could be vectors of images"),
    ],
)
def test_what_is_no_pair_of_towers(options: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=problem) as caught:
        read(save(tmp_path, **options))
    assert "`image_embeds`" in (caught.value.hint or "")


def test_other_inputs(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "model.onnx"
    )
    with pytest.raises(UnsupportedError, match="it has the inputs `x`"):
        read(tmp_path / "model.onnx")
