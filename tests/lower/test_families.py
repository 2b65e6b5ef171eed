"""Every decoder family in wasm against `transformers`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgec
import edgec.run
from edgec.frontend.families import FAMILIES
from edgec.pipeline import CompileOptions
from tests.families import CASES, LENGTH, VOCABULARY
from tests.frontend.decoders import reference_logits, save_reference
from tests.lower.families import IDS, Family
from tests.lower.families_page import HEAD, PAGE

ALIKE = ("gemma2", "gpt2", "olmo2", "stablelm", "mixtral")  # together they use every kernel that a plain Llama does not


@pytest.fixture(scope="module", params=CASES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return Family(request.param, tmp_path_factory.mktemp("family"))


def test_float32_equals_transformers(family: Family, tmp_path: Path) -> None:
    assert family.float_error(tmp_path / "floats.edgec") < 1e-4


def test_quantized_is_close_to_its_dequantized_weights(family: Family, tmp_path: Path) -> None:
    assert family.quantized_error(tmp_path / "quantized.edgec") < 0.03


def test_quantized_agrees_on_the_most_likely_id(family: Family, tmp_path: Path) -> None:
    """At 95% of 256 positions; a router that hesitates may cost more, but not as much as Q4_0 does."""
    agreement = family.agreement(tmp_path / "quantized.edgec")
    assert agreement >= 0.95 or (family.experts and agreement > family.agreement_of_q4_0())


def test_a_context_beyond_the_first_of_longrope(tmp_path: Path) -> None:
    ids = np.random.default_rng(4).integers(3, VOCABULARY, LENGTH + 8).tolist()
    wanted = reference_logits(save_reference(tmp_path / "model", "phi3", plain=False), ids)
    bundle = tmp_path / "long.edgec"
    options = CompileOptions(context_length=LENGTH + 16, precision="float32")
    edgec.compile(tmp_path / "model", "phone-8gb", bundle, options)
    with edgec.run.load(bundle, variant="simd128") as running:
        found = np.stack(list(running.logits(ids)))
    assert float(np.abs(found - wanted).max()) < 1e-4


@pytest.mark.parametrize("name", ALIKE)
def test_variants_and_chunks_agree_to_the_bit(name: str, tmp_path: Path) -> None:
    family = Family(name, tmp_path / "model")
    variants = ("simd128", "relaxed", "relaxed16", "relaxed16-threads")
    bundle = family.compile(tmp_path / "model.edgec", variants=variants, bits=4)

    def logits(variant: str, threads: int) -> np.ndarray:
        with edgec.run.load(bundle, variant=variant, threads=threads) as running:
            return np.stack(list(running.logits(IDS[:40])))

    wanted = logits("simd128", 1)
    for variant, threads in (("relaxed", 1), ("relaxed16", 1), ("relaxed16-threads", 3)):
        np.testing.assert_array_equal(logits(variant, threads), wanted)
    with edgec.run.load(bundle) as running:
        state = running._require_decoder()
        for token, row in zip(IDS[:40], wanted, strict=False):
            state.decode(token)
            np.testing.assert_array_equal(state.logits(), row)


def test_page_has_every_family() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.startswith(HEAD)
    listed = [line.split(" | ")[1:3] for line in page.removeprefix(HEAD).splitlines()]
    assert [exercised for _, exercised in listed] == [case.exercises for case in CASES.values()]
    assert {architecture for architecture, _ in listed} == {family.architecture for family in FAMILIES.values()}
