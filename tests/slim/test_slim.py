"""From a share of bytes to a mix: the budget holds, the best that was measured is taken, plans are replayed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import edgec
from edgec.cli import invoke
from edgec.compress.prune.token_choice import covering_ids
from edgec.compress.prune.vocabulary import prune_vocabulary
from edgec.errors import DoesNotFitError, UnsupportedError, UsageError
from edgec.frontend import load
from edgec.ir import Plan
from edgec.passes import simplify
from edgec.pipeline import CompileOptions, StageRecord, run_stages
from edgec.plan import quantizable
from edgec.plan.memory import weight_bytes
from edgec.report import from_manifest, render
from edgec.report.slimming import slimming_lines
from edgec.slim import Slimmed, slim
from edgec.slim.measure import Judge
from edgec.slim.texts import parted
from tests.compress.prune import encoders
from tests.compress.prune.test_vocabulary import decoder
from tests.compress.prune.tokenizers_of_kinds import TEXT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers over a tokenizer of 400 tokens, and a text that it reads."""
    place = tmp_path_factory.mktemp("llama")
    decoder(place, tied=True)
    (place.parent / "text.txt").write_text(TEXT * 8, encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def options(folder: Path) -> CompileOptions:
    return CompileOptions(slim=0.82, calibration=folder.parent / "text.txt", context_length=64)


@pytest.fixture(scope="module")
def plan(folder: Path, options: CompileOptions) -> Plan:
    made = run_stages(folder, "phone-8gb", options=dataclasses.replace(options, stop_after="plan")).plan
    assert made is not None
    return made


def test_the_weights_take_what_was_asked_for(folder: Path, options: CompileOptions, plan: Plan) -> None:
    model = simplify(load(str(folder)))
    floats = sum(v.const_value.size for v in model.model.graph.initializers.values() if v.dtype.is_floating_point())
    assert plan.slim is not None and plan.slim.weight_bytes == int((1 - 0.82) * 2 * floats)
    work = run_stages(folder, "phone-8gb", options=dataclasses.replace(options, stop_after="compress", plan=plan))
    assert work.model is not None and work.compressed is not None
    assert weight_bytes(work.model, plan.tensors, stored=True) <= plan.slim.weight_bytes
    trials = plan.slim.trials
    assert len(trials) > 1 and [t.loss for t in trials] == sorted(t.loss for t in trials)
    best = trials[0]
    assert (plan.slim.vocabulary, len(plan.slim.removed_blocks)) == (best.vocabulary, best.removed_blocks)
    assert (plan.slim.mlp_share, plan.slim.head_groups) == (best.mlp_share, best.head_groups)
    assert "18%" not in plan.slim.reason and plan.slim.reason.startswith("82% of the float16 weights go")


def test_a_plan_is_replayed_from_its_file(folder: Path, options: CompileOptions, plan: Plan) -> None:
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    replay = CompileOptions(plan=again, calibration=options.calibration, stop_after="slim")
    work = run_stages(folder, "phone-8gb", options=replay)
    assert work.model is not None and work.model.decoder is not None and again.slim is not None
    if again.slim.vocabulary:
        assert work.model.decoder.vocabulary == again.slim.vocabulary
    other = dataclasses.replace(again.slim, vocabulary=300, vocabulary_sha256="0" * 64)
    with pytest.raises(UsageError, match="other tokens"):
        replay = dataclasses.replace(replay, plan=dataclasses.replace(again, slim=other))
        run_stages(folder, "phone-8gb", options=replay)


def test_more_than_there_is_cannot_go(folder: Path, options: CompileOptions) -> None:
    with pytest.raises(DoesNotFitError, match="at the least"):
        run_stages(folder, "phone-8gb", options=dataclasses.replace(options, slim=0.99, stop_after="slim"))


def test_a_whole_model_loses_nothing(folder: Path) -> None:
    model = simplify(load(str(folder)))
    learned, judged = parted([TEXT[start : start + 40] for start in range(0, 400, 40)], model)
    assert len(learned) + len(judged) == 10 and len(judged) == 5
    judge = Judge(model, judged, [])
    assert judge.loss(Slimmed(model), {}) == pytest.approx(0, abs=1e-6)
    name = "model.layers.1.mlp.down_proj.weight"
    array = model.model.graph.initializers[name].const_value.numpy()
    assert judge.loss(Slimmed(model), {name: np.zeros_like(array)}) > 1e-4
    assert model.tokenizer is not None
    kept = tuple(covering_ids(model.tokenizer, "The fox"))
    pruned = judge.loss(Slimmed(prune_vocabulary(model, kept), kept), {})
    assert pruned > 0.1  # more tokens, and what the whole model gives to those that are gone
    assert judge.loss(Slimmed(model), {}) == pytest.approx(0, abs=1e-6)


def test_an_interrupted_search_goes_on(
    folder: Path, options: CompileOptions, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupting:
        """Ends the process, as it were, when the third mix begins."""

        mixes = 0

        def started(self, stage: str) -> None: ...

        def advanced(self, stage: str, item: str, done: int, total: int) -> None:
            self.mixes += stage == "slim" and "of the features" in item and "alone" not in item
            if self.mixes == 3:
                raise KeyboardInterrupt

        def finished(self, record: StageRecord) -> None: ...

    judged: list[Slimmed] = []
    measured = Judge.loss
    monkeypatch.setattr(Judge, "loss", lambda *given: judged.append(given[1]) or measured(*given))
    cached = dataclasses.replace(options, stop_after="plan", cache=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_stages(folder, "phone-8gb", options=cached, progress=Interrupting())
    before = len(judged)
    assert before > 2  # parts alone, and two mixes
    assert run_stages(folder, "phone-8gb", options=cached).plan == plan
    whole = len(judged) - before
    assert plan.slim is not None and whole <= len(plan.slim.trials) - 2 + 1  # and quantization alone
    judged.clear()
    assert run_stages(folder, "phone-8gb", options=cached).plan == plan
    assert len(judged) == 1


def test_quantization_alone_stands_beside_it(folder: Path, options: CompileOptions, plan: Plan) -> None:
    assert plan.slim is not None and plan.slim.alone is not None and plan.slim.loss is None
    assert plan.slim.alone.weight_bytes <= plan.slim.weight_bytes and plan.slim.alone.loss > 0
    work = run_stages(folder, "phone-8gb", options=dataclasses.replace(options, stop_after="compress"))
    assert work.plan is not None and work.plan.slim is not None and work.compressed is not None
    assert work.plan == work.compressed.plan and work.plan.slim.loss is not None
    assert work.plan.slim.loss < 2 * work.plan.slim.trials[0].loss  # codes by better quantizers than the search has
    lines = slimming_lines(work.plan)
    assert any(line.startswith("slimmed, packed: ") for line in lines)
    assert any(line.startswith("quantization alone: ") for line in lines)
    small = dataclasses.replace(work.plan.slim, weight_bytes=work.plan.slim.alone.weight_bytes - 1)
    lines = slimming_lines(dataclasses.replace(work.plan, slim=small))
    assert any(line.startswith("quantization alone cannot be this small") for line in lines)


def test_graphs_are_slimmed_on_arrays(tmp_path: Path) -> None:
    model, samples = encoders.encoder(), encoders.samples(8)
    length = min(sample["input_ids"].shape[1] for sample in samples)
    ids = np.concatenate([sample["input_ids"][:, :length] for sample in samples])
    np.savez(tmp_path / "data.npz", input_ids=ids)
    slimmed, done = slim(model, fraction=0.84, calibration=tmp_path / "data.npz")
    assert slimmed.kept is None and done.vocabulary == 0
    assert done.removed_blocks or done.mlp_share < 1 or done.head_groups
    assert slimmed.model.facts.parameters < model.facts.parameters
    assert slimmed.losses is not None and list(slimmed.losses) == list(quantizable(slimmed.model))
    with pytest.raises(UsageError, match="cannot make its own"):
        slim(model, fraction=0.8)
    parts = dataclasses.replace(model, parts={"all": model.graph_parts()["run"]})
    with pytest.raises(UnsupportedError, match="several parts"):
        slim(parts, fraction=0.8)


@pytest.mark.slow
def test_a_slimmed_and_healed_bundle_runs(folder: Path, options: CompileOptions, tmp_path: Path) -> None:
    out = tmp_path / "small.edgec"
    edgec.compile(folder, "phone-8gb", out, dataclasses.replace(options, heal_steps=3))
    assert [path.name for path in tmp_path.iterdir()] == ["small.edgec"]  # what was saved while training is gone
    with edgec.load(out, threads=1) as model:
        text = model.generate("The quick", max_tokens=8, temperature=0).text()
        assert isinstance(text, str)
        manifest = model.manifest
    assert manifest.plan["heal"]["steps"] == 3
    assert {tensor["quantizer"] for tensor in manifest.plan["tensors"] if tensor["bits"] < 32} == {"healed"}
    page = render(from_manifest(manifest.to_json()))
    assert "What was taken away" in page and "healed in 3 steps" in page


@pytest.mark.slow
def test_a_vocabulary_from_the_command_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = str(folder.parent / "text.txt")
    command = ["compile", str(folder), "-p", "phone-8gb", "--quantizer", "rtn", "--quiet", "-o"]
    assert invoke([*command, "number.edgec", "--keep-vocab", "330"]) == 0
    assert invoke([*command, "text.edgec", "--keep-vocab", text]) == 0
    for name in ("number.edgec", "text.edgec"):
        with edgec.load(name, threads=1) as model:
            assert model.tokenizer is not None
            words = "The fox was quicker, naïve 😀!"
            assert model.tokenizer.decode(model.tokenizer.encode_plain(words)) == words
            model.generate(words, max_tokens=4, temperature=0).text()
    assert invoke([*command, "x.edgec", "--keep-vocab", "3"]) == 2
    assert invoke([*command, "x.edgec", "--slim", "0.5", "--bits", "4"]) == 2


def test_a_decoder_is_slimmed_on_its_own_text(folder: Path) -> None:
    """And all of it is planned, measured and quantized on what the whole model wrote."""
    options = CompileOptions(slim=0.82, context_length=64, stop_after="compress")
    first, again = (run_stages(folder, "phone-8gb", options=options) for _ in range(2))
    assert first.plan is not None and first.plan == again.plan and first.plan.slim is not None
    assert first.whole is not None and first.slimmed is not None and first.compressed is not None
    kept = first.slimmed.kept or range(first.whole.decoder.vocabulary)  # type: ignore[union-attr]
    assert len(kept) == first.model.decoder.vocabulary  # type: ignore[union-attr]


def test_a_plan_of_a_vocabulary_alone_needs_no_data(folder: Path) -> None:
    options = CompileOptions(keep_vocabulary=330, quantizer="rtn", stop_after="plan")
    made = run_stages(folder, "phone-8gb", options=options).plan
    assert made is not None and made.slim is not None and made.slim.vocabulary == 330
    assert made.slim.reason == "a vocabulary of 330 tokens was asked for"
    work = run_stages(folder, "phone-8gb", options=CompileOptions(plan=made, stop_after="slim"))
    assert work.model is not None and work.model.decoder is not None and work.texts is None
    assert work.model.decoder.vocabulary == 330


@pytest.mark.slow
def test_a_decoder_is_healed_on_its_own_text(folder: Path) -> None:
    plain = CompileOptions(slim=0.82, context_length=64, stop_after="plan")
    planned = run_stages(folder, "phone-8gb", options=plain).plan
    healing = dataclasses.replace(
        plain, slim=None, context_length=None, plan=planned, heal_steps=2, stop_after="compress"
    )
    work = run_stages(folder, "phone-8gb", options=healing)
    assert planned is not None and work.plan is not None and work.plan.heal is not None
    assert (work.plan.slim, work.plan.heal.steps) == (planned.slim, 2)
