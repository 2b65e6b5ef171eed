"""Encoders and vision models by Optimum, tiny and random: compiled in float32 they compute what transformers computes.

`make encoders` measures all of `tests/encoders.py`, quantized too, for docs/encoders.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgec
from tests.encoders import Encoder

TEXTS = ("albert", "deberta", "deberta-v2-conv", "modernbert", "mpnet")
IMAGES = (
    *("vit", "deit", "dinov2", "swin", "convnext", "convnextv2", "mobilenet_v1", "mobilenet_v2", "resnet"),
    *("efficientnet", "segformer", "beit", "mobilevit"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TEXTS, *IMAGES])
def test_encoder(name: str, tmp_path: Path) -> None:
    encoder = Encoder(name, tmp_path / "model")
    written = encoder.compile(tmp_path / "out.edgec", precision="float32")
    assert encoder.compare(written).error <= 2e-5
    if encoder.case.task == "image-classification":
        image = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        with edgec.load(written) as model:
            assert {entry.label for entry in model.classify(image)} == {"cat", "dog", "tree"}
