"""The pipeline on one page: named stages, each of which can be stopped after and dumped.

    frontend   MODEL                 -> ModelIR
    simplify   ModelIR               -> ModelIR
    slim       ModelIR               -> ModelIR, smaller; only if asked for
    plan       ModelIR + profile     -> Plan
    heal       ModelIR + Plan        -> ModelIR + Plan, trained; only if asked for
    compress   ModelIR + Plan        -> CompressedModel
    exits      CompressedModel       -> CompressedModel, with early exits; only if asked for
    lower      CompressedModel       -> LoweredModule
    bundle     LoweredModule         -> Bundle

Stages never import each other; they meet here, in the types of `edgec.ir`.
"""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from edgec import dumps, memory
from edgec.errors import OutputError, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgec.bundle import Bundle
    from edgec.cache import Cache
    from edgec.compress import Sample
    from edgec.compress.quantize import QuantizedRows
    from edgec.ir import CompressedModel, LoweredModule, ModelIR, Plan
    from edgec.ir.plan import QuantizerName, SlimPlan
    from edgec.plan import Target
    from edgec.slim import Slimmed

SCRATCH_BYTES = 32 << 20  # more than the object files of the largest models


@dataclass(frozen=True)
class CompileOptions:
    """What may be chosen beyond model and profile; None leaves a choice to the planner."""

    bits: int | None = None  # of weights: 2 to 8, or 32 for float
    context_length: int | None = None  # tokens
    kv_bits: int | None = None  # 16, or 32 for float
    max_dims: Mapping[str, int] | None = None  # upper bounds of a graph's symbolic dimensions
    fixed_inputs: Mapping[str, npt.ArrayLike] | None = None  # values of inputs that become constants
    precision: Literal["auto", "float32"] = "auto"
    quantizer: QuantizerName | None = None  # how codes are found
    group_size: int | None = None  # columns that share a scale
    target_bytes: int | None = None  # of the download; bits are then allocated by what each matrix loses
    target_bpw: float | None = None  # the same, in bits per weight, scales and zero points included
    min_accuracy: float | None = None  # the fewest bytes that keep so much of the float model, up to 1
    calibration: Path | None = None  # a text, pictures or an .npz file; without it a decoder writes its own text
    slim: float | None = None  # share of the bytes of float16 weights that are to go
    keep_vocabulary: int | Path | None = None  # number of tokens, or a text whose tokens stay
    heal_steps: int | None = None  # training of what was slimmed or rounded, in steps
    heal_minutes: float | None = None  # or in minutes
    heal_folder: Path | None = None  # where training is saved, and goes on from
    lora: Path | None = None  # folder of an adapter of the peft library, added to the weights
    adapter_rank: int | None = None  # largest rank of adapters that may be swapped at run time; None for no room
    exits: tuple[int, ...] | None = None  # layers after which a token may leave; empty: the trainer's choice
    exit_agreement: float = 0.95  # share of the tokens that leave early which the whole model would say too
    exit_steps: int | None = None  # of training
    plan: Plan | None = None  # instead of asking the planner
    task: str | None = None  # Optimum task, for example "feature-extraction"
    name: str | None = None  # of the model, instead of the source's
    profile_kernels: bool = False  # modules that tell when each kernel ends, for `edgec bench --roofline`
    cache: Path | None = None  # folder with finished work of earlier compilations, for the next one
    force: bool = False  # replace an existing bundle
    stop_after: str | None = None  # a stage's name
    dump: Path | None = None  # folder for every stage's result


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
    bundle: Bundle | None = None
    cache: Cache | None = None
    records: list[StageRecord] = field(default_factory=list)

    def advance(self, stage: str) -> Callable[[str, int, int], None]:
        """The progress callback that a stage gets."""

        def callback(item: str, done: int, total: int) -> None:
            if self.progress is not None:
                self.progress.advanced(stage, item, done, total)

        return callback


@dataclass(frozen=True)
class Stage:
    name: str
    purpose: str  # shown while it runs
    run: Callable[[Work], None]
    dump: Callable[[Work, Path], None]
    asked: Callable[[CompileOptions], bool] = lambda options: True  # whether it runs at all


