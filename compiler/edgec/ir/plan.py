"""`Plan`: what the planner decided, as pure data (JSON), with the reason for each decision."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

PLAN_FORMAT = 1


@dataclass(frozen=True)
class TensorPlan:
    """How one initializer is stored. `bits == 32` keeps float32 (group_size 0)."""

    name: str
    bits: int  # 4, 8 or 32
    group_size: int  # along the input dimension
    scheme: Literal["asymmetric", "float"]
    reason: str


@dataclass(frozen=True)
class KVPlan:
    bits: int  # 8 or 32
    page_tokens: int = 16
    reason: str = ""


@dataclass(frozen=True)
class Prediction:
    """Roofline estimates for the profile; zero where they do not apply."""

    download_bytes: int
    weight_bytes: int  # resident weights
    kv_bytes: int
    workspace_bytes: int
    peak_bytes: int
    prefill_tokens_per_second: float
    decode_tokens_per_second: float


@dataclass(frozen=True)
class Plan:
    model: str
    profile: str
    tensors: tuple[TensorPlan, ...]
    kv: KVPlan | None
    context_length: int  # tokens, 0 for graphs
    prefill_chunk: int  # tokens per prefill call, 0 for graphs
    dims: Mapping[str, int]  # upper bound of each symbolic dimension of a graph
    max_threads: int
    variants: tuple[str, ...]  # of "simd128", "relaxed", "simd128-threads", "relaxed-threads"
    activation_bits: int  # 8, or 32 when everything stays float
    prediction: Prediction
    reasons: tuple[str, ...] = ()
    format: int = PLAN_FORMAT

    def tensor(self, name: str) -> TensorPlan | None:
        return self._index().get(name)

    def _index(self) -> dict[str, TensorPlan]:
        cached = self.__dict__.get("_tensor_index")
        if cached is None:
            cached = {t.name: t for t in self.tensors}
            object.__setattr__(self, "_tensor_index", cached)
        return cached

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        fields = dict(data)
        fields["tensors"] = tuple(TensorPlan(**t) for t in fields["tensors"])
        fields["kv"] = KVPlan(**fields["kv"]) if fields["kv"] else None
        fields["prediction"] = Prediction(**fields["prediction"])
        fields["variants"] = tuple(fields["variants"])
        fields["reasons"] = tuple(fields["reasons"])
        return cls(**fields)


__all__ = ["PLAN_FORMAT", "KVPlan", "Plan", "Prediction", "TensorPlan"]
