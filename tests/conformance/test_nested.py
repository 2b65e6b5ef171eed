"""At each depth a bundle with nested codes is, to the bit, a bundle of those codes alone, on every engine."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

import edgec.run
from edgec import bundle, report
from edgec.compress import dequantized_model
from edgec.errors import UsageError
from edgec.eval import ReferenceDecoder
from edgec.eval.language import kl_divergence, log_softmax
from edgec.lower.wasm import lower
from edgec.pipeline import CompileOptions, Work, run_stages
from tests.conformance.runtimes import Answer, Runtime, answers
from tests.conformance.test_decoders import PROMPTS, REFERENCE, RUNTIMES

DEPTHS = (4, 3, 2)
# Depths are a matter of what is loaded, kernels do not know of them.
LOADERS = [one for one in RUNTIMES if str(one.id) in ("node-simd128", "chromium-simd128", "firefox-simd128")]
OPTIONS = CompileOptions(bits=4, nested=(3, 2), context_length=128)


@dataclasses.dataclass(frozen=True)
class Made:
    work: Work
    alone: dict[int, Path]  # what each depth is without the others

    @property
    def nested(self) -> Path:
        assert self.work.output is not None
        return self.work.output


@pytest.fixture(scope="module")
def made(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("nested")
    work = run_stages(tiny_llama, "phone-8gb", folder / "nested.edgec", OPTIONS)
    compressed = work.compressed
    assert compressed is not None
    alone = {}
    for bits in DEPTHS:
        at_depth = compressed.at_depth(bits)
        packed = {name: dataclasses.replace(tensor, coarser=()) for name, tensor in at_depth.packed.items()}
        tensors = tuple(
            dataclasses.replace(tensor, bits=bits, quantizer="gptq", coarser=()) if tensor.coarser else tensor
            for tensor in compressed.plan.tensors
        )
        plan = dataclasses.replace(compressed.plan, tensors=tensors)
        lowered = lower(dataclasses.replace(at_depth, packed=packed, plan=plan))
        out = folder / f"alone{bits}.edgec"
        bundle.write(lowered, model=compressed.model, plan=plan, accuracy={}, out=out, golden=edgec.run.make_golden)
        alone[bits] = out
    return Made(work, alone)


@functools.cache
def wanted(path: Path) -> list[Answer]:
    return answers(REFERENCE, path, PROMPTS[:2], max_tokens=16)


@pytest.mark.parametrize("runtime", [pytest.param(REFERENCE, id="wasmtime-simd128"), *LOADERS])
def test_answers(runtime: Runtime, made: Made) -> None:
    for bits in DEPTHS:
        found = answers(runtime, made.nested, PROMPTS[:2], max_tokens=16, depth=bits)
        assert found == wanted(made.alone[bits]), bits
    assert answers(runtime, made.nested, PROMPTS[:2], max_tokens=16) == wanted(made.alone[4])


def test_golden_outputs_are_those_of_each_depth(made: Made) -> None:
    manifest = bundle.read(made.nested).manifest
    assert manifest.depth_bits == DEPTHS
    for bits in DEPTHS:
        assert manifest.at_depth(bits).golden == bundle.read(made.alone[bits]).manifest.golden
        with edgec.run.load(made.nested, depth=bits, threads=1) as model:
            assert model.self_test().passed
            assert model.stats()["depth"] == bits
    assert len({manifest.at_depth(bits).golden for bits in DEPTHS}) == 3


def test_each_depth_downloads_what_it_needs(made: Made) -> None:
    manifest = bundle.read(made.nested).manifest
    for bits in DEPTHS:
        alone = bundle.read(made.alone[bits]).manifest
        assert manifest.at_depth(bits).weight_bytes() == alone.weight_bytes()
        assert set(manifest.at_depth(bits).files) <= set(manifest.files)
    used: Iterable[str] = {name for bits in DEPTHS for name in manifest.at_depth(bits).files}
    assert set(used) | {"report.html"} == set(manifest.files)


@pytest.mark.parametrize("bits", DEPTHS)
def test_onnxruntime_computes_the_same(bits: int, made: Made) -> None:
    compressed = made.work.compressed
    assert compressed is not None
    ids = [int(number) for number in np.random.default_rng(5).integers(3, 200, 48)]
    with (
        ReferenceDecoder(dequantized_model(compressed.at_depth(bits))) as reference,
        edgec.run.load(made.nested, depth=bits) as model,
    ):
        pairs = zip(reference.logits(ids), model.logits(ids), strict=True)
        divergences = [kl_divergence(log_softmax(expected), log_softmax(found)) for expected, found in pairs]
    assert np.mean(divergences) < 1e-3


def test_a_bundle_says_which_depths_it_has(made: Made) -> None:
    with pytest.raises(UsageError, match="has no depth of 5 bits") as caught:
        edgec.run.load(made.nested, depth=5)
    assert caught.value.hint == "it has 4, 3, 2"
    with pytest.raises(UsageError, match="has no depth of 3 bits") as caught:
        edgec.run.load(made.alone[4], depth=3)
    assert "--nested 3" in (caught.value.hint or "")


def test_the_report_has_a_line_for_each(made: Made) -> None:
    found = report.from_manifest(bundle.read(made.nested).manifest.to_json())
    assert [depth.bits for depth in found.depths] == [3, 2]
    sizes = [found.packed_bytes, *(depth.packed_bytes for depth in found.depths)]
    errors = [found.relative_rmse, *(depth.relative_rmse for depth in found.depths)]
    assert sizes == sorted(sizes, reverse=True) and errors == sorted(errors)
    assert "<h2>Nested codes</h2>" in report.render(found)
