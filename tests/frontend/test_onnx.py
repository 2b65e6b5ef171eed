from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgec.errors import CorruptFileError, ModelError, UnsafePathError, UnsupportedError
from edgec.frontend import check, load
from edgec.frontend import onnx as onnx_frontend
from edgec.ir.model import ModelIR

RANDOM = np.random.default_rng(11)


def tensor(name: str, array: np.ndarray) -> TensorProto:
    return numpy_helper.from_array(array, name)


def weight(name: str, *shape: int) -> TensorProto:
    return tensor(name, RANDOM.normal(0, 0.3, shape).astype(np.float32))


def value(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: list[TensorProto],
    opset: int,
    **options: Any,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, weights)
    imports = [helper.make_opsetid("", opset), *options.pop("imports", [])]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, **options)


def run(proto: onnx.ModelProto | ModelIR, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    if isinstance(proto, ModelIR):
        proto = onnx_ir.to_proto(onnx_ir.external_data.load_to_model(proto.model.clone()))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    results: list[np.ndarray] = session.run(None, feeds)
    return results


def detector(opset: int = 11) -> onnx.ModelProto:
    """Convolutions, slices, resize and pooling as old detectors have them; weights are inputs too."""
    nodes = [
        helper.make_node("Slice", ["image", "starts", "ends", "axes", "steps"], ["even"]),
        helper.make_node("Conv", ["even", "kernel", "bias"], ["features"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["features"], ["gate"]),
        helper.make_node("Mul", ["features", "gate"], ["silu"]),
        helper.make_node("MaxPool", ["silu"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Resize", ["pooled", "region", "scales"], ["grown"], mode="nearest"),
        helper.make_node("Concat", ["silu", "grown"], ["both"], axis=1),
        helper.make_node("Reshape", ["both", "shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["boxes"], perm=[0, 2, 1]),
    ]
    weights = [
        tensor("starts", np.array([0], np.int64)),
        tensor("ends", np.array([2**31 - 1], np.int64)),
        tensor("axes", np.array([2], np.int64)),
        tensor("steps", np.array([2], np.int64)),
        weight("kernel", 40, 3, 3, 3),
        weight("bias", 40),
        tensor("region", np.array([], np.float32)),
        tensor("scales", np.array([1, 1, 2, 2], np.float32)),
        tensor("shape", np.array([1, 80, -1], np.int64)),
    ]
    inputs = [value("image", [1, 3, 16, 8])] + [value(w.name, list(w.dims), w.data_type) for w in weights]
    return model(nodes, inputs, [value("boxes", [1, 64, 80])], weights, opset)


def encoder(opset: int = 17) -> onnx.ModelProto:
    """A transformer encoder layer with dynamic batch and sequence."""
    hidden, heads = 32, 4
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["x"]),
        helper.make_node("Shape", ["input_ids"], ["dims"]),
        helper.make_node("Concat", ["dims", "tail"], ["split_shape"], axis=0),
        helper.make_node("Concat", ["dims", "joined"], ["joined_shape"], axis=0),
        helper.make_node("LayerNormalization", ["x", "scale", "shift"], ["normed"], epsilon=1e-12),
    ]
    for name in "qkv":
        nodes += [
            helper.make_node("MatMul", ["normed", f"w{name}"], [f"{name}_flat"]),
            helper.make_node("Reshape", [f"{name}_flat", "split_shape"], [f"{name}_split"]),
            helper.make_node(
                "Transpose", [f"{name}_split"], [name], perm=[0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
            ),
        ]
    nodes += [
        helper.make_node("MatMul", ["q", "k"], ["scores"]),
        helper.make_node("Unsqueeze", ["attention_mask", "mask_axes"], ["mask"]),
        helper.make_node("Cast", ["mask"], ["mask_float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["mask_float", "one"], ["negative"]),
        helper.make_node("Mul", ["negative", "large"], ["added"]),
        helper.make_node("Add", ["scores", "added"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "v"], ["context"]),
        helper.make_node("Transpose", ["context"], ["context_t"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["context_t", "joined_shape"], ["last_hidden_state"]),
    ]
    weights = [
        weight("words", 50, hidden),
        weight("scale", hidden),
        weight("shift", hidden),
        *(weight(f"w{name}", hidden, hidden) for name in "qkv"),
        tensor("tail", np.array([heads, hidden // heads], np.int64)),
        tensor("joined", np.array([hidden], np.int64)),
        tensor("mask_axes", np.array([1, 2], np.int64)),
        tensor("one", np.array(1, np.float32)),
        tensor("large", np.array(1e4, np.float32)),
    ]
    inputs = [value(name, ["batch", "sequence"], TensorProto.INT64) for name in ("input_ids", "attention_mask")]
    return model(nodes, inputs, [value("last_hidden_state", ["batch", "sequence", hidden])], weights, opset)


def save(proto: onnx.ModelProto, folder: Path, *, external: bool = False) -> Path:
    path = folder / "model.onnx"
    if external:
        onnx.save(proto, path, save_as_external_data=True, location="model.data", size_threshold=256)
    else:
        onnx.save(proto, path)
    return path


class TestWholeModels:
    @pytest.mark.parametrize("external", [False, True])
    def test_detector(self, external: bool, tmp_path: Path) -> None:
        original = detector()
        path = save(duplicate(original), tmp_path, external=external)
        feeds = {"image": RANDOM.normal(size=(1, 3, 16, 8)).astype(np.float32)}
        loaded = load(path)
        np.testing.assert_allclose(run(loaded, feeds)[0], run(original, feeds)[0], atol=1e-6)
        assert [graph_input.name for graph_input in loaded.model.graph.inputs] == ["image"]

    @pytest.mark.parametrize("external", [False, True])
    def test_encoder(self, external: bool, tmp_path: Path) -> None:
        original = encoder()
        path = save(duplicate(original), tmp_path, external=external)
        loaded = load(path)
        assert [str(v.shape) for v in loaded.model.graph.inputs] == ["[batch,sequence]"] * 2
        for batch, sequence in ((1, 3), (2, 7)):
            mask = np.ones((batch, sequence), np.int64)
            mask[0, -1] = 0
            feeds = {"input_ids": RANDOM.integers(0, 50, (batch, sequence)), "attention_mask": mask}
            np.testing.assert_allclose(run(loaded, feeds)[0], run(original, feeds)[0], atol=1e-6)

    def test_opset_and_facts(self, tmp_path: Path) -> None:
        loaded = load(save(encoder(), tmp_path), name="tiny")
        assert loaded.model.opset_imports[""] == 23
        assert (loaded.facts.name, loaded.facts.source_format, loaded.kind) == ("tiny", "onnx", "graph")
        assert loaded.facts.parameters == 50 * 32 + 2 * 32 + 3 * 32 * 32 + 2

    def test_newer_opsets_stay(self, tmp_path: Path) -> None:
        relu = helper.make_node("Relu", ["x"], ["y"])
        path = save(model([relu], [value("x", ["n"])], [value("y", ["n"])], [], 24), tmp_path)
        assert load(path).model.opset_imports[""] == 24

    def test_local_functions(self, tmp_path: Path) -> None:
        double = helper.make_function(
            "own", "Double", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
        )
        call = helper.make_node("Double", ["x"], ["y"], domain="own")
        proto = model(
            [call], [value("x", [2])], [value("y", [2])], [], 17, functions=[double],
            imports=[helper.make_opsetid("own", 1)],
        )  # fmt: skip
        loaded = load(save(proto, tmp_path))
        np.testing.assert_array_equal(run(loaded, {"x": np.array([1, 2], np.float32)})[0], [2, 4])

    def test_source_hash_covers_external_data(self, tmp_path: Path) -> None:
        path = save(encoder(), tmp_path, external=True)
        before = load(path).facts.source_sha256
        data = bytearray((tmp_path / "model.data").read_bytes())
        data[0] ^= 1
        (tmp_path / "model.data").write_bytes(data)
        assert load(path).facts.source_sha256 != before

    def test_weights_are_not_read_while_loading(self, tmp_path: Path) -> None:
        loaded = load(save(encoder(), tmp_path, external=True))
        words = loaded.model.graph.initializers["words"].const_value
        assert isinstance(words, onnx_ir.ExternalTensor)
        assert words.numpy().shape == (50, 32)


def duplicate(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy


class TestRefusals:
    def test_foreign_and_unknown_operators_are_all_named(self, tmp_path: Path) -> None:
        nodes = [
            helper.make_node("FusedConv", ["x"], ["a"], domain="com.microsoft"),
            helper.make_node("Frobnicate", ["a"], ["b"]),
            helper.make_node("Gelu", ["b"], ["y"], domain="com.microsoft"),
        ]
        imports = [helper.make_opsetid("com.microsoft", 1)]
        path = save(model(nodes, [value("x", [2])], [value("y", [2])], [], 17, imports=imports), tmp_path)
        subjects = [problem.subject for problem in check(path)]
        assert subjects == ["com.microsoft.FusedConv", "com.microsoft.Gelu", "Frobnicate"]
        with pytest.raises(UnsupportedError, match=r"com\.microsoft\.FusedConv.*com\.microsoft\.Gelu.*Frobnicate"):
            load(path)

    def test_operators_without_a_kernel(self, tmp_path: Path) -> None:
        path = save(encoder(), tmp_path)
        known = {"Gather", "LayerNormalization", "MatMul", "Reshape", "Transpose", "Cast", "Sub", "Mul", "Add"}
        problems = check(path, supported_ops=known)
        # Shape and Concat only compute shapes, which simplifying folds.
        assert [problem.subject for problem in problems] == ["Unsqueeze", "Softmax"]
        assert check(path, supported_ops=known | {"Unsqueeze", "Softmax"}) == []
        with pytest.raises(UnsupportedError, match=r"`Softmax` \(\S+\) is an operator without a kernel"):
            load(path, supported_ops=known)

    def test_operators_in_branches(self, tmp_path: Path) -> None:
        inner = helper.make_graph([helper.make_node("Weird", ["x"], ["t"])], "then", [], [value("t", [2])])
        other = helper.make_graph([helper.make_node("Relu", ["x"], ["e"])], "else", [], [value("e", [2])])
        node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=other)
        inputs = [value("c", [], TensorProto.BOOL), value("x", [2])]
        assert [p.subject for p in check(save(model([node], inputs, [value("y", [2])], [], 17), tmp_path))] == ["Weird"]

    def test_sequences_and_texts(self, tmp_path: Path) -> None:
        sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
        nodes = [helper.make_node("SequenceLength", ["s"], ["n"]), helper.make_node("Identity", ["t"], ["u"])]
        inputs = [sequence, value("t", [1], TensorProto.STRING)]
        outputs = [value("n", [], TensorProto.INT64), value("u", [1], TensorProto.STRING)]
        path = save(model(nodes, inputs, outputs, [], 17), tmp_path)
        assert [problem.subject for problem in check(path)] == ["s", "t", "u"]

    def test_broken_graph(self, tmp_path: Path) -> None:
        path = save(model([helper.make_node("Relu", ["nowhere"], ["y"])], [], [value("y", [2])], [], 17), tmp_path)
        with pytest.raises(ModelError, match="breaks the rules of ONNX"):
            load(path)

    def test_no_opset(self, tmp_path: Path) -> None:
        proto = encoder()
        del proto.opset_import[:]
        with pytest.raises(ModelError, match="does not say which version"):
            load(save(proto, tmp_path))


class TestDamage:
    @pytest.mark.parametrize("data", [b"", b"\xff" * 40, b"<html>not found</html>"])
    def test_no_model(self, data: bytes, tmp_path: Path) -> None:
        (tmp_path / "model.onnx").write_bytes(data)
        with pytest.raises(CorruptFileError, match=r"`model\.onnx`"):
            load(tmp_path / "model.onnx")

    def test_truncated(self, tmp_path: Path) -> None:
        path = save(encoder(), tmp_path)
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(ModelError):
            load(path)

    def test_truncated_external_data(self, tmp_path: Path) -> None:
        path = save(encoder(), tmp_path, external=True)
        data = tmp_path / "model.data"
        data.write_bytes(data.read_bytes()[:-4])
        with pytest.raises(CorruptFileError, match=r"`model\.data` is truncated: tensor `\w+` is at bytes"):
            load(path)

    def test_missing_external_data(self, tmp_path: Path) -> None:
        path = save(encoder(), tmp_path, external=True)
        (tmp_path / "model.data").unlink()
        with pytest.raises(ModelError, match=r"`model\.data` .* is missing"):
            load(path)

    @pytest.mark.parametrize(("key", "text"), [("length", "3"), ("offset", "-1"), ("offset", "1e3")])
    def test_wrong_extent(self, key: str, text: str, tmp_path: Path) -> None:
        path = save(encoder(), tmp_path, external=True)
        proto = onnx.load(path, load_external_data=False)
        for entry in proto.graph.initializer[0].external_data:
            if entry.key == key:
                entry.value = text
        onnx.save(proto, path)
        with pytest.raises(CorruptFileError):
            load(path)


class TestUnsafePaths:
    """Also through subgraphs and attributes, and by symbolic links."""

    @pytest.mark.parametrize("location", ["../secret.data", "/etc/passwd", "a/../../secret.data", "a\\..\\b", ""])
    def test_names(self, location: str, tmp_path: Path) -> None:
        folder = tmp_path / "model"
        folder.mkdir()
        path = save(encoder(), folder, external=True)
        (tmp_path / "secret.data").write_bytes((folder / "model.data").read_bytes())
        proto = onnx.load(path, load_external_data=False)
        redirect(proto.graph.initializer[0], location)
        onnx.save(proto, path)
        with pytest.raises(UnsafePathError, match="is not inside the model's folder"):
            load(path)

    def test_links(self, tmp_path: Path) -> None:
        folder = tmp_path / "model"
        folder.mkdir()
        path = save(encoder(), folder, external=True)
        (folder / "model.data").rename(tmp_path / "secret.data")
        (folder / "model.data").symlink_to(tmp_path / "secret.data")
        with pytest.raises(UnsafePathError):
            load(path)

    def test_constants_in_branches(self, tmp_path: Path) -> None:
        hidden = weight("t", 2)
        hidden.ClearField("raw_data")
        redirect(hidden, "../secret.data")
        inner = helper.make_graph(
            [helper.make_node("Constant", [], ["t"], value=hidden)], "then", [], [value("t", [2])]
        )
        other = helper.make_graph([helper.make_node("Relu", ["x"], ["e"])], "else", [], [value("e", [2])])
        node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=other)
        inputs = [value("c", [], TensorProto.BOOL), value("x", [2])]
        with pytest.raises(UnsafePathError):
            load(save(model([node], inputs, [value("y", [2])], [], 17), tmp_path))


def redirect(tensor_proto: TensorProto, location: str) -> None:
    tensor_proto.data_location = TensorProto.EXTERNAL
    kept = [entry for entry in tensor_proto.external_data if entry.key != "location"]
    del tensor_proto.external_data[:]
    tensor_proto.external_data.add(key="location", value=location)
    tensor_proto.external_data.extend(kept)


def test_task_description_is_carried(tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text('{"type": "logits", "labels": ["cat", "dog"]}')
    loaded = load(save(encoder(), tmp_path), task=str(tmp_path / "task.json"))
    assert loaded.task == {"type": "logits", "labels": ["cat", "dog"]}


def test_direct_call_without_a_task(tmp_path: Path) -> None:
    assert onnx_frontend.load(save(encoder(), tmp_path)).task is None