def _frontend(work: Work) -> None:
    from edgec.frontend import load

    options = work.options
    ops = supported_operators()
    work.loaded = load(work.source, task=options.task, name=options.name, supported_ops=ops, lora=options.lora)
    work.loaded.verify()


def _simplify(work: Work) -> None:
    from edgec.passes import PIPELINE, fix_inputs, simplify

    assert work.loaded is not None
    work.loaded = fix_inputs(work.loaded, work.options.fixed_inputs or {})
    advance = work.advance("simplify")
    done = itertools.count(1)
    work.model = simplify(work.loaded, observer=lambda name, _graph: advance(name, next(done), len(PIPELINE)))
    work.loaded = None


def _slim(work: Work) -> None:
    from edgec.slim import slim

    options = work.options
    assert work.model is not None
    work.whole = work.model
    work.slimmed, work.slim_plan = slim(
        work.model,
        fraction=options.slim,
        vocabulary=options.keep_vocabulary,
        plan=options.plan.slim if options.plan is not None else None,
        calibration=options.calibration,
        write=lambda: _own_texts(work),
        store=work.cache,
        source_key=_source_key(work, work.model) if work.cache else "",
        progress=work.advance("slim"),
    )
    work.model = work.slimmed.model


def _own_texts(work: Work) -> list[str] | None:
    """What the whole model writes where the user gives nothing, once; None for models that cannot."""
    model = work.whole or work.model
    assert model is not None
    if work.options.calibration is not None or model.decoder is None or model.tokenizer is None:
        return None
    if work.texts is None:
        from edgec.slim import own_texts

        key = _source_key(work, model) if work.cache else ""
        work.texts = own_texts(model, store=work.cache, source_key=key, progress=work.advance("slim"))
    return work.texts


def _slims(options: CompileOptions) -> bool:
    replayed = options.plan is not None and options.plan.slim is not None
    return options.slim is not None or options.keep_vocabulary is not None or replayed


def _plan(work: Work) -> None:
    _choose(work)
    assert work.model is not None and work.plan is not None
    context = work.plan.context_length
    work.model, work.whole = work.model.for_context(context), work.whole and work.whole.for_context(context)


def _choose(work: Work) -> None:
    options = work.options
    if options.plan is not None:
        work.plan = options.plan
        return
    from edgec.plan import Target

    assert work.model is not None
    target, losses = None, None
    if options.min_accuracy is not None:
        _smallest(work, work.model, options.min_accuracy)
        return
    if options.target_bytes is not None or options.target_bpw is not None:
        target = Target(options.target_bytes, options.target_bpw)
    elif work.slim_plan is not None and work.slim_plan.weight_bytes:
        target = Target(weight_bytes=work.slim_plan.weight_bytes)
    if target is not None:  # a mix was searched with its bits
        searched = work.slimmed.losses if work.slimmed is not None else None
        losses = searched if searched is not None else _losses(work, work.model)
    work.plan = _made(work, work.model, target, losses)


def _made(work: Work, model: ModelIR, target: Target | None, losses: Mapping[str, float] | None) -> Plan:
    """The planner's answer."""
    from edgec import profiles
    from edgec.plan import make_plan

    options = work.options
    plan = make_plan(
        model,
        profiles.load(work.profile),
        bits=options.bits,
        context_length=options.context_length,
        kv_bits=options.kv_bits,
        max_dims=options.max_dims,
        precision=options.precision,
        quantizer=options.quantizer,
        group_size=options.group_size,
        calibration="given" if options.calibration else "own" if model.kind == "decoder" else "none",
        target=target,
        losses=losses,
        adapter_rank=options.adapter_rank,
        compact=True if work.slimmed is not None and work.slimmed.losses is not None else None,
    )
    notes = () if model.facts.note is None else (model.facts.note,)
    plan = dataclasses.replace(plan, slim=work.slim_plan, reasons=(*notes, *plan.reasons))
    return _with_real_memory(model, plan) if model.kind == "graph" else plan


