"""Weights that were quantized elsewhere, in wasm: the codes are the checkpoint's, only activations are rounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgec.run
from edgec.pipeline import CompileOptions, compile_model
from tests.frontend.decoders import reference_logits
from tests.frontend.test_prequantized import KEPT, save_quantized

IDS = np.random.default_rng(8).integers(3, 131, 40).tolist()


@pytest.mark.parametrize("way", KEPT)
def test_logits(way: str, tmp_path: Path) -> None:
    wanted = reference_logits(save_quantized(tmp_path / "model", way), IDS)
    options = CompileOptions(context_length=64)
    bundle = tmp_path / "model.edgec"
    compile_model(tmp_path / "model", "phone-8gb", bundle, options)
    with edgec.run.load(bundle) as running:
        found = np.stack(list(running.logits(IDS)))
    error = np.sqrt(np.square(found - wanted).mean(-1)) / wanted.std()
    assert np.median(error) < 0.03
    assert (found.argmax(-1) == wanted.argmax(-1)).mean() >= 0.95


def test_ternary_weights_are_stored_five_to_a_byte(tmp_path: Path) -> None:
    save_quantized(tmp_path / "ternary", "bitnet", hidden_size=256, intermediate_size=512, head_dim=32)
    save_quantized(tmp_path / "four", "gptq", hidden_size=256, intermediate_size=512, head_dim=32)
    sizes = {}
    for name in ("ternary", "four"):
        bundle = tmp_path / f"{name}.edgec"
        compile_model(tmp_path / name, "phone-8gb", bundle, CompileOptions(context_length=64))
        sizes[name] = sum(file.stat().st_size for file in (bundle / "weights").iterdir())
    matrices = 2 * (256 * (128 + 2 * 64) + 256 * 128 + 3 * 256 * 512)
    assert sizes["four"] - sizes["ternary"] == pytest.approx(matrices * (4 - 1.6) / 8, rel=0.02)
