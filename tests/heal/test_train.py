"""Healing brings a rounded model back to the original, in steps that can be interrupted and repeated."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from edgec.compress import Sample, compress, dequantized_model, generated_samples, whole_samples
from edgec.compress.prune.depth import remove_blocks
from edgec.compress.prune.token_choice import covering_ids
from edgec.compress.prune.vocabulary import prune_vocabulary
from edgec.errors import MissingDependencyError, UnsupportedError, UsageError
from edgec.frontend import load
from edgec.heal.train import Healed, heal
from edgec.ir.model import ModelIR
from edgec.ir.plan import Plan
from edgec.ir.weight_use import weight_uses
from edgec.passes import simplify
from edgec.pipeline import CompileOptions, run_stages
from edgec.plan import quantizable
from tests.compress.graphs import plan_for
from tests.compress.prune import encoders
from tests.compress.prune.test_vocabulary import decoder as tokenized_decoder
from tests.frontend.decoders import save_reference


def plan_of(model: ModelIR, bits: int) -> Plan:
    return plan_for(dict.fromkeys(quantizable(model), bits))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelIR, list[Sample]]:
    folder = tmp_path_factory.mktemp("llama")
    save_reference(folder, "llama", num_hidden_layers=3)
    model = simplify(load(str(folder)))
    return model, generated_samples(model)


def test_two_bits_are_healed(decoder: tuple[ModelIR, list[Sample]]) -> None:
    model, samples = decoder
    progress: list[tuple[int, int]] = []
    healed = heal(
        model,
        model,
        plan_of(model, 2),
        samples,
        steps=50,
        progress=lambda _, done, total: progress.append((done, total)),
    )
    assert healed.steps == 50 and progress[-1] == (50, 50) and progress[0] == (0, 50)
    assert healed.after < 0.7 * healed.before
    # The model that comes out has the values that the codes mean.
    for name, rows in healed.rows.items():
        use = weight_uses(model.model)[name]
        array = healed.model.model.graph.initializers[name].const_value.numpy()
        np.testing.assert_array_equal(use.to_matrix(array), rows.values())


def test_what_is_packed_is_what_was_trained(decoder: tuple[ModelIR, list[Sample]]) -> None:
    model, samples = decoder
    plan = plan_of(model, 3)
    healed = heal(model, model, plan, samples, steps=2)
    tensors = tuple(dataclasses.replace(tensor, quantizer="healed") for tensor in plan.tensors)
    packed = compress(healed.model, dataclasses.replace(plan, tensors=tensors), healed=healed.rows)
    restored = dequantized_model(packed)
    for name in healed.rows:
        np.testing.assert_array_equal(
            restored.model.graph.initializers[name].const_value.numpy(),
            healed.model.model.graph.initializers[name].const_value.numpy(),
        )


def same(a: Healed, b: Healed) -> bool:
    arrays = zip(a.model.model.graph.initializers.values(), b.model.model.graph.initializers.values(), strict=True)
    return all(np.array_equal(x.const_value.numpy(), y.const_value.numpy()) for x, y in arrays)


def test_interrupted_training_goes_on_to_the_same_weights(
    decoder: tuple[ModelIR, list[Sample]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, samples = decoder
    small, plan = remove_blocks(model, [1]), plan_of(remove_blocks(model, [1]), 4)
    whole = heal(model, small, plan, samples, steps=6)
    monkeypatch.setattr("edgec.heal.training._SAVE_SECONDS", 0.0)

    def stop(item: str, done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        heal(model, small, plan, samples, steps=6, folder=tmp_path, progress=stop)
    assert [file.name for file in tmp_path.iterdir()] == ["heal.safetensors"]
    done: list[int] = []
    again = heal(model, small, plan, samples, steps=6, folder=tmp_path, progress=lambda _, at, total: done.append(at))
    assert done[0] == 4 and same(again, whole) and again.before == whole.before
    # Finished training is not repeated.
    done.clear()
    assert same(
        heal(model, small, plan, samples, steps=6, folder=tmp_path, progress=lambda *a: done.append(a[1])), whole
    )
    assert done == [6]
    with pytest.raises(UsageError, match="of another model, plan or text"):
        heal(model, small, plan_of(small, 3), samples, steps=6, folder=tmp_path)
    with pytest.raises(UsageError, match="is of 6 steps, not of 7"):
        heal(model, small, plan, samples, steps=7, folder=tmp_path)
    (tmp_path / "heal.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UsageError, match="cannot be read"):
        heal(model, small, plan, samples, steps=6, folder=tmp_path)


def test_minutes_become_steps_that_can_be_repeated(decoder: tuple[ModelIR, list[Sample]]) -> None:
    model, samples = decoder
    timed = heal(model, model, plan_of(model, 4), samples, minutes=0.02)
    assert timed.steps >= 1
    assert same(heal(model, model, plan_of(model, 4), samples, steps=timed.steps), timed)


def test_an_encoder_with_fewer_tokens_and_blocks_is_healed() -> None:
    model, samples = encoders.encoder(), encoders.samples(12)
    small = remove_blocks(model, [2])
    healed = heal(model, small, plan_of(small, 4), samples, steps=20)
    assert healed.after < 0.8 * healed.before


def test_tokens_of_the_student_are_those_of_the_teacher(tmp_path: Path) -> None:
    """With all tokens kept, the loss is that without `kept`; with fewer, only those are compared."""
    tokenized_decoder(tmp_path, tied=True)
    model = simplify(load(str(tmp_path)))
    assert model.decoder is not None and model.tokenizer is not None
    samples = generated_samples(model, tokens=256)
    plain = heal(model, model, plan_of(model, 8), samples, steps=1)
    every = heal(model, model, plan_of(model, 8), samples, list(range(model.decoder.vocabulary)), steps=1)
    assert every.before == pytest.approx(plain.before, rel=1e-5)
    kept = covering_ids(model.tokenizer, "The fox")
    pruned = prune_vocabulary(model, kept)
    few = heal(model, pruned, plan_of(pruned, 8), whole_samples(pruned, ["The fox", "fox, fox"]), kept, steps=1)
    assert few.before < 0.01


def test_embeddings_are_those_of_the_original_tokens() -> None:
    """The teacher reads the text its own way: other ids, and another number of them."""
    model = dataclasses.replace(encoders.encoder(masked=True), task={"type": "embedding", "pooling": "mean"})
    ids = [sample["input_ids"] for sample in encoders.samples(6)]
    masked = [{"input_ids": row, "attention_mask": np.ones_like(row)} for row in ids]
    longer = [
        {"input_ids": (full := np.hstack([row, row[:, :3]])), "attention_mask": np.ones_like(full)} for row in ids
    ]
    plan = plan_of(model, 8)
    kept = list(range(encoders.TOKENS))
    alike = heal(model, model, plan, masked, kept, originals=masked, steps=1)
    other = heal(model, model, plan, masked, kept, originals=longer, steps=1)
    assert alike.before < 1e-3 < other.before


def test_without_torch_nothing_is_begun(monkeypatch: pytest.MonkeyPatch, tiny_llama: Path) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest))
    with pytest.raises(MissingDependencyError, match=r"healing needs torch") as raised:
        run_stages(tiny_llama, "phone-8gb", options=CompileOptions(heal_steps=1, stop_after="heal"))
    assert raised.value.hint is not None and "edgec[heal]" in raised.value.hint


def test_experts_are_refused(tmp_path: Path) -> None:
    save_reference(tmp_path, "mixtral", plain=False)
    model = simplify(load(str(tmp_path)))
    with pytest.raises(UnsupportedError):
        heal(model, model, plan_of(model, 4), generated_samples(model), steps=1)
