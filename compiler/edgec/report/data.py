"""What the report shows, from the stages' results or from a bundle's manifest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgec.errors import BundleError, UsageError
from edgec.ir import CompressedModel, LoweredModule, Plan
from edgec.ir.lowered import ExitSlot

_LAYER = re.compile(r"(?:^|[._/])(?:layers?|blocks?|blk|h)[._/](\d+)(?=[._/]|$)")
REGIONS = ("static", "control", "stacks", "workspace", "weights", "kv")


@dataclass(frozen=True)
class TensorRow:
    """A quantized tensor."""

    name: str
    bits: int
    rows: int
    columns: int
    bytes: int
    relative_rmse: float
    reason: str
    output_error: float | None = None  # of what it makes of its inputs, relative; where it was calibrated

    @property
    def kind(self) -> str:
        """The name without what numbers the layer and without `.weight`: `self_attn.q_proj`."""
        match = _LAYER.search(self.name)
        rest = self.name[match.end() :] if match else self.name
        return rest.strip("._/").removesuffix(".weight")

    @property
    def layer(self) -> str:
        """`7` for a tensor of layer 7, `embedding`, `head` or `other` for the rest."""
        match = _LAYER.search(self.name)
        if match:
            return match[1]
        lowered = self.name.lower()
        if "embed" in lowered or "wte" in lowered:
            return "embedding"
        return "head" if "head" in lowered or "classifier" in lowered else "other"


@dataclass(frozen=True)
class Layer:
    """Bytes of one layer, split by bits."""

    name: str
    bytes_by_bits: Mapping[int, int]
    parameters: int
    worst_rmse: float

    @property
    def bytes(self) -> int:
        return sum(self.bytes_by_bits.values())

    @property
    def bits_per_weight(self) -> float:
        """Everything included: codes, scales and zero points."""
        return 8 * self.bytes / self.parameters if self.parameters else 0.0


@dataclass(frozen=True)
class DepthRow:
    """All matrices with the upper `bits` bits of nested codes."""

    bits: int
    packed_bytes: int
    relative_rmse: float


@dataclass(frozen=True)
class Report:
    model: str
    architecture: str
    kind: str
    parameters: int
    license: str | None
    source_format: str
    plan: Plan
    tensors: tuple[TensorRow, ...]  # numbered layers first, in order
    float_parameters: int  # kept as float32
    memory: Mapping[str, int]  # region -> bytes, in address order
    modules: Mapping[str, int]  # variant -> bytes
    relative_rmse: float
    exits: tuple[ExitSlot, ...] = ()  # of a decoder
    depths: tuple[DepthRow, ...] = ()  # below all bits of nested codes

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Numbered layers in order, then the rest; where no tensor has a number, each one is a layer."""
        numbered = any(row.layer.isdigit() for row in self.tensors)
        groups: dict[str, list[TensorRow]] = {}
        for row in self.tensors:
            groups.setdefault(row.layer if numbered else row.name, []).append(row)
        return tuple(_layer(name, rows) for name, rows in groups.items())

    @property
    def packed_bytes(self) -> int:
        return sum(row.bytes for row in self.tensors)

    def to_json(self) -> dict[str, Any]:
        """The stable form that `edgec inspect --json` prints."""
        return {
            "model": {
                "name": self.model,
                "architecture": self.architecture,
                "kind": self.kind,
                "parameters": self.parameters,
                "license": self.license,
                "source_format": self.source_format,
            },
            "profile": self.plan.profile,
            "context_length": self.plan.context_length,
            "prediction": asdict(self.plan.prediction),
            "relative_rmse": self.relative_rmse,
            "packed_bytes": self.packed_bytes,
            "float_bytes": 4 * self.float_parameters,
            "exits": [asdict(exit) for exit in self.exits],
            "depths": [asdict(depth) for depth in self.depths],
            "memory": dict(self.memory),
            "modules": dict(self.modules),
            "layers": [
                {
                    "name": layer.name,
                    "bytes": layer.bytes,
                    "parameters": layer.parameters,
                    "bits_per_weight": layer.bits_per_weight,
                    "worst_relative_rmse": layer.worst_rmse,
                }
                for layer in self.layers
            ],
            "tensors": [asdict(row) | {"layer": row.layer} for row in self.tensors],
        }