def _smallest(work: Work, model: ModelIR, wanted: float) -> None:
    """Plans are compressed and judged until the smallest one that is accurate enough is found."""
    from edgec.compress import Agreement, compress
    from edgec.ir.plan import AccuracyPlan
    from edgec.plan import Target, smallest, weight_bytes

    losses = _losses(work, model)
    assert work.judged is not None
    agreement = Agreement(model, work.judged)
    key = _source_key(work, model) if work.cache else ""

    def make(bits: float) -> tuple[Plan, int]:
        plan = _made(work, model, Target(bits_per_weight=bits), losses)
        return plan, weight_bytes(model, plan.tensors, stored=True)

    def judge(plan: Plan) -> float:
        return agreement(compress(model, plan, samples=work.samples, store=work.cache, source_key=key))

    found = smallest(model.facts.name, wanted, make, judge, work.advance("plan"))
    accuracy = AccuracyPlan(agreement.measure, wanted, found.reached, len(work.judged), found.trials)
    work.plan = dataclasses.replace(found.plan, accuracy=accuracy)


def _with_real_memory(model: ModelIR, plan: Plan) -> Plan:
    """Which of a graph's activations are ever in memory, and when, is what the lowering decides."""
    from edgec.compress import hollow
    from edgec.lower.wasm import memory_plan

    memory = memory_plan(hollow(model, plan))
    sizes = {"weight_bytes": memory.weights.bytes, "workspace_bytes": memory.workspace.bytes}
    prediction = dataclasses.replace(plan.prediction, **sizes, peak_bytes=memory.maximum_bytes)
    return dataclasses.replace(plan, prediction=prediction)


def _losses(work: Work, model: ModelIR) -> dict[str, float]:
    """What each matrix loses, measured."""
    from edgec.compress import sensitivities
    from edgec.plan import quantizable

    samples = _samples(work, model)
    if samples is None:
        raise UsageError(
            f"a target needs calibration data, and `{model.facts.name}` cannot make its own",
            hint="give a text, a folder of pictures or an .npz file with `--calibration`",
        )
    return sensitivities(
        model,
        quantizable(model),
        samples,
        store=work.cache,
        source_key=_source_key(work, model),
        progress=work.advance("plan"),
    )


def _samples(work: Work, model: ModelIR) -> list[Sample] | None:
    """Calibration data: the user's, else text that the model writes, else none. Made once.

    Where an accuracy is asked for, or was when the plan was made, some of it is left out.
    """
    from edgec.compress import generated_samples, held_out, read_samples, whole_samples

    if work.samples is None:
        if work.options.calibration is not None:
            work.samples = read_samples(model, work.options.calibration)
        elif work.whole is not None and (texts := _own_texts(work)) is not None:
            work.samples = whole_samples(model, texts)  # what is left of the model would write worse
        elif model.kind == "decoder":
            work.samples = generated_samples(model, store=work.cache, source_key=_source_key(work, model))
        options = work.options
        judges = options.min_accuracy is not None or (options.plan is not None and options.plan.accuracy is not None)
        if work.samples is not None and judges:
            work.samples, work.judged = held_out(work.samples)
    return work.samples


# Options that change no weight before it is quantized. With any other, weights are told by their content.
_HARMLESS = frozenset(
    [
        *("bits", "context_length", "kv_bits", "max_dims", "precision", "quantizer", "group_size"),
        *("target_bytes", "target_bpw"),
        *("min_accuracy", "plan", "calibration", "name", "profile_kernels", "cache", "force", "stop_after", "dump"),
        *("adapter_rank", "exits", "exit_agreement", "exit_steps"),
        "lora",  # is part of the source's hash
    ]
)


def _source_key(work: Work, model: ModelIR) -> str:
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
    return key_of(model.facts.source_sha256, str(model.decoder), nodes, weights)


