"""What a compilation has made so far, and who watches it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgec.bundle.adapters import SUFFIX
from edgec.pipeline.options import CompileOptions, rotates

if TYPE_CHECKING:
    from edgec.bundle import Bundle
    from edgec.cache import Cache
    from edgec.compress import Sample
    from edgec.compress.quantize import QuantizedRows
    from edgec.heal.adapter import HealingAdapter
    from edgec.ir import CompressedModel, LoweredModule, ModelIR, Plan
    from edgec.ir.plan import SlimPlan
    from edgec.slim import Slimmed


@dataclass(frozen=True)
class StageRecord:
    """What a stage cost."""

    stage: str
    seconds: float
    peak_bytes: int  # highest resident memory of the process during the stage; 0 where it is not known


class Progress(Protocol):
    """Whoever wants to watch a compilation."""

    def started(self, stage: str) -> None: ...

    def advanced(self, stage: str, item: str, done: int, total: int) -> None:
        """`done` of `total` units of work; `item` is what comes next."""

    def finished(self, record: StageRecord) -> None: ...


@dataclass
class Work:
    """What a compilation was asked for and has made so far."""

    source: str
    profile: str
    output: Path | None
    options: CompileOptions
    progress: Progress | None = None
    loaded: ModelIR | None = None
    model: ModelIR | None = None
    plan: Plan | None = None
    samples: list[Sample] | None = None  # calibration data
    judged: list[Sample] | None = None  # what was left out of it, to judge by
    texts: list[str] | None = None  # what the model writes itself
    whole: ModelIR | None = None  # before it was slimmed
    slimmed: Slimmed | None = None
    slim_plan: SlimPlan | None = None
    healed: Mapping[str, QuantizedRows] | None = None  # codes
    compressed: CompressedModel | None = None
    lowered: LoweredModule | None = None
    adapter: HealingAdapter | None = None
    bundle: Bundle | None = None
    cache: Cache | None = None
    records: list[StageRecord] = field(default_factory=list)

    def advance(self, stage: str) -> Callable[[str, int, int], None]:
        """The progress callback that a stage gets."""

        def callback(item: str, done: int, total: int) -> None:
            if self.progress is not None:
                self.progress.advanced(stage, item, done, total)

        return callback

    def key(self, model: ModelIR) -> str:
        """Of what the cache has of `model`; empty without a cache."""
        return source_key(self, model) if self.cache else ""

    def adapter_file(self) -> Path | None:
        """Where the adapter goes that was trained along with the bundle: beside it."""
        return self.output.with_name(f"{self.output.stem}.healed{SUFFIX}") if self.output is not None else None

    def heal_folder(self) -> Path | None:
        """Where training is saved: the folder that was given, else one beside the bundle until that is written."""
        if self.options.heal_folder is not None or self.output is None:
            return self.options.heal_folder
        return self.output.parent / f"{self.output.name}.heal"


@dataclass(frozen=True)
class Stage:
    name: str
    purpose: str  # shown while it runs
    run: Callable[[Work], None]
    dump: Callable[[Work, Path], None]
    asked: Callable[[CompileOptions], bool] = lambda options: True  # whether it runs at all


# Options that change no weight before it is quantized. With any other, weights are told by their content.
_HARMLESS = frozenset(
    [
        *("bits", "context_length", "kv_bits", "max_dims", "precision", "quantizer", "group_size", "nested"),
        *("target_bytes", "target_bpw"),
        *("min_accuracy", "plan", "calibration", "name", "profile_kernels", "cache", "force", "stop_after", "dump"),
        *("adapter_rank", "heal_adapter", "exits", "exit_agreement", "exit_steps"),
        "lora",  # is part of the source's hash
        "rotate",  # is part of the key
    ]
)


def source_key(work: Work, model: ModelIR) -> str:
    """Names the model, weights and all; without reading them where they are the source's own."""
    from edgec.ir.store import key_of

    others = [f for f in dataclasses.fields(work.options) if f.name not in _HARMLESS]
    changed = work.slim_plan is not None or any(getattr(work.options, f.name) != f.default for f in others)
    graph = model.model.graph
    nodes = [
        [node.domain, node.op_type, [v and v.name for v in node.inputs], [v.name for v in node.outputs]]
        + [f"{name}={attribute.value}" for name, attribute in sorted(node.attributes.items())]
        for node in graph
    ]
    weights: list[list[str]] = []
    for name, value in graph.initializers.items():
        weights.append([name, str(value.dtype), str(value.shape)])
        if changed and value.const_value is not None:
            weights[-1].append(key_of(value.const_value.tobytes()))
    rotated = ["rotated"] if rotates(work.options) else []
    return key_of(model.facts.source_sha256, str(model.decoder), nodes, weights, *rotated)


__all__ = ["Progress", "Stage", "StageRecord", "Work", "source_key"]
