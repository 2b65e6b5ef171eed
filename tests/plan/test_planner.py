"""Decisions of the planner on known shapes."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from edgec.errors import DoesNotFitError, UsageError
from edgec.ir.model import LongRope
from edgec.ir.plan import VARIANTS, Plan
from edgec.plan import Target, make_plan, quantizable
from edgec.plan.memory import weight_bytes
from edgec.plan.planner import PREFILL_CHUNK
from edgec.profiles import load, names, query
from tests.plan.models import convolutional, decoder, encoder, llama_1b

MEBI = 1 << 20


def bits_of(plan: Plan) -> dict[str, int]:
    return {tensor.name: tensor.bits for tensor in plan.tensors}


def test_smollm2_on_a_phone() -> None:
    plan = make_plan(decoder(), load("phone-8gb"))
    bits = bits_of(plan)
    assert bits["embed"] == 6
    assert {bits[f"layers.{i}.{name}"] for i in range(30) for name in ("qkv", "o", "gate_up", "down")} == {4}
    assert bits["norm"] == bits["layers.7.norm"] == 32
    assert plan.kv is not None and plan.kv.bits == 16
    assert (plan.context_length, plan.prefill_chunk, plan.activation_bits) == (4096, 128, 8)
    assert plan.variants == VARIANTS
    assert plan.max_threads == 4
    # 106.2 M weights at 4.75 bits and 28.3 M at 6.75 (8.75 in memory); measured on the real bundle:
    # 86.9 MB packed, 94,143,872 bytes of weights and 75,202,560 of cache in memory
    prediction = plan.prediction
    assert prediction.download_bytes == pytest.approx(87.2e6, rel=0.01)
    assert prediction.weight_bytes == pytest.approx(94_143_872, rel=0.001)
    assert prediction.kv_bytes == 98_795_520
    assert prediction.peak_bytes < prediction.weight_bytes + prediction.kv_bytes + 32 * MEBI


def test_every_float_initializer_has_a_plan_with_a_reason() -> None:
    for model in (decoder(), encoder(), convolutional()):
        plan = make_plan(model, load("tablet"))
        assert list(bits_of(plan)) == list(model.model.graph.initializers)
        assert all(tensor.reason for tensor in plan.tensors)


def test_untied_embedding_is_read_by_rows_only() -> None:
    bits = bits_of(make_plan(decoder(tied=False), load("laptop-8gb")))
    assert (bits["embed"], bits["lm_head"]) == (4, 6)


def test_windows_leave_the_cache_as_it_is() -> None:
    full = decoder()
    assert full.decoder is not None
    windows = (512,) * 29 + (None,)
    windowed = dataclasses.replace(full, decoder=dataclasses.replace(full.decoder, windows=windows))
    one, other = (make_plan(model, load("phone-8gb")).prediction for model in (full, windowed))
    assert one.kv_bytes == other.kv_bytes  # the cache holds every token, also those that a window hides


def test_small_models_keep_8_bits() -> None:
    tiny = decoder(layers=5, hidden=64, intermediate=172, heads=8, kv_heads=4, head_dim=8, vocabulary=512)
    assert set(bits_of(make_plan(tiny, load("phone-4gb"))).values()) == {8, 32}


def test_encoder() -> None:
    plan = make_plan(encoder(), load("phone-8gb"))
    bits = bits_of(plan)
    assert (bits["word"], bits["position"], bits["token_type"]) == (7, 8, 32)
    assert (bits["layer.0.up"], bits["layer.0.bias"]) == (7, 32)
    sizes = {tensor.name: tensor.group_size for tensor in plan.tensors}
    assert (sizes["word"], sizes["layer.0.up"], sizes["layer.0.down"]) == (32, 384, 512)
    assert plan.kv is None and plan.context_length == plan.prefill_chunk == 0
    assert plan.dims == {"batch_size": 1, "sequence_length": 128}
    assert plan.prediction.decode_tokens_per_second == 0
    # the widest moment: a layer's input and output of 128 x 1536 floats
    assert plan.prediction.workspace_bytes == pytest.approx(2 * 128 * 1536 * 4, rel=0.01)


def test_convolutional_network() -> None:
    plan = make_plan(convolutional(), load("phone-8gb"))
    assert bits_of(plan) == {
        "stem": 32,  # 864 weights
        "stem.bias": 32,
        "depthwise": 32,
        "narrow": 32,  # 2,048 weights
        "pointwise": 7,
        "classifier": 7,
    }
    sizes = {tensor.name: tensor.group_size for tensor in plan.tensors}
    assert (sizes["pointwise"], sizes["classifier"]) == (32, 32)
    assert plan.dims == {"N": 1, "height": 192, "width": 224}


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8, 32])
def test_bits_override_the_rules(bits: int) -> None:
    plan = make_plan(decoder(), load("laptop-8gb"), bits=bits)
    assert {tensor.bits for tensor in plan.tensors if tensor.name.endswith(("embed", "qkv", "down"))} == {bits}
    assert plan.activation_bits == (32 if bits == 32 else 8)


def test_float32() -> None:
    plan = make_plan(decoder(), load("laptop-8gb"), precision="float32")
    assert {tensor.bits for tensor in plan.tensors} == {32}
    assert plan.kv is not None and plan.kv.bits == 32
    assert plan.activation_bits == 32
    assert plan.variants == ("simd128", "simd128-threads")
    assert plan.prediction.weight_bytes == pytest.approx(4 * 134.5e6, rel=0.01)


def test_safari_has_no_relaxed_modules() -> None:
    plan = make_plan(decoder(), load("iphone-safari"))
    assert plan.variants == ("simd128", "simd128-threads")
    assert plan.max_threads == 2
    assert any("Safari" in reason for reason in plan.reasons)


def test_context_is_what_fits() -> None:
    plan = make_plan(llama_1b(kv_heads=32), load("phone-8gb"))
    profile = load("phone-8gb")
    available = int(query(profile, "memory.usable").value) - 64 * MEBI
    assert plan.context_length % 16 == 0 and 256 <= plan.context_length < 4096
    page = plan.prediction.kv_bytes // -(-plan.context_length // 64)
    assert plan.prediction.peak_bytes <= available < plan.prediction.peak_bytes + page + 4096
    assert any("more does not fit" in reason for reason in plan.reasons)
    assert any("download" in reason for reason in plan.reasons), "850 MB are more than a phone's user wants to load"


@pytest.mark.parametrize(("asked", "given"), [(1, 16), (16, 16), (1000, 1008), (8192, 8192)])
def test_asked_context_is_rounded_up_to_pages(asked: int, given: int) -> None:
    plan = make_plan(decoder(), load("laptop-8gb"), context_length=asked)
    assert plan.context_length == given
    assert plan.prefill_chunk == min(PREFILL_CHUNK, given)


def test_context_of_the_model_is_the_limit() -> None:
    assert make_plan(decoder(context_length=500), load("tablet")).context_length == 496
    assert make_plan(decoder(context_length=500), load("tablet"), context_length=500).context_length == 496
    with pytest.raises(UsageError, match="trained for a context of 500"):
        make_plan(decoder(context_length=500), load("tablet"), context_length=501)


def test_a_context_beyond_the_first_is_for_those_who_ask() -> None:
    model = decoder(context_length=512)
    assert model.decoder is not None
    longrope = LongRope(2048, (1.0,))
    model = dataclasses.replace(model, decoder=dataclasses.replace(model.decoder, longrope=longrope))
    plan = make_plan(model, load("tablet"))
    assert plan.context_length == 512 and any("longrope" in reason for reason in plan.reasons)
    assert make_plan(model, load("tablet"), context_length=500).context_length == 512
    plan = make_plan(model, load("tablet"), context_length=1000)
    assert plan.context_length == 1008
    assert any("long factors (longrope, for more than 512)" in reason for reason in plan.reasons)
    with pytest.raises(UsageError, match="trained for a context"):
        make_plan(model, load("tablet"), context_length=4096)


def test_too_large_a_model_is_refused_with_numbers_and_the_nearest_device() -> None:
    with pytest.raises(DoesNotFitError) as caught:
        make_plan(llama_1b(), load("phone-4gb"))
    message, hint = caught.value.message, caught.value.hint or ""
    for part in ("`Llama-3.2-1B` needs", "MiB of memory (weights", "KV cache of 256 tokens", "`phone-4gb` has 448 MiB"):
        assert part in message
    assert "`phone-8gb`" in hint and "tokens" in hint


def test_too_long_a_context_is_refused_with_the_longest_that_fits() -> None:
    with pytest.raises(DoesNotFitError, match=r"KV cache of 100,000 tokens") as caught:
        make_plan(llama_1b(), load("phone-8gb"), context_length=100_000)
    assert "tokens fits" in (caught.value.hint or "")


def test_too_many_bits_are_refused_with_the_planners_choice() -> None:
    with pytest.raises(DoesNotFitError) as caught:
        make_plan(llama_1b(), load("phone-8gb"), bits=7)
    assert "planner's own choice" in (caught.value.hint or "")
    with pytest.raises(DoesNotFitError) as caught:
        make_plan(llama_1b(), load("phone-8gb"), precision="float32")
    assert "planner's own choice" in (caught.value.hint or "")


def test_a_model_for_no_device() -> None:
    giant = decoder(layers=80, hidden=8192, intermediate=28672, heads=64, kv_heads=8, head_dim=128, name="70B")
    for name in names():
        with pytest.raises(DoesNotFitError) as caught:
            make_plan(giant, load(name))
        assert "none of the profiles" in (caught.value.hint or "")
    assert "GiB of storage" not in caught.value.message
    with pytest.raises(DoesNotFitError, match="of storage, `phone-4gb` has 2 GiB"):
        make_plan(giant, load("phone-4gb"))


def test_bounds_of_dimensions() -> None:
    plan = make_plan(encoder(), load("tablet"), max_dims={"sequence_length": 512})
    assert plan.dims == {"batch_size": 1, "sequence_length": 512}
    with pytest.raises(UsageError, match="no dimension `sequence`") as caught:
        make_plan(encoder(), load("tablet"), max_dims={"sequence": 512})
    assert "`sequence_length`" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="at most 0"):
        make_plan(encoder(), load("tablet"), max_dims={"batch_size": 0})


def test_a_dimension_that_says_nothing_needs_a_bound() -> None:
    model = convolutional()
    model.model.graph.inputs[0].shape = type(model.model.graph.inputs[0].shape)(["N", 3, "foo", 224])
    with pytest.raises(UsageError, match="`foo` of unknown size") as caught:
        make_plan(model, load("tablet"))
    assert "--max-dim foo=" in (caught.value.hint or "")
    assert make_plan(model, load("tablet"), max_dims={"foo": 99}).dims["foo"] == 99


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"bits": 9}, "9 bits"),
        ({"quantizer": "gptq"}, "`gptq` needs calibration data"),
        ({"kv_bits": 4}, "4 bits"),
        ({"target": Target(bytes=10**8), "bits": 4}, "exclude each other"),
        ({"precision": "float16"}, "no precision `float16`"),
        ({"precision": "float32", "bits": 4}, "32 bits"),
        ({"context_length": 0}, "not 0"),
        ({"max_dims": {"n": 3}}, "no dimensions to bound"),
        ({"nested": (3,)}, "`gptq` needs calibration data"),
        ({"nested": (3,), "calibration": "own", "bits": 5}, "nested codes have 4 bits, not 5"),
        ({"nested": (3,), "calibration": "own", "quantizer": "rtn"}, "found by GPTQ, not by `rtn`"),
        ({"nested": (3,), "calibration": "own", "target": Target(bytes=10**8)}, "a target gives each matrix"),
        ({"nested": (2, 3), "calibration": "own"}, r"cannot hold depths of \[2, 3\]"),
    ],
)
def test_choices_that_make_no_sense(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_plan(decoder(), load("tablet"), **choices)


def test_graphs_have_no_context() -> None:
    for choices in ({"context_length": 64}, {"kv_bits": 16}):
        with pytest.raises(UsageError, match="no language model"):
            make_plan(encoder(), load("tablet"), **choices)


def test_plans_are_stable_and_replayable() -> None:
    for model in (decoder(), encoder(), convolutional()):
        plan = make_plan(model, load("phone-8gb"))
        text = json.dumps(plan.to_json(), indent=2)
        assert json.dumps(make_plan(model, load("phone-8gb")).to_json(), indent=2) == text
        assert Plan.from_json(json.loads(text)) == plan


def test_nested_codes_are_for_matrices_of_four_bits() -> None:
    plan = make_plan(decoder(), load("phone-8gb"), calibration="own", nested=(3, 2))
    assert plan.depths == (3, 2)
    assert [reason.split()[6] for reason in plan.reasons if reason.startswith("nested codes")] == ["3", "2"]
    for tensor in plan.tensors:
        assert tensor.coarser == ((3, 2) if tensor.bits == 4 else ())
        assert (tensor.quantizer == "nested") == bool(tensor.coarser)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    large = make_plan(llama_1b(), load("laptop-8gb"), calibration="own", nested=(3,))
    assert large.depths == (3,) and not any("calibrate" in reason for reason in large.reasons)
    with pytest.raises(UsageError, match="gets 4 bits on this device") as caught:
        make_plan(encoder(), load("laptop-8gb"), calibration="given", nested=(3,))
    assert "--bits 4" in (caught.value.hint or "")
    asked = make_plan(encoder(), load("laptop-8gb"), calibration="given", nested=(3,), bits=4)
    assert any(tensor.coarser for tensor in asked.tensors)


def test_an_edited_plan_has_one_set_of_depths() -> None:
    plan = make_plan(decoder(), load("phone-8gb"), calibration="own", nested=(3,))
    one = next(tensor for tensor in plan.tensors if tensor.coarser)
    for change in ({"coarser": ()}, {"bits": 3}, {"quantizer": "gptq"}, {"coarser": (1,)}, {"coarser": (3, 2)}):
        tensors = tuple(dataclasses.replace(t, **change) if t is one else t for t in plan.tensors)
        with pytest.raises(UsageError, match="coarser"):
            dataclasses.replace(plan, tensors=tensors).verify()


def test_large_decoders_calibrate_themselves_only_when_asked() -> None:
    """Minutes of compiling are for those who ask; the plan says so."""

    def quantizers(**choices: Any) -> tuple[set[str], list[str]]:
        plan = make_plan(llama_1b(), load("laptop-8gb"), **choices)
        return {t.quantizer for t in plan.tensors if t.bits != 32}, [r for r in plan.reasons if "calibrate" in r]

    assert quantizers(calibration="none") == ({"rtn"}, [])
    chosen, reasons = quantizers(calibration="own")
    assert chosen == {"rtn"} and len(reasons) == 1 and "--quantizer gptq" in reasons[0]
    for choices in ({"calibration": "given"}, {"calibration": "own", "quantizer": "gptq"}):
        chosen, reasons = quantizers(**choices)
        assert "gptq" in chosen and not reasons
    small = make_plan(decoder(), load("laptop-8gb"), calibration="own")
    assert "gptq" in {t.quantizer for t in small.tensors}


def test_a_budget_of_weights_counts_small_tables_as_they_are_stored() -> None:
    """Rows of small float tables are padded to 8."""
    model = encoder()
    losses = dict.fromkeys(quantizable(model), 1.0)
    budget = 9_000_000
    plan = make_plan(model, load("phone-8gb"), target=Target(weight_bytes=budget), losses=losses)
    assert 0.99 * budget < weight_bytes(model, plan.tensors, stored=True) <= budget
