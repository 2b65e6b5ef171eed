"""Plans that were edited by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from edgec.errors import UsageError
from edgec.ir.plan import KVPlan, Plan, Prediction, TensorPlan


def document() -> dict[str, Any]:
    plan = Plan(
        model="m",
        profile="tablet",
        tensors=(TensorPlan("a", 4, 32, "asymmetric", "linear"), TensorPlan("b", 32, 0, "float", "vector")),
        kv=KVPlan(16),
        context_length=512,
        prefill_chunk=64,
        dims={"z": 1, "a": 2},
        max_threads=4,
        variants=("simd128", "relaxed"),
        activation_bits=8,
        prediction=Prediction(1, 2, 3, 4, 5, 6.5, 7.0),
        reasons=("because",),
    )
    return plan.to_json()


def test_round_trip() -> None:
    data = document()
    assert list(data["dims"]) == ["a", "z"]
    assert Plan.from_json(data).to_json() == data
    data["kv"] = None
    data["context_length"] = data["prefill_chunk"] = 0
    assert Plan.from_json(data).kv is None


def test_fields_with_defaults_may_be_missing() -> None:
    data = document()
    del data["reasons"], data["format"], data["kv"]["reason"]
    assert Plan.from_json(data).reasons == ()


def test_whole_numbers_are_numbers_too() -> None:
    data = document()
    data["prediction"]["decode_tokens_per_second"] = 12
    assert Plan.from_json(data).prediction.decode_tokens_per_second == 12.0


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("tensors.0.bits", 9, "tensor `a` has `bits` 9, expected 2 to 8, 16 or 32"),
        ("tensors.0.bits", "4", r"`tensors\[0\].bits` is `4`, expected a whole number"),
        ("tensors.0.bits", True, r"`tensors\[0\].bits` is `True`"),
        ("tensors.0.bits", 32, "tensor `a` has `bits` 32 with `group_size` 32"),
        ("tensors.0.group_size", 48, "`group_size` 48 .* expected a multiple of 32"),
        ("tensors.0.group_size", 2048, "`group_size` 2048, decoders have at most 1024"),
        (
            "tensors.0.scheme",
            "symmetric",
            r"`tensors\[0\].scheme` is `symmetric`, expected `asymmetric`, `compact`, `ternary`, `channels`, `float`",
        ),
        ("tensors.0.scheme", "ternary", "`bits` 4 .* `scheme` `ternary`, expected .*`asymmetric` or `compact`"),
        ("tensors.0.scheme", "channels", "`channels` with `bits` 4 and `group_size` 32, expected 8 and 0"),
        ("tensors.1.name", "a", "tensor `a` is listed twice"),
        ("tensors.0.extra", 1, r"`tensors\[0\]` has an unknown field `extra`"),
        ("tensors", {}, "`tensors` is .* expected a list"),
        ("kv.bits", 4, "`kv.bits` is 4, expected 16 or 32"),
        ("kv.page_tokens", 32, "`kv.page_tokens` is 32"),
        ("kv", None, "are for decoders"),
        ("context_length", 100, "`context_length` is 100, expected a positive multiple of 16"),
        ("context_length", 0, "`context_length` is 0"),
        ("prefill_chunk", 1024, "`prefill_chunk` is 1024, expected 1 to 512"),
        ("dims.a", 0, "`dims.a` is 0"),
        ("dims.a", 1.5, "`dims.a` is `1.5`"),
        ("max_threads", 0, "`max_threads` is 0"),
        ("variants", ["relaxed"], "expected `simd128` and any of"),
        ("variants", ["simd128", "avx"], "expected `simd128` and any of"),
        ("variants", ["simd128", "simd128"], "expected `simd128` and any of"),
        ("activation_bits", 16, "`activation_bits` is 16"),
        ("activation_bits", 32, "needs every tensor at 32 bits"),
        ("prediction.peak_bytes", None, "`prediction.peak_bytes` is `None`"),
        ("format", 2, "`format` is 2, this edgec reads 1"),
        ("colour", "red", "document has an unknown field `colour`"),
    ],
)
def test_wrong_edits_are_named(path: str, value: Any, message: str) -> None:
    data = copy.deepcopy(document())
    *parents, last = path.split(".")
    target: Any = data
    for part in parents:
        target = target[int(part) if part.isdigit() else part]
    target[last] = value
    with pytest.raises(UsageError, match=message):
        Plan.from_json(data)


@pytest.mark.parametrize("name", ["model", "tensors", "prediction", "max_threads"])
def test_missing_fields_are_named(name: str) -> None:
    data = document()
    del data[name]
    with pytest.raises(UsageError, match=f"lacks the field `{name}`"):
        Plan.from_json(data)


@pytest.mark.parametrize("data", [None, [], "plan", 3])
def test_other_documents(data: Any) -> None:
    with pytest.raises(UsageError, match="expected an object"):
        Plan.from_json(data)