def _heal(work: Work) -> None:
    from edgec.compress import whole_samples
    from edgec.heal.train import heal
    from edgec.ir.plan import HealPlan

    options, model, plan = work.options, work.model, work.plan
    assert model is not None and plan is not None
    texts = _training_texts(work, work.whole or model)
    result = heal(
        work.whole or model,
        model,
        plan,
        _training_samples(work, model) if texts is None else whole_samples(model, texts),
        work.slimmed.kept if work.slimmed is not None else None,
        originals=None if texts is None or work.whole is None else whole_samples(work.whole, texts),
        steps=options.heal_steps,
        minutes=options.heal_minutes,
        folder=_heal_folder(work),
        progress=work.advance("heal"),
    )
    tensors = tuple(
        dataclasses.replace(tensor, quantizer="healed") if tensor.name in result.rows else tensor
        for tensor in plan.tensors
    )
    done = HealPlan(result.steps, result.before, result.after)
    work.model, work.healed = result.model, result.rows
    work.plan = dataclasses.replace(plan, tensors=tensors, heal=done)


def _heal_folder(work: Work) -> Path | None:
    """Where training is saved: the folder that was given, else one beside the bundle until that is written."""
    if work.options.heal_folder is not None or work.output is None:
        return work.options.heal_folder
    return work.output.parent / f"{work.output.name}.heal"


def _heals(options: CompileOptions) -> bool:
    return options.heal_steps is not None or options.heal_minutes is not None


def _training_texts(work: Work, model: ModelIR) -> list[str] | None:
    """What a model that reads text is trained on; None for one that is given arrays."""
    from edgec.compress import is_archive
    from edgec.slim import TRAINING_TOKENS, own_texts, parted, read_texts

    calibration = work.options.calibration
    if model.tokenizer is None or (calibration is not None and is_archive(calibration)):
        return None
    if calibration is not None:
        return parted(read_texts(model, calibration), model)[0]
    if model.decoder is None:
        return None
    key = _source_key(work, model) if work.cache else ""
    texts = own_texts(model, tokens=TRAINING_TOKENS, store=work.cache, source_key=key, progress=work.advance("heal"))
    return parted(texts, model)[0]


def _training_samples(work: Work, model: ModelIR) -> list[Sample]:
    samples = _samples(work, model)
    if samples is None:
        raise UsageError(
            f"healing needs data, and `{model.facts.name}` cannot make its own",
            hint="give a text or an .npz file with `--calibration`",
        )
    return samples


def _compress(work: Work) -> None:
    from edgec.compress import compress, needs_samples

    model, plan = work.model, work.plan
    assert model is not None and plan is not None
    advance, samples = work.advance("compress"), None
    if needs_samples(plan) or work.options.calibration is not None:  # the user's is read in any case: mistakes show
        advance("calibration data", 0, 1)
        samples = _samples(work, model)
    key = _source_key(work, model) if work.cache else ""
    work.compressed = compress(
        model, plan, samples=samples, healed=work.healed, store=work.cache, source_key=key, progress=advance
    )
    work.samples = None
    work.compressed.verify()
    if work.slimmed is not None and work.slimmed.judge is not None:
        _judge(work, work.compressed, work.slimmed.judge)


def _judge(work: Work, compressed: CompressedModel, judge: Callable[[ModelIR], float]) -> None:
    """What the slimmed model loses as it is packed now, beside what was measured while its mix was searched."""
    from edgec.compress import dequantized_model

    assert compressed.plan.slim is not None
    loss = round(judge(dequantized_model(compressed)), 6)
    slim = dataclasses.replace(compressed.plan.slim, loss=loss)
    work.plan = dataclasses.replace(compressed.plan, slim=slim)
    work.compressed = dataclasses.replace(compressed, plan=work.plan)


def _exits(work: Work) -> None:
    from edgec.compress import whole_samples
    from edgec.heal.exits import STEPS, spread, train_exits

    compressed, options = work.compressed, work.options
    assert compressed is not None and options.exits is not None
    model = compressed.model
    texts = _training_texts(work, work.whole or model)
    samples = _training_samples(work, model) if texts is None else whole_samples(model, texts)
    heads = train_exits(
        compressed,
        samples,
        options.exits or spread(model.decoder.layers if model.decoder else 0),
        agreement=options.exit_agreement,
        steps=options.exit_steps or STEPS,
        progress=work.advance("exits"),
    )
    work.samples = None
    work.compressed = dataclasses.replace(compressed, exits=heads)


