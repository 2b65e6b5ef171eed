"""Exports by Optimum itself, of tiny random models; the extra `optimum` pins versions that work together."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import onnxruntime
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from edgec.cache import Cache
from edgec.errors import CorruptFileError, MissingDependencyError, ModelError, UnsupportedError
from edgec.frontend import check, load, optimum
from edgec.ir.model import ModelIR

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz"]
BERT = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}


def run(model: ModelIR, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(onnx_ir.to_proto(model.model).SerializeToString())
    result: np.ndarray = session.run(None, feeds)[0]
    return result


def save(model: torch.nn.Module, folder: Path) -> torch.nn.Module:
    model.eval().save_pretrained(folder)
    return model


def save_sentence_bert(folder: Path) -> torch.nn.Module:
    """A folder as sentence-transformers writes it."""
    torch.manual_seed(1)
    model = save(transformers.BertModel(transformers.BertConfig(**BERT)), folder)
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_truncation(12)
    tokenizer.save(str(folder / "tokenizer.json"))
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 24}')
    return model


def test_sentence_embeddings(tmp_path: Path) -> None:
    reference = save_sentence_bert(tmp_path)
    model = load(tmp_path, name="tiny-bert")

    assert (model.facts.name, model.facts.architecture, model.facts.source_format) == ("tiny-bert", "bert", "optimum")
    assert model.task == {"type": "embedding", "pooling": "mean", "normalize": True, "max_length": 24}
    assert model.tokenizer is not None
    assert Tokenizer.from_str(model.tokenizer.tokenizer_json.decode()).encode("a b " * 9).ids[:3] == [2, 4, 5]
    assert model.model.opset_imports[""] == 23
    for value in model.model.graph.inputs:
        assert value.shape is not None and all(isinstance(dim, onnx_ir.SymbolicDim) for dim in value.shape)

    for batch, sequence in ((1, 5), (3, 11)):
        ids = np.random.default_rng(sequence).integers(4, len(WORDS), (batch, sequence))
        mask = np.ones_like(ids)
        mask[0, -2:] = 0
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        with torch.no_grad():
            expected = reference(**{key: torch.from_numpy(value) for key, value in feeds.items()}).last_hidden_state
        np.testing.assert_allclose(run(model, feeds)[mask == 1], expected.numpy()[mask == 1], atol=1e-4)


def test_an_export_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, exported = tmp_path / "model", []
    folder.mkdir()
    (folder / "config.json").write_text("{}")

    def export(folder: Path, output: Path, task: str) -> None:
        exported.append(task)
        (output / "model.onnx").write_bytes(f"{task}{len(exported)}".encode())

    monkeypatch.setattr(optimum, "_export", export)
    cache = Cache(tmp_path / "cache")

    def once(task: str) -> bytes:
        output = tmp_path / f"output{len(list(tmp_path.iterdir()))}"
        output.mkdir()
        optimum._export_once(folder, output, task, cache)
        return (output / "model.onnx").read_bytes()

    assert (once("a"), once("b"), once("a")) == (b"a1", b"b2", b"a1")
    (folder / "config.json").write_text("[]")
    assert once("a") == b"a3" and exported == ["a", "b", "a"]


@pytest.mark.slow
def test_image_classification(tmp_path: Path) -> None:
    torch.manual_seed(2)
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=8,
        id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1},
    )  # fmt: skip
    reference = save(transformers.ViTForImageClassification(config), tmp_path)
    settings = {"size": {"height": 32, "width": 32}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    model = load(tmp_path)

    assert model.task is not None
    assert (model.task["type"], model.task["labels"]) == ("image-classification", ["cat", "dog"])
    assert model.tokenizer is None
    pixels = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        expected = reference(torch.from_numpy(pixels)).logits.numpy()
    np.testing.assert_allclose(run(model, {"pixel_values": pixels}), expected, atol=1e-4)


@pytest.mark.slow
def test_minilm(minilm_folder: Path) -> None:
    model = load(minilm_folder)
    assert model.tokenizer is not None
    tokenizer = Tokenizer.from_str(model.tokenizer.tokenizer_json.decode())
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(["A man is playing a guitar.", "Nobody plays."])
    feeds = {
        "input_ids": np.array([e.ids for e in encoded]),
        "attention_mask": np.array([e.attention_mask for e in encoded]),
        "token_type_ids": np.array([e.type_ids for e in encoded]),
    }
    reference = transformers.AutoModel.from_pretrained(minilm_folder).eval()
    with torch.no_grad():
        expected = reference(**{key: torch.from_numpy(value) for key, value in feeds.items()}).last_hidden_state
    mask = feeds["attention_mask"] == 1
    np.testing.assert_allclose(run(model, feeds)[mask], expected.numpy()[mask], atol=1e-4)


@pytest.mark.slow
def test_a_task_that_optimum_does_not_know_for_the_model(tmp_path: Path) -> None:
    save_sentence_bert(tmp_path)
    with pytest.raises(UnsupportedError, match="does not export `bert` models for `image-classification`") as caught:
        load(tmp_path, task="image-classification")
    assert "`feature-extraction`" in (caught.value.hint or "")


def test_versions_are_the_pinned_ones() -> None:
    """What `edgec[optimum]` asks for is what these exports were tested with."""
    required = [line.replace('"', "'") for line in importlib.metadata.requires("edgec") or []]
    pins = [line for line in required if "extra == 'optimum'" in line]
    pinned = dict(line.split(";")[0].strip().split("==") for line in pins)
    assert {"optimum", "optimum-onnx", "torch", "transformers"} <= pinned.keys()
    for name, version in pinned.items():
        assert importlib.metadata.version(name).split("+")[0] == version


class TestRefusals:
    """Without starting torch."""

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        save_sentence_bert(tmp_path)
        monkeypatch.setattr(optimum, "_export", lambda *arguments: pytest.fail("the export was started"))
        return tmp_path

    @pytest.mark.parametrize(
        ("fields", "subject"),
        [({"is_encoder_decoder": True}, "is_encoder_decoder"), ({"auto_map": {"AutoModel": "m.M"}}, "auto_map")],
    )
    def test_config(self, fields: dict[str, Any], subject: str, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **fields}))
        assert [problem.subject for problem in check(folder)] == [subject]
        with pytest.raises(UnsupportedError, match=f"`{subject}`"):
            load(folder)

    def test_generation(self, folder: Path) -> None:
        with pytest.raises(UnsupportedError, match="`task` is 'text-generation'"):
            load(folder, task="text-generation")

    def test_pickled_weights(self, folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        with pytest.raises(ModelError, match=r"has no `\*\.safetensors`"):
            load(folder)

    def test_truncated_weights(self, folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(CorruptFileError, match="is truncated"):
            load(folder)

    def test_extra_not_installed(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(optimum, "_installed", lambda: False)
        with pytest.raises(MissingDependencyError) as caught:
            load(folder)
        assert "edgec[optimum]" in (caught.value.hint or "")
