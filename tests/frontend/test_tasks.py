import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from edgec.errors import CorruptFileError, ModelError, UnsafePathError, UnsupportedError
from edgec.frontend.tasks import describe_task, infer_task, read_task


def write(folder: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def modules(*kinds: str, pooling_path: str = "1_Pooling") -> list[dict[str, str]]:
    paths = {"Pooling": pooling_path, "Normalize": "2_Normalize"}
    return [{"type": f"sentence_transformers.models.{kind}", "path": paths.get(kind, "")} for kind in kinds]


MEAN = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}


class TestInference:
    @pytest.mark.parametrize(
        ("architecture", "task"),
        [
            ("BertModel", "feature-extraction"),
            ("DistilBertForSequenceClassification", "text-classification"),
            ("ViTForImageClassification", "image-classification"),
            ("BertForMaskedLM", "fill-mask"),
        ],
    )
    def test_by_architecture(self, architecture: str, task: str, tmp_path: Path) -> None:
        assert infer_task(tmp_path, {"architectures": [architecture]}) == task

    def test_sentence_transformers(self, tmp_path: Path) -> None:
        write(tmp_path, {"modules.json": []})
        assert infer_task(tmp_path, {"architectures": ["BertForMaskedLM"]}) == "feature-extraction"

    def test_unknown(self, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedError, match="does not say what it is for") as caught:
            infer_task(tmp_path, {"architectures": ["Sphinx"]})
        assert "fill-mask" in (caught.value.hint or "")


class TestEmbedding:
    def describe(self, folder: Path, files: dict[str, Any], config: dict[str, Any] | None = None) -> dict[str, Any]:
        return describe_task(write(folder, files), config or {}, "feature-extraction")

    def test_minilm(self, minilm_folder: Path) -> None:
        config = json.loads((minilm_folder / "config.json").read_text())
        assert describe_task(minilm_folder, config, "feature-extraction") == {
            "type": "embedding",
            "pooling": "mean",
            "normalize": True,
            "max_length": 256,
        }

    def test_first_token_without_normalization(self, tmp_path: Path) -> None:
        pooling = {"pooling_mode_cls_token": True, "word_embedding_dimension": 8}
        files = {"modules.json": modules("Transformer", "Pooling"), "1_Pooling/config.json": pooling}
        described = self.describe(tmp_path, files, {"max_position_embeddings": 512})
        assert described == {"type": "embedding", "pooling": "cls", "normalize": False, "max_length": 512}

    @pytest.mark.parametrize(
        "pooling", [{"pooling_mode_max_tokens": True}, {**MEAN, "pooling_mode_cls_token": True}, {}]
    )
    def test_other_poolings(self, pooling: dict[str, bool], tmp_path: Path) -> None:
        files = {"modules.json": modules("Transformer", "Pooling"), "1_Pooling/config.json": pooling}
        with pytest.raises(UnsupportedError, match="the pooling is"):
            self.describe(tmp_path, files)

    def test_other_modules(self, tmp_path: Path) -> None:
        files = {"modules.json": modules("Transformer", "Pooling", "Dense"), "1_Pooling/config.json": MEAN}
        with pytest.raises(UnsupportedError, match="`Dense`"):
            self.describe(tmp_path, files)

    def test_no_pooling(self, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedError, match="has no pooling"):
            self.describe(tmp_path, {"modules.json": modules("Transformer")})

    def test_pooling_outside(self, tmp_path: Path) -> None:
        with pytest.raises(UnsafePathError):
            self.describe(tmp_path, {"modules.json": modules("Transformer", "Pooling", pooling_path="../p")})

    def test_damaged_modules(self, tmp_path: Path) -> None:
        with pytest.raises(CorruptFileError, match=r"modules\.json"):
            self.describe(tmp_path, {"modules.json": '[{"type": 1}'})

    def test_plain_features(self, tmp_path: Path) -> None:
        assert describe_task(tmp_path, {}, "feature-extraction") == {"type": "feature-extraction"}


class TestImages:
    def describe(self, folder: Path, **settings: Any) -> dict[str, Any]:
        write(folder, {"preprocessor_config.json": settings})
        return describe_task(folder, {"id2label": {"1": "dog", "0": "cat"}}, "image-classification")

    def test_resize_and_crop(self, tmp_path: Path) -> None:
        described = self.describe(
            tmp_path,
            size={"shortest_edge": 256},
            do_center_crop=True,
            crop_size={"height": 224, "width": 224},
            resample=3,
            image_mean=[0.5, 0.4, 0.3],
            image_std=[0.2, 0.2, 0.2],
        )
        assert described["labels"] == ["cat", "dog"]
        assert described["scores"] == "logits"
        image = described["image"]
        assert (image["width"], image["height"], image["fit"], image["crop"]) == (224, 224, "crop", 0.875)
        assert image["interpolation"] == "bicubic"
        assert image["mean"] == pytest.approx([127.5, 102.0, 76.5])
        assert image["std"] == pytest.approx([51.0] * 3)

    def test_stretch(self, tmp_path: Path) -> None:
        image = self.describe(tmp_path, size={"height": 96, "width": 128}, do_normalize=False)["image"]
        assert (image["width"], image["height"], image["fit"], image["interpolation"]) == (
            128,
            96,
            "stretch",
            "bilinear",
        )
        assert (image["mean"], image["std"]) == ([0.0] * 3, pytest.approx([255.0] * 3))

    def test_crop_fraction(self, tmp_path: Path) -> None:
        image = self.describe(tmp_path, size={"shortest_edge": 224}, crop_pct=0.875)["image"]
        assert (image["width"], image["fit"], image["crop"]) == (224, "crop", 0.875)

    @pytest.mark.parametrize("settings", [{"size": {"longest_edge": 800}}, {"size": 224, "resample": 1}, {}])
    def test_what_a_runtime_cannot_do(self, settings: dict[str, Any], tmp_path: Path) -> None:
        assert self.describe(tmp_path, **settings) == {"type": "tensors"}