def from_stages(compressed: CompressedModel, lowered: LoweredModule) -> Report:
    """The report that goes into the bundle."""
    facts = compressed.model.facts
    return _report(
        {
            "name": facts.name,
            "architecture": facts.architecture,
            "kind": compressed.model.kind,
            "parameters": facts.parameters,
            "license": facts.license,
            "source_format": facts.source_format,
        },
        compressed.plan,
        compressed.report,
        {name: getattr(lowered.memory, name).bytes for name in REGIONS},
        {variant: len(wasm) for variant, wasm in lowered.variants.items()},
        lowered.exits,
    )


def from_manifest(manifest: Mapping[str, Any]) -> Report:
    """The same report from a valid manifest (docs/bundle-format.md).

    Raises `BundleError` when `plan` or `accuracy`, which may hold anything, are not edgec's.
    """
    try:
        return _report(
            manifest["model"],
            Plan.from_json(manifest["plan"]),
            manifest["accuracy"],
            {name: manifest["memory"][name]["bytes"] for name in REGIONS},
            {variant: manifest["files"][file]["bytes"] for variant, file in manifest["modules"].items()},
            [ExitSlot(**exit) for exit in manifest.get("exits", [])],
        )
    except (UsageError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(
            "the manifest's plan or accuracy report cannot be read", hint="it may be from another version of edgec"
        ) from error


def _report(
    model: Mapping[str, Any],
    plan: Plan,
    accuracy: Mapping[str, Any],
    memory: Mapping[str, int],
    modules: Mapping[str, int],
    exits: Iterable[ExitSlot],
) -> Report:
    place = {tensor.name: index for index, tensor in enumerate(plan.tensors)}  # in the graph
    rows = [_row(name, facts, plan) for name, facts in accuracy.get("tensors", {}).items()]
    rows.sort(
        key=lambda row: (not row.layer.isdigit(), int(row.layer) if row.layer.isdigit() else 0, place.get(row.name, 0))
    )
    return Report(
        model=model["name"],
        architecture=model["architecture"],
        kind=model["kind"],
        parameters=model["parameters"],
        license=model["license"],
        source_format=model["source_format"],
        plan=plan,
        tensors=tuple(rows),
        float_parameters=int(accuracy.get("float_parameters", 0)),
        memory=memory,
        modules=dict(sorted(modules.items())),
        relative_rmse=float(accuracy.get("relative_rmse", 0.0)),
        exits=tuple(exits),
        depths=tuple(
            DepthRow(int(depth["bits"]), int(depth["packed_bytes"]), float(depth["relative_rmse"]))
            for depth in accuracy.get("depths", [])
        ),
    )


def _row(name: str, facts: Mapping[str, Any], plan: Plan) -> TensorRow:
    planned = plan.tensor(name)
    return TensorRow(
        name=name,
        bits=int(facts["bits"]),
        rows=int(facts["rows"]),
        columns=int(facts["columns"]),
        bytes=int(facts["bytes"]),
        relative_rmse=float(facts.get("relative_rmse", 0.0)),
        reason=planned.reason if planned else "",
        output_error=None if facts.get("relative_output_error") is None else float(facts["relative_output_error"]),
    )


def _layer(name: str, rows: Iterable[TensorRow]) -> Layer:
    by_bits: dict[int, int] = {}
    parameters, worst = 0, 0.0
    for row in rows:
        by_bits[row.bits] = by_bits.get(row.bits, 0) + row.bytes
        parameters += row.rows * row.columns
        worst = max(worst, row.relative_rmse)
    return Layer(name, dict(sorted(by_bits.items())), parameters, worst)
