"""What is left of a model, by each measure."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from edgec.compress import Agreement, compress, generated_samples, held_out
from edgec.frontend import load
from edgec.ir.model import ModelIR
from edgec.passes import simplify
from edgec.pipeline import CompileOptions, run_stages
from tests.compress.graphs import plan_for, tied_text_model


def falling(model: ModelIR, agreement: Agreement, names: list[str]) -> list[float]:
    found = [agreement(compress(model, plan_for(dict.fromkeys(names, bits)))) for bits in (32, 8, 4, 2)]
    assert found[0] == pytest.approx(1, abs=1e-6)
    assert found == sorted(found, reverse=True) and found[-1] < 0.99
    return found


def test_language_models(tiny_llama: Path) -> None:
    model = simplify(load(str(tiny_llama)))
    calibrated, judged = held_out(generated_samples(model))
    assert len(judged) == len(calibrated) // 3 > 0
    agreement = Agreement(model, judged)
    assert "KL" in agreement.measure
    falling(model, agreement, [f"model.layers.{i}.mlp.down_proj.weight" for i in range(2)])


def test_graphs_and_embeddings() -> None:
    model = tied_text_model()
    samples = [{"ids": np.array([i, i + 9, 49 - i])} for i in range(12)]
    names = ["embed", "linear", "gemm"]
    falling(model, Agreement(model, samples), names)
    embedding = dataclasses.replace(model, task={"type": "embedding", "pooling": "mean"})
    agreement = Agreement(embedding, samples)
    assert agreement.measure.startswith("Spearman")
    falling(embedding, agreement, names)


def test_few_samples_are_calibrated_on_and_judged_by() -> None:
    few = [{"ids": np.array([1])}] * 3
    assert held_out(few) == (few, few)


def test_the_plan_says_what_was_reached_and_can_be_replayed(tiny_llama: Path, tmp_path: Path) -> None:
    options = CompileOptions(min_accuracy=0.97)
    work = run_stages(tiny_llama, "phone-8gb", tmp_path / "a.edgec", options)
    assert work.plan is not None and work.plan.accuracy is not None and work.bundle is not None
    accuracy = work.plan.accuracy
    assert 0.97 <= accuracy.reached <= 1 and len(accuracy.trials) > 1
    assert "Accuracy that was asked for" in (tmp_path / "a.edgec" / "report.html").read_text()
    assert work.bundle.manifest.plan["accuracy"]["reached"] == accuracy.reached
    again = run_stages(tiny_llama, "phone-8gb", tmp_path / "b.edgec", CompileOptions(plan=work.plan))
    assert again.bundle is not None
    assert {n: f.sha256 for n, f in again.bundle.manifest.files.items()} == {
        n: f.sha256 for n, f in work.bundle.manifest.files.items()
    }