def _lower(work: Work) -> None:
    from edgec.lower.wasm import lower

    assert work.compressed is not None
    _check_scratch()
    profile_kernels = work.options.profile_kernels
    advance = work.advance("lower")
    work.lowered = lower(work.compressed, profile_kernels=profile_kernels, store=work.cache, progress=advance)


def _check_scratch() -> None:
    """LLVM writes object files to the temporary folder, and ends the whole process when it cannot."""
    folder = tempfile.gettempdir()
    if shutil.disk_usage(folder).free < SCRATCH_BYTES:
        raise OutputError(
            f"less than {SCRATCH_BYTES >> 20} MiB are left in the temporary folder `{folder}`",
            hint="free some space, or set TMPDIR to another folder",
        )


def _bundle(work: Work) -> None:
    from edgec import bundle, report, run

    compressed, lowered = work.compressed, work.lowered
    assert compressed is not None and lowered is not None and work.output is not None
    page = report.render(report.from_stages(compressed, lowered))
    total = sum(len(wasm) for wasm in lowered.variants.values()) + sum(w.data.nbytes for w in lowered.weights)
    advance, written = work.advance("bundle"), 0

    def progress(count: int) -> None:
        nonlocal written
        written += count
        advance("", min(written, total), total)

    work.bundle = bundle.write(
        lowered,
        model=compressed.model,
        plan=compressed.plan,
        accuracy=compressed.report,
        out=work.output,
        report_html=page.encode(),
        golden=None if work.options.profile_kernels else run.make_golden,
        force=work.options.force,
        progress=progress,
    )
    if _heals(work.options) and work.options.heal_folder is None:
        shutil.rmtree(_heal_folder(work) or "", ignore_errors=True)


def supported_operators() -> Collection[str]:
    """ONNX operators that can be compiled, so that a frontend refuses others before any work."""
    from edgec.lower.wasm.graph import SUPPORTED_OPS
    from edgec.passes import SIMPLIFIED_OPS

    return SUPPORTED_OPS | SIMPLIFIED_OPS


STAGES = (
    Stage("frontend", "reading the model", _frontend, dumps.frontend),
    Stage("simplify", "simplifying the graph", _simplify, dumps.simplify),
    Stage("slim", "slimming the model", _slim, dumps.slim, _slims),
    Stage("plan", "planning for the device", _plan, dumps.plan),
    Stage("heal", "healing the weights", _heal, dumps.heal, _heals),
    Stage("compress", "quantizing the weights", _compress, dumps.compress),
    Stage("exits", "training early exits", _exits, dumps.exits, lambda options: options.exits is not None),
    Stage("lower", "generating WebAssembly", _lower, dumps.lower),
    Stage("bundle", "writing the bundle", _bundle, dumps.bundle),
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
    _check_healing(options)
    _check_adapters(options)
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


def _check_healing(options: CompileOptions) -> None:
    if options.heal_steps is not None and options.heal_minutes is not None:
        raise UsageError("a number of steps and a number of minutes exclude each other", hint="leave one of them out")
    if _heals(options) and options.min_accuracy is not None:
        raise UsageError("an accuracy is measured before anything is healed", hint="leave one of both out")
    if _heals(options) or options.exits is not None:
        from edgec.heal import check_installed

        check_installed()


def _check_adapters(options: CompileOptions) -> None:
    if options.adapter_rank is None:
        return
    if options.plan is not None:
        raise UsageError("the plan says whether there is room for adapters", hint="make the plan with `--adapters`")
    if _slims(options):
        raise UsageError("an adapter fits a whole model, not a slimmed one", hint="merge it with `--lora`")
    if options.profile_kernels:
        raise UsageError("kernels are timed without adapters", hint="leave `--adapters` out")


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
