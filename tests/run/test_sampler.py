from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.errors import RunError, UsageError
from edgec.run.exp64 import exp, exp64
from edgec.run.sampler import Random, Sampler, Sampling
from tests.run import sampler_reference as reference

CASES = json.loads(reference.CASES.read_text())


def test_the_recorded_cases_are_the_reference() -> None:
    assert reference.cases() == CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: json.dumps(case["options"]))
def test_recorded_cases(case: dict[str, object]) -> None:
    logits = np.array(reference.logits_of(case["logits_seed"], case["count"], case["scale"]), np.float32)  # type: ignore[arg-type]
    sampler = Sampler(Sampling(**case["options"]))  # type: ignore[arg-type]
    seen = set(case["prompt"])  # type: ignore[call-overload]
    for expected in case["ids"]:  # type: ignore[attr-defined]
        assert sampler.sample(logits, seen) == expected
        seen.add(expected)


@settings(max_examples=200, deadline=None)
@given(
    levels=st.lists(st.integers(-20, 20), min_size=1, max_size=40),
    temperature=st.sampled_from([0.0, 0.1, 0.7, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 3, 100]),
    top_p=st.sampled_from([0.05, 0.5, 0.99, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    penalty=st.sampled_from([0.7, 1.0, 1.3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_fast_sampler_is_the_slow_one(
    levels: list[int], temperature: float, top_k: int, top_p: float, min_p: float, penalty: float, seed: int
) -> None:
    """Few distinct levels, so that ties are common."""
    options = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": penalty,
    }
    logits = (np.array(levels) / 3).astype(np.float32)
    sampler = Sampler(Sampling(**options, seed=seed))  # type: ignore[arg-type]
    random = reference.Xoshiro(seed)
    seen: set[int] = set()
    for _ in range(4):
        id = sampler.sample(logits, seen)
        assert id == reference.sample(logits.tolist(), sorted(seen), options, random)
        seen.add(id)


def test_random_numbers_are_those_of_the_reference() -> None:
    for seed in (0, 1, 12345, 2**32 - 1):
        ours, theirs = Random(seed), reference.Xoshiro(seed)
        assert [ours.uniform() for _ in range(50)] == [theirs.uniform() for _ in range(50)]


def test_exp64_is_exact_enough_and_the_same_as_the_reference() -> None:
    x = -np.abs(np.random.default_rng(0).normal(size=2000)) * 100
    x[:5] = [0.0, -0.0, -700.0, -700.0000001, -1e300]
    ours = exp64(x)
    assert ours.tolist() == [reference.exp64(value) for value in x.tolist()]
    normal = x >= -700
    assert np.max(np.abs(ours[normal] / np.exp(x[normal]) - 1)) < 5e-16
    assert exp(x).tolist() == ours.tolist()
    assert exp(np.array([1.0, 0.0, 800.0])).tolist() == [1 / reference.exp64(-1.0), 1.0, np.inf]


def test_bad_options_are_named() -> None:
    for name, value in {"temperature": -1, "top_p": 0, "top_k": -1, "min_p": 2, "seed": -1, "max_tokens": 0}.items():
        with pytest.raises(UsageError, match=f"`{name}` is {value}"):
            Sampling(**{name: value})
    with pytest.raises(UsageError, match="no option `topp`"):
        Sampling.from_options({}, {"topp": 1})


def test_options_go_before_the_bundle_and_the_bundle_before_the_defaults() -> None:
    sampling = Sampling.from_options({"temperature": 0.5, "top_k": 3, "do_sample": True}, {"top_k": 7, "seed": None})
    assert sampling == Sampling(temperature=0.5, top_k=7)


def test_not_a_number_is_an_error() -> None:
    logits = np.array([0, np.nan, 1], np.float32)
    for temperature in (0.0, 1.0):
        with pytest.raises(RunError, match="not a number"):
            Sampler(Sampling(temperature=temperature)).sample(logits, set())