class TestLabels:
    """Texts, tokens and pixels."""

    @pytest.mark.parametrize(
        ("config", "scores"),
        [
            ({"id2label": {"0": "bad", "1": "good"}}, "softmax"),
            ({"id2label": {"0": "LABEL_0"}}, "sigmoid"),
            ({"num_labels": 1}, "sigmoid"),
            ({}, "softmax"),
            ({"id2label": {"0": "a", "1": "b"}, "problem_type": "multi_label_classification"}, "sigmoid"),
            ({"num_labels": 1, "problem_type": "regression"}, "logits"),
            ({"num_labels": 1, "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, "logits"),
            ({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}, "sigmoid"),
        ],
    )
    def test_scores_of_texts(self, config: dict[str, Any], scores: str, tmp_path: Path) -> None:
        assert describe_task(tmp_path, config, "text-classification")["scores"] == scores

    def test_unknown_activation(self, tmp_path: Path) -> None:
        config = {"sentence_transformers": {"activation_fn": "my.module.Squash"}}
        with pytest.raises(UnsupportedError, match=r"my\.module\.Squash"):
            describe_task(tmp_path, config, "text-classification")

    def test_texts(self, tmp_path: Path) -> None:
        write(tmp_path, {"tokenizer_config.json": {"model_max_length": 128}})
        config = {"id2label": {"0": "bad", "1": "good"}, "max_position_embeddings": 512}
        described = {"labels": ["bad", "good"], "max_length": 128}
        found = describe_task(tmp_path, config, "text-classification")
        assert found == {"type": "text-classification", "scores": "softmax", **described}
        found = describe_task(tmp_path, config, "token-classification")
        assert found == {"type": "token-classification", **described}

    def test_positions_that_begin_after_the_padding(self, tmp_path: Path) -> None:
        config = {"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}
        assert describe_task(tmp_path, config, "text-classification")["max_length"] == 512
        assert describe_task(tmp_path, {**config, "model_type": "bert"}, "token-classification")["max_length"] == 514

    def test_pixels(self, tmp_path: Path) -> None:
        write(tmp_path, {"preprocessor_config.json": {"size": {"height": 96, "width": 128}}})
        found = describe_task(tmp_path, {"id2label": {"0": "road", "1": "sky"}}, "semantic-segmentation")
        assert (found["type"], found["labels"], found["image"]["fit"]) == (
            "semantic-segmentation",
            ["road", "sky"],
            "stretch",
        )

    def test_pixels_that_would_be_cut_off(self, tmp_path: Path) -> None:
        write(
            tmp_path,
            {"preprocessor_config.json": {"size": {"shortest_edge": 96}, "crop_size": 64, "do_center_crop": True}},
        )
        assert describe_task(tmp_path, {}, "semantic-segmentation") == {"type": "tensors"}


def test_task_written_by_hand(tmp_path: Path) -> None:
    write(tmp_path, {"good.json": {"type": "image-classification"}, "bad.json": {"labels": []}})
    assert read_task(tmp_path / "good.json") == {"type": "image-classification"}
    with pytest.raises(ModelError, match="has no `type`"):
        read_task(tmp_path / "bad.json")


class TestTwoTowers:
    CONFIG: ClassVar = {"text_config": {"max_position_embeddings": 77}, "vision_config": {}}
    SETTINGS: ClassVar = {"size": {"shortest_edge": 224}, "crop_size": 224, "do_center_crop": True, "resample": 3}

    @pytest.mark.parametrize("task", ["feature-extraction", "zero-shot-image-classification"])
    def test_clip(self, task: str, tmp_path: Path) -> None:
        folder = write(tmp_path, {"preprocessor_config.json": self.SETTINGS})
        described = describe_task(folder, self.CONFIG, task)
        assert described["type"] == "text-image-similarity" and described["text"] == {"max_length": 77}
        assert (described["image"]["width"], described["image"]["fit"]) == (224, "crop")

    def test_unknown_images(self, tmp_path: Path) -> None:
        assert describe_task(tmp_path, self.CONFIG, "feature-extraction") == {"type": "tensors"}
