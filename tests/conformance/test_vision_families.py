"""Vision models by Optimum, tiny and random: compiled in float32 they compute what transformers computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as t

import edgec

SIZE = 32
LABELS: dict[str, Any] = {"id2label": {0: "cat", 1: "dog", 2: "tree"}, "label2id": {"cat": 0, "dog": 1, "tree": 2}}
ATTENTION: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": SIZE,
    "patch_size": 8,
}  # fmt: skip
STAGES: dict[str, Any] = {"depths": [1, 1, 2, 1], "hidden_sizes": [8, 16, 24, 32]}

MODELS: dict[str, Callable[[], Any]] = {
    "vit": lambda: t.ViTForImageClassification(t.ViTConfig(**ATTENTION, **LABELS)),
    "deit": lambda: t.DeiTForImageClassification(t.DeiTConfig(**ATTENTION, **LABELS)),
    "dinov2": lambda: t.Dinov2ForImageClassification(t.Dinov2Config(**ATTENTION, mlp_ratio=2, **LABELS)),
    "swin": lambda: t.SwinForImageClassification(
        t.SwinConfig(
            image_size=SIZE, patch_size=2, embed_dim=12, depths=[1, 2], num_heads=[2, 4], window_size=4, **LABELS
        )
    ),
    "convnext": lambda: t.ConvNextForImageClassification(t.ConvNextConfig(**STAGES, **LABELS)),
    "convnextv2": lambda: t.ConvNextV2ForImageClassification(t.ConvNextV2Config(**STAGES, **LABELS)),
    "mobilenet_v1": lambda: t.MobileNetV1ForImageClassification(
        t.MobileNetV1Config(image_size=SIZE, depth_multiplier=0.25, **LABELS)
    ),
    "mobilenet_v2": lambda: t.MobileNetV2ForImageClassification(
        t.MobileNetV2Config(image_size=SIZE, depth_multiplier=0.25, **LABELS)
    ),
    "resnet": lambda: t.ResNetForImageClassification(
        t.ResNetConfig(embedding_size=8, layer_type="bottleneck", **STAGES, **LABELS)
    ),
    "efficientnet": lambda: t.EfficientNetForImageClassification(
        t.EfficientNetConfig(image_size=SIZE, width_coefficient=0.2, depth_coefficient=0.2, hidden_dim=256, **LABELS)
    ),
    "segformer": lambda: t.SegformerForSemanticSegmentation(
        t.SegformerConfig(
            hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], decoder_hidden_size=16,
            num_attention_heads=[1, 2, 3, 4], image_size=SIZE, **LABELS,
        )
    ),
}  # fmt: skip


def spread(model: Any) -> Any:
    """Norms and statistics that are not those of a new model."""
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=random)
            elif tensor.is_floating_point() and tensor.ndim == 1:
                tensor.add_(torch.empty_like(tensor).normal_(0, 0.1, generator=random))
            elif tensor.is_floating_point() and tensor.ndim == 2:
                tensor.normal_(0, 0.1, generator=random)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("family", MODELS)
def test_family(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = spread(MODELS[family]())
    source = tmp_path / family
    reference.save_pretrained(source)
    settings = {"size": {"height": SIZE, "width": SIZE}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (source / "preprocessor_config.json").write_text(json.dumps(settings))
    options = edgec.CompileOptions(precision="float32")
    written = edgec.compile(source, "laptop-8gb", tmp_path / "out.edgec", options)
    pixels = np.random.default_rng(0).normal(size=(1, 3, SIZE, SIZE)).astype(np.float32)
    with torch.no_grad():
        expected = reference(torch.from_numpy(pixels)).logits.numpy()
    with edgec.load(written) as model:
        [slot] = model.inputs
        assert slot.shape[1:] == (3, SIZE, SIZE)
        [got] = [array for array in model.run({slot.name: pixels}).values() if array.shape == expected.shape]
        np.testing.assert_allclose(got, expected, atol=2e-5 * max(1.0, float(np.abs(expected).max())), rtol=0)
        if expected.ndim == 2:
            image = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
            assert {entry.label for entry in model.classify(image)} == {"cat", "dog", "tree"}
