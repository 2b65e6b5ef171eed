from __future__ import annotations

import dataclasses
import hashlib
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from edgec import bundle
from edgec.bundle.golden import DecoderGolden, GraphGolden
from edgec.bundle.manifest import Slot
from edgec.errors import RunError
from edgec.run import golden, load
from edgec.run.engine import Engine
from edgec.run.sampler import Random
from tests.run.fake_module import make_weights, reference_logits

VARIANTS = (("simd128", 1), ("relaxed", 1), ("relaxed16", 1), ("simd128-threads", 3), ("relaxed-threads", 2))


def changed(written: bundle.Bundle, new: DecoderGolden | GraphGolden | None) -> bundle.Bundle:
    return dataclasses.replace(written, manifest=dataclasses.replace(written.manifest, golden=new))


def test_a_decoders_golden_logits_are_the_references(decoder_bundle: bundle.Bundle) -> None:
    kept = decoder_bundle.manifest.golden
    assert isinstance(kept, DecoderGolden) and len(kept.prompt) == 9
    ids = list(kept.prompt)
    for step in kept.steps:
        logits = reference_logits(ids, make_weights())
        assert step.sha256 == hashlib.sha256(logits.tobytes()).hexdigest()
        assert [entry.logit for entry in step.largest] == sorted(logits.tolist(), reverse=True)[:4]
        assert [logits[entry.token] for entry in step.largest] == [entry.logit for entry in step.largest]
        ids.append(step.largest[0].token)


@pytest.mark.parametrize(("variant", "threads"), VARIANTS)
def test_every_variant_passes(
    decoder_bundle: bundle.Bundle, graph_bundle: bundle.Bundle, variant: str, threads: int
) -> None:
    for written, compared in ((decoder_bundle, 3), (graph_bundle, 2)):
        with load(written, variant=variant, threads=threads) as model:
            result = model.self_test()
            assert (result.passed, result.differences, result.compared) == (True, (), compared)
            assert (result.variant, result.threads) == (variant, threads)
            assert model.self_test().passed  # what lay in the memory before does not matter


def test_what_differs_is_named_and_measured(decoder_bundle: bundle.Bundle, graph_bundle: bundle.Bundle) -> None:
    kept = decoder_bundle.manifest.golden
    assert isinstance(kept, DecoderGolden)
    first = kept.steps[1].largest[0]
    assert first.logit is not None
    other = dataclasses.replace(first, logit=first.logit + 0.25)
    step = dataclasses.replace(kept.steps[1], sha256="0" * 64, largest=(other, *kept.steps[1].largest[1:]))
    steps = (kept.steps[0], step, kept.steps[2])
    with load(changed(decoder_bundle, dataclasses.replace(kept, steps=steps)), threads=1) as model:
        result = model.self_test()
    assert result.passed is False
    [difference] = result.differences
    assert difference.what == "logits after 10 tokens"
    assert difference.expected_sha256 == "0" * 64 and difference.sha256 == kept.steps[1].sha256
    assert difference.largest_error == 0.25

    outputs = graph_bundle.manifest.golden
    assert isinstance(outputs, GraphGolden)
    z = dataclasses.replace(outputs.outputs[1], sha256="1" * 64)
    with load(changed(graph_bundle, dataclasses.replace(outputs, outputs=(outputs.outputs[0], z)))) as model:
        [difference] = model.self_test().differences
    assert (difference.what, difference.largest_error) == ("output `z`", None)


def test_an_engine_that_computes_otherwise_fails(decoder_bundle: bundle.Bundle) -> None:
    with load(decoder_bundle, threads=1) as model:
        scale = decoder_bundle.manifest.memory.weights.offset
        model.engine.memory[scale : scale + 4] = 0  # the first weight
        result = model.self_test()
        assert result.passed is False and len(result.differences) >= 1


def test_a_conversation_is_forgotten_and_a_closed_model_says_so(decoder_bundle: bundle.Bundle) -> None:
    with load(decoder_bundle, threads=1) as model:
        answer = model.generate("hello", temperature=0, max_tokens=4)
        next(answer)
        assert model.self_test().passed
        assert model.stats()["cached_tokens"] == 0
        with pytest.raises(RunError, match="taken over"):
            answer.text()
    with pytest.raises(RunError, match="closed"):
        model.self_test()


def test_a_bundle_without_golden_outputs_is_neither_right_nor_wrong(decoder_bundle: bundle.Bundle) -> None:
    with load(changed(decoder_bundle, None), threads=1) as model:
        result = model.self_test()
    assert (result.passed, result.compared, result.differences) == (None, 0, ())


def test_results_that_depend_on_old_memory_are_not_kept(
    decoder_bundle: bundle.Bundle, graph_bundle: bundle.Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph may have read outside its tensors, since zeros and ones were no indices for it."""

    def spoil(engine: Engine) -> None:
        weights = engine.manifest.memory.weights
        engine.memory[weights.offset : weights.end] = 1

    monkeypatch.setattr(golden, "_scribble", spoil)
    assert golden.make_golden(graph_bundle) is None
    with pytest.raises(RunError, match="depend on what lay in the memory"):
        golden.make_golden(decoder_bundle)


def test_words_are_those_that_seed_the_sampler() -> None:
    assert golden.random_words(7, 4).tolist() == Random(7)._words


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_every_nan_is_the_same(dtype: str) -> None:
    def array(nan: float) -> npt.NDArray[np.generic]:
        return np.asarray([1.0, nan, -0.0], np.dtype(getattr(ml_dtypes, dtype, dtype)))

    slot = Slot("x", dtype, (3,), 0, 64)
    one, other = (golden._golden_output(slot, array(nan)) for nan in (np.nan, -np.nan))
    assert one == other
    assert one.values == (1.0, None, 0.0)
    assert one.sha256 != golden._golden_output(slot, array(0.0)).sha256


def test_inputs_of_every_type(graph_bundle: bundle.Bundle) -> None:
    dtypes = ("float32", "bfloat16", "int64", "bool", "uint8", "float8_e4m3fn", "float4_e2m1fn", "int4")
    slots = tuple(Slot(name, name, ("batch", 50), 0, 8000) for name in dtypes)
    graph = SimpleNamespace(inputs=slots)
    arrays = golden._inputs(dataclasses.replace(graph_bundle.manifest, inputs=slots), graph, {"batch": 4})  # type: ignore[arg-type]
    for name in dtypes:
        values = arrays[name].astype(np.float64)
        assert arrays[name].shape == (4, 50) and np.isfinite(values).all() and np.unique(values).size > 1
        assert values.min() >= -1 and values.max() <= (6 if name == "float4_e2m1fn" else 1)
