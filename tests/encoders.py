"""Encoders and vision models by Optimum, tiny and random: which there are, and how well a bundle computes them.

`tests/conformance/test_encoders.py` compiles some, `tests/conformance/encoders_page.py` all for docs/encoders.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as t

import edgec

SIZE = 32
SEQUENCE = 11
LABELS: dict[str, Any] = {"id2label": {0: "cat", 1: "dog", 2: "tree"}, "label2id": {"cat": 0, "dog": 1, "tree": 2}}
_TEXT: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 40, "pad_token_id": 0, **LABELS,
}  # fmt: skip
_ATTENTION: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": SIZE,
    "patch_size": 8, **LABELS,
}  # fmt: skip
_STAGES: dict[str, Any] = {"depths": [1, 1, 2, 1], "hidden_sizes": [8, 16, 24, 32], **LABELS}
_DEBERTA: dict[str, Any] = {
    **_TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": -1,
    "position_biased_input": False, "type_vocab_size": 0,
}  # fmt: skip
_SWIN: dict[str, Any] = {
    "image_size": SIZE, "patch_size": 2, "embed_dim": 12, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4,
    **LABELS,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """`build` gives a model of random weights; `output` is the field of its result that the graph gives."""

    build: Callable[[], Any]
    task: str
    output: str = "logits"
    exercises: str = ""

    @property
    def text(self) -> bool:
        return self.task in ("feature-extraction", "text-classification", "token-classification", "fill-mask")


def _text(architecture: str, config: str, exercises: str, **changed: Any) -> Case:
    settings = {**_TEXT, **changed}
    kind = next(
        kind for kind in ("SequenceClassification", "TokenClassification", "MaskedLM", "Model") if kind in architecture
    )
    task = {
        "SequenceClassification": "text-classification", "TokenClassification": "token-classification",
        "MaskedLM": "fill-mask", "Model": "feature-extraction",
    }[kind]  # fmt: skip
    output = "last_hidden_state" if kind == "Model" else "logits"
    return Case(lambda: getattr(t, architecture)(getattr(t, config)(**settings)), task, output, exercises)


def _image(architecture: str, config: str, exercises: str, settings: dict[str, Any], output: str = "logits") -> Case:
    task = {
        "ForImageClassification": "image-classification", "ForSemanticSegmentation": "semantic-segmentation",
        "ForObjectDetection": "object-detection", "ForDepthEstimation": "depth-estimation",
    }[architecture[architecture.rindex("For") :]]  # fmt: skip
    return Case(lambda: getattr(t, architecture)(getattr(t, config)(**settings)), task, output, exercises)


# Folders that edgec refuses, or that cannot run, and why.
REFUSED: dict[str, str] = {
    "longformer": "Optimum's export holds for the length that it was traced with alone; onnxruntime fails on it too",
    "nomic_bert": "the architecture is code that comes with the model (`auto_map`), which edgec does not run;"
    " the ONNX file that such a repository brings along is taken",
    "detr, yolos, rt_detr": "as tensors in, tensors out alone: boxes are decoded for YOLOX",
    "mobilevit (segmentation)": "Optimum exports it as `image-segmentation`; its pictures are cut, so that pixels at"
    " the edges would have no class",
}

CASES: dict[str, Case] = {
    "bert": _text("BertForSequenceClassification", "BertConfig", "token types, pooler"),
    "roberta": _text("RobertaForTokenClassification", "RobertaConfig", "positions counted from the padding"),
    "xlm-roberta": _text("XLMRobertaForSequenceClassification", "XLMRobertaConfig", "as RoBERTa"),
    "camembert": _text("CamembertModel", "CamembertConfig", "as RoBERTa"),
    "distilbert": Case(
        lambda: t.DistilBertForSequenceClassification(
            t.DistilBertConfig(
                vocab_size=64, dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=40, **LABELS
            )
        ),
        "text-classification",
        exercises="no token types",
    ),
    "mpnet": _text("MPNetModel", "MPNetConfig", "relative position buckets"),
    "albert": _text("AlbertForSequenceClassification", "AlbertConfig", "layers that share weights", embedding_size=16),
    "electra": _text("ElectraForTokenClassification", "ElectraConfig", "narrower embeddings", embedding_size=16),
    "deberta": _text("DebertaForSequenceClassification", "DebertaConfig", "disentangled attention", **_DEBERTA),
    "deberta-v2": _text(
        "DebertaV2ForSequenceClassification",
        "DebertaV2Config",
        "v3's settings: shared keys, log buckets",
        **_DEBERTA,
        position_buckets=8,
        share_att_key=True,
        norm_rel_ebd="layer_norm",
    ),
    "deberta-v2-conv": _text(
        "DebertaV2ForTokenClassification",
        "DebertaV2Config",
        "v2's settings: a convolution, own keys",
        **_DEBERTA,
        position_buckets=8,
        norm_rel_ebd="layer_norm",
        conv_kernel_size=3,
        conv_act="gelu",
    ),
    "modernbert": _text(
        "ModernBertForSequenceClassification",
        "ModernBertConfig",
        "rotary, local and global layers, GeGLU",
        num_hidden_layers=3,
        local_attention=6,
        global_attn_every_n_layers=2,
        cls_token_id=1,
        sep_token_id=2,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "convbert": _text("ConvBertModel", "ConvBertConfig", "dynamic convolution", embedding_size=16, conv_kernel_size=3),
    "mobilebert": _text(
        "MobileBertForSequenceClassification",
        "MobileBertConfig",
        "bottlenecks",
        embedding_size=16,
        intra_bottleneck_size=16,
        true_hidden_size=16,
    ),
    "squeezebert": _text(
        "SqueezeBertForSequenceClassification", "SqueezeBertConfig", "grouped convolutions", embedding_size=32
    ),
    "roformer": _text("RoFormerForSequenceClassification", "RoFormerConfig", "rotary positions", embedding_size=16),
    "nystromformer": _text(
        "NystromformerForSequenceClassification",
        "NystromformerConfig",
        "Nystrom attention",
        num_landmarks=4,
        segment_means_seq_len=4,
    ),
    "rembert": _text(
        "RemBertForSequenceClassification",
        "RemBertConfig",
        "decoupled embeddings",
        input_embedding_size=16,
        output_embedding_size=16,
    ),
    "ibert": _text("IBertForSequenceClassification", "IBertConfig", "as RoBERTa"),
    "esm": _text(
        "EsmForTokenClassification",
        "EsmConfig",
        "rotary, protein",
        position_embedding_type="rotary",
        mask_token_id=3,
        token_dropout=False,
    ),
    "big_bird": _text(
        "BigBirdForSequenceClassification", "BigBirdConfig", "full attention", attention_type="original_full"
    ),
    "megatron-bert": _text("MegatronBertModel", "MegatronBertConfig", "pre-norm"),
    "data2vec-text": _text("Data2VecTextModel", "Data2VecTextConfig", "as RoBERTa"),
    "qwen2": _text("Qwen2ForSequenceClassification", "Qwen2Config", "causal reranker", num_key_value_heads=2),
    "vit": _image("ViTForImageClassification", "ViTConfig", "patches, class token", _ATTENTION),
    "deit": _image("DeiTForImageClassification", "DeiTConfig", "distillation token", _ATTENTION),
    "beit": _image(
        "BeitForImageClassification",
        "BeitConfig",
        "relative position bias, layer scale",
        {**_ATTENTION, "use_relative_position_bias": True},
    ),
    "data2vec-vision": _image(
        "Data2VecVisionForImageClassification",
        "Data2VecVisionConfig",
        "as BEiT",
        {**_ATTENTION, "use_relative_position_bias": True},
    ),
    "dinov2": _image(
        "Dinov2ForImageClassification",
        "Dinov2Config",
        "layer scale, interpolated positions",
        {**_ATTENTION, "mlp_ratio": 2},
    ),
    "vit_msn": _image("ViTMSNForImageClassification", "ViTMSNConfig", "as ViT", _ATTENTION),
    "swin": _image("SwinForImageClassification", "SwinConfig", "shifted windows", _SWIN),
    "swinv2": _image("Swinv2ForImageClassification", "Swinv2Config", "cosine attention", _SWIN),
    "hiera": _image(
        "HieraForImageClassification",
        "HieraConfig",
        "hierarchical pooling",
        {
            "embed_dim": 8,
            "image_size": [SIZE, SIZE],
            "patch_size": [3, 3],
            "patch_stride": [2, 2],
            "patch_padding": [1, 1],
            "depths": [1, 1, 2],
            "num_heads": [1, 2, 4],
            "num_query_pool": 2,
            "masked_unit_size": [4, 4],
            **LABELS,
        },
    ),
    "convnext": _image(
        "ConvNextForImageClassification", "ConvNextConfig", "depthwise 7x7, channels last norms", _STAGES
    ),
    "convnextv2": _image("ConvNextV2ForImageClassification", "ConvNextV2Config", "global response norm", _STAGES),
    "mobilenet_v1": _image(
        "MobileNetV1ForImageClassification",
        "MobileNetV1Config",
        "separable convolutions",
        {"image_size": SIZE, "depth_multiplier": 0.25, **LABELS},
    ),
    "mobilenet_v2": _image(
        "MobileNetV2ForImageClassification",
        "MobileNetV2Config",
        "inverted residuals, TF padding",
        {"image_size": SIZE, "depth_multiplier": 0.25, **LABELS},
    ),
    "mobilevit": _image(
        "MobileViTForImageClassification",
        "MobileViTConfig",
        "patches unfolded and folded",
        {
            "image_size": SIZE,
            "hidden_sizes": [16, 20, 24],
            "neck_hidden_sizes": [8, 8, 12, 16, 20, 24, 32],
            "num_attention_heads": 2,
            **LABELS,
        },
    ),
    "resnet": _image(
        "ResNetForImageClassification",
        "ResNetConfig",
        "bottlenecks",
        {"embedding_size": 8, "layer_type": "bottleneck", **_STAGES},
    ),
    "regnet": _image(
        "RegNetForImageClassification",
        "RegNetConfig",
        "grouped convolutions, squeeze and excitation",
        {"embedding_size": 8, "groups_width": 4, **_STAGES},
    ),
    "efficientnet": _image(
        "EfficientNetForImageClassification",
        "EfficientNetConfig",
        "squeeze and excitation",
        {"image_size": SIZE, "width_coefficient": 0.2, "depth_coefficient": 0.2, "hidden_dim": 256, **LABELS},
    ),
    "segformer": _image(
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        "spatial reduction, upsampled heads",
        {
            "hidden_sizes": [8, 16, 24, 32],
            "depths": [1, 1, 1, 1],
            "decoder_hidden_size": 16,
            "num_attention_heads": [1, 2, 3, 4],
            "image_size": SIZE,
            **LABELS,
        },
    ),
}


def spread(model: Any, width: float = 0.1) -> Any:
    """Norms and statistics that are not those of a new model."""
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():  # what is saved; rotations are computed again
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=random)
            elif tensor.is_floating_point() and tensor.ndim == 1:
                tensor.add_(torch.empty_like(tensor).normal_(0, 0.1, generator=random))
            elif tensor.is_floating_point() and tensor.ndim == 2:
                tensor.normal_(0, width, generator=random)
    return model.eval()


@dataclass(frozen=True)
class Difference:
    error: float  # the largest one, relative to the largest magnitude, at least 1
    cosine: float


class Encoder:
    """A case exported into `folder`, and what `transformers` computes with it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.case, self.folder = CASES[name], folder
        torch.manual_seed(0)
        self.reference = spread(self.case.build())
        self.reference.save_pretrained(folder)
        if not self.case.text:
            settings = {
                "size": {"height": SIZE, "width": SIZE},
                "resample": 2,
                "image_mean": [0.5] * 3,
                "image_std": [0.5] * 3,
            }
            (folder / "preprocessor_config.json").write_text(json.dumps(settings))
        self.feed = self._feed()
        with torch.no_grad():
            given = {key: torch.from_numpy(value) for key, value in self.feed.items()}
            self.expected = getattr(self.reference(**given), self.case.output).numpy()

    def _feed(self) -> dict[str, np.ndarray]:
        random = np.random.default_rng(0)
        if not self.case.text:
            return {"pixel_values": random.normal(size=(1, 3, SIZE, SIZE)).astype(np.float32)}
        ids = random.integers(4, 60, (1, SEQUENCE))
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    def compile(self, written: Path, **options: Any) -> Path:
        return edgec.compile(self.folder, "laptop-8gb", written, edgec.CompileOptions(**options)).path

    def compare(self, bundle: Path) -> Difference:
        """The bundle's output beside that of `transformers`."""
        with edgec.load(bundle) as model:
            zeros = np.zeros((1, SEQUENCE), np.int64)
            results = model.run({slot.name: self.feed.get(slot.name, zeros) for slot in model.inputs})
            got = next(array for array in results.values() if array.shape == self.expected.shape)
        a, b = self.expected.astype(np.float64).ravel(), got.astype(np.float64).ravel()
        return Difference(
            float(np.abs(a - b).max() / max(1.0, np.abs(a).max())), float(a @ b / np.sqrt((a @ a) * (b @ b)))
        )
