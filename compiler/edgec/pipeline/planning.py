"""The stage `plan`: the planner is asked, with what it needs to know measured first."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgec.errors import UsageError
from edgec.ir.plan import WEIGHT_BITS
from edgec.pipeline.data import calibration_samples, training_views
from edgec.pipeline.work import Work

if TYPE_CHECKING:
    from edgec.ir import ModelIR, Plan
    from edgec.plan import Target
    from edgec.plan.allocate import Errors
    from edgec.profiles import Profile

_JUDGES = 48  # pictures on which losses of codes are measured


def plan_for_device(work: Work) -> None:
    _choose(work)
    assert work.model is not None and work.plan is not None
    context = work.plan.context_length
    work.model, work.whole = work.model.for_context(context), work.whole and work.whole.for_context(context)


def _choose(work: Work) -> None:
    options = work.options
    if options.plan is not None:
        work.plan = options.plan
        return
    from edgec import profiles
    from edgec.plan import Target

    assert work.model is not None
    target, losses = None, None
    if options.min_accuracy is not None:
        plan = _smallest(work, work.model, options.min_accuracy)
        work.plan = foreseen(work.model, plan, profiles.load(work.profile))
        return
    if options.target_bytes is not None or options.target_bpw is not None:
        target = Target(options.target_bytes, options.target_bpw)
    elif work.slim_plan is not None and work.slim_plan.weight_bytes:
        target = Target(weight_bytes=work.slim_plan.weight_bytes)
    if target is not None:  # a mix was searched with its bits
        searched = work.slimmed.losses if work.slimmed is not None else None
        losses = searched if searched is not None else _losses(work, work.model)
    errors = _errors(work, work.model, losses or {})
    plan = _made(work, work.model, target, losses, errors)
    if losses is not None and (again := _losses_of_codes(work, work.model, plan, errors)) is not None:
        plan = _made(work, work.model, target, again, errors)
    work.plan = foreseen(work.model, plan, profiles.load(work.profile))


def _made(
    work: Work,
    model: ModelIR,
    target: Target | None,
    losses: Mapping[str, float] | None,
    errors: Mapping[str, Errors] | None,
) -> Plan:
    """The planner's answer, without predictions."""
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
        errors=errors,
        adapter_rank=options.adapter_rank,
        rotated=options.rotate,
        nested=options.nested,
        compact=True if _searched(work) else None,
    )
    notes = () if model.facts.note is None else (model.facts.note,)
    return dataclasses.replace(plan, slim=work.slim_plan, reasons=(*notes, *plan.reasons))


def _smallest(work: Work, model: ModelIR, wanted: float) -> Plan:
    """Plans are compressed and judged until the smallest one that is accurate enough is found."""
    from edgec.compress import Agreement, compress
    from edgec.ir.plan import AccuracyPlan
    from edgec.plan import Target, smallest, weight_bytes

    losses = _losses(work, model)
    errors = _errors(work, model, losses)
    assert work.judged is not None
    agreement = Agreement(model, work.judged)
    key = work.key(model)

    def make(bits: float) -> tuple[Plan, int]:
        plan = _made(work, model, Target(bits_per_weight=bits), losses, errors)
        return plan, weight_bytes(model, plan.tensors, stored=True)

    def judge(plan: Plan) -> float:
        return agreement(compress(model, plan, samples=work.samples, store=work.cache, source_key=key))

    found = smallest(model.facts.name, wanted, make, judge, work.advance("plan"))
    accuracy = AccuracyPlan(agreement.measure, wanted, found.reached, len(work.judged), found.trials)
    return dataclasses.replace(found.plan, accuracy=accuracy)


def foreseen(model: ModelIR, plan: Plan, profile: Profile) -> Plan:
    """The plan with predictions made of what the lowering would make of it: kernels and memory, but no code."""
    from edgec.compress import hollow
    from edgec.lower.wasm import outline
    from edgec.plan import foresee, foreseen_steps

    return foresee(plan, outline(hollow(model, plan), foreseen_steps(model, plan)), profile)


def _searched(work: Work) -> bool:
    """Whether a mix was searched, whose scales are compact."""
    return work.slimmed is not None and work.slimmed.losses is not None


def _errors(work: Work, model: ModelIR, losses: Mapping[str, float]) -> Mapping[str, Errors]:
    """What rounding changes in the matrices of `losses`, measured where that is needed."""
    from edgec.compress import rounding_errors
    from edgec.plan import NARROW, to_measure

    narrow = WEIGHT_BITS[-1] if _searched(work) else NARROW
    return rounding_errors(model, list(losses), to_measure(model, work.options.group_size), narrow=narrow)


def _losses(work: Work, model: ModelIR) -> dict[str, float]:
    """What each matrix loses, measured."""
    from edgec.compress import sensitivities
    from edgec.plan import quantizable

    samples = calibration_samples(work, model)
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
        source_key=work.key(model),
        progress=work.advance("plan"),
    )


def _losses_of_codes(work: Work, model: ModelIR, plan: Plan, errors: Mapping[str, Errors]) -> dict[str, float] | None:
    """What each matrix of a classifier of pictures loses with the codes that calibration finds, at the bits that `plan`
    gives it, as it would be at `PROBE_BITS`; None for other models and other data.

    How much less that is than what rounding to nearest loses is very different from one matrix to the next
    (docs/decisions/0044). Half of the pictures are calibrated on, the other ones judge.
    """
    from edgec.compress import compress, needs_samples, sensitivities
    from edgec.plan import at_probe

    samples = calibration_samples(work, model)
    if samples is None or len(samples) < 2 or training_views(work, model) is None or not needs_samples(plan):
        return None
    advance, quantized = work.advance("plan"), {tensor.name: tensor for tensor in plan.tensors if tensor.quantized}
    key = work.key(model)
    coded = compress(model, plan, samples=samples[::2], store=work.cache, source_key=key, progress=advance)
    found = sensitivities(
        model,
        list(quantized),
        samples[1::2],
        coded=coded,
        pictures=_JUDGES,
        store=work.cache,
        source_key=key,
        progress=advance,
    )
    return {name: at_probe(loss, quantized[name], errors.get(name)) for name, loss in found.items()}


__all__ = ["foreseen", "plan_for_device"]
