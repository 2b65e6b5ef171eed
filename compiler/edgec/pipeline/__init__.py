"""The pipeline on one page: named stages, each of which can be stopped after and dumped.

    frontend   MODEL                 -> ModelIR
    simplify   ModelIR               -> ModelIR
    slim       ModelIR               -> ModelIR, smaller; only if asked for
    plan       ModelIR + profile     -> Plan
    heal       ModelIR + Plan        -> ModelIR + Plan, trained; only if asked for
    compress   ModelIR + Plan        -> CompressedModel
    exits      CompressedModel       -> CompressedModel, with early exits; only if asked for
    lower      CompressedModel       -> LoweredModule
    adapter    LoweredModule         -> LowRank pairs that make up for the codes; only if asked for
    bundle     LoweredModule         -> Bundle

Stages never import each other; they meet here, in the types of `edgec.ir`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from edgec import dumps, memory
from edgec.errors import UsageError
from edgec.pipeline.making import compress_weights, lower_to_wasm, write_bundle
from edgec.pipeline.options import CompileOptions, check_options, heals, slims, trains_adapter
from edgec.pipeline.planning import plan_for_device
from edgec.pipeline.reading import read_model, simplify_graph, supported_operators
from edgec.pipeline.training import heal_weights, slim_model, train_exit_heads, train_healing_adapter
from edgec.pipeline.work import Progress, Stage, StageRecord, Work

if TYPE_CHECKING:
    from edgec.bundle import Bundle

STAGES = (
    Stage("frontend", "reading the model", read_model, dumps.frontend),
    Stage("simplify", "simplifying the graph", simplify_graph, dumps.simplify),
    Stage("slim", "slimming the model", slim_model, dumps.slim, slims),
    Stage("plan", "planning for the device", plan_for_device, dumps.plan),
    Stage("heal", "healing the weights", heal_weights, dumps.heal, heals),
    Stage("compress", "quantizing the weights", compress_weights, dumps.compress),
    Stage("exits", "training early exits", train_exit_heads, dumps.exits, lambda options: options.exits is not None),
    Stage("lower", "generating WebAssembly", lower_to_wasm, dumps.lower),
    Stage("adapter", "training an adapter", train_healing_adapter, dumps.adapter, trains_adapter),
    Stage("bundle", "writing the bundle", write_bundle, dumps.bundle),
)
STAGE_NAMES = tuple(stage.name for stage in STAGES)


def compile_model(
    source: str | Path,
    profile: str,
    output: str | Path,
    options: CompileOptions | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Compile `source` (a folder, an ONNX or GGUF file, a hub id) for a device profile into the folder `output`.

    Raises the subclasses of `EdgecError`; nothing half-written stays behind.
    """
    options = options or CompileOptions()
    if options.stop_after not in (None, STAGE_NAMES[-1]):
        raise UsageError("`compile_model` makes a whole bundle", hint="call `run_stages` to stop after a stage")
    work = run_stages(source, profile, output, options, progress)
    assert work.bundle is not None
    return work.bundle


def run_stages(
    source: str | Path,
    profile: str,
    output: str | Path | None = None,
    options: CompileOptions | None = None,
    progress: Progress | None = None,
) -> Work:
    """Run the stages up to `options.stop_after` (all by default) and return everything that was made."""
    options = options or CompileOptions()
    last = options.stop_after or STAGE_NAMES[-1]
    if last not in STAGE_NAMES:
        raise UsageError(f"there is no stage `{last}`", hint=f"the stages are {', '.join(STAGE_NAMES)}")
    if not any(stage.name == last and stage.asked(options) for stage in STAGES):
        raise UsageError(f"the stage `{last}` does nothing here", hint="nothing was asked of it")
    if last == "bundle":
        if output is None:
            raise UsageError("a bundle needs an output folder")
        from edgec.bundle import check_destination

        check_destination(output, force=options.force)  # before the work, not after it
    check_options(options)
    if options.plan is None:
        from edgec import profiles

        profiles.load(profile)
    work = Work(str(source), profile, Path(output) if output is not None else None, options, progress)
    if options.cache is not None:
        from edgec.cache import Cache

        work.cache = Cache(options.cache)
    try:
        for stage in STAGES:
            if not stage.asked(options):
                continue
            work.records.append(_run(stage, work))
            if options.dump is not None:
                stage.dump(work, options.dump / f"{len(work.records)}-{stage.name}")
            if stage.name == last:
                break
    finally:
        if work.cache is not None:
            work.cache.prune()
    return work


def _run(stage: Stage, work: Work) -> StageRecord:
    if work.progress is not None:
        work.progress.started(stage.name)
    memory.reset_peak()
    begin = time.perf_counter()
    stage.run(work)
    record = StageRecord(stage.name, time.perf_counter() - begin, memory.peak_bytes())
    if work.progress is not None:
        work.progress.finished(record)
    return record


__all__ = [
    "STAGES",
    "STAGE_NAMES",
    "CompileOptions",
    "Progress",
    "Stage",
    "StageRecord",
    "Work",
    "compile_model",
    "run_stages",
    "supported_operators",
]
