"""The stages that run only if asked for: `slim`, `heal`, `exits` and `adapter`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from edgec.errors import UsageError
from edgec.pipeline.data import (
    calibration_samples,
    more_samples,
    texts_of_its_own,
    training_samples,
    training_texts,
    training_views,
)
from edgec.pipeline.work import Work

if TYPE_CHECKING:
    from edgec.compress import PictureViews
    from edgec.heal.train import Healed
    from edgec.ir import ModelIR, Plan


def slim_model(work: Work) -> None:
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
        write=lambda: texts_of_its_own(work),
        store=work.cache,
        source_key=work.key(work.model),
        progress=work.advance("slim"),
    )
    work.model = work.slimmed.model


def heal_weights(work: Work) -> None:
    from edgec.compress import whole_samples
    from edgec.heal.train import heal

    options, model, plan = work.options, work.model, work.plan
    assert model is not None and plan is not None
    views = training_views(work, model)
    if views is not None:
        _heal_pictures(work, model, plan, views)
        return
    texts = training_texts(work, work.whole or model)
    result = heal(
        work.whole or model,
        model,
        plan,
        training_samples(work, model) if texts is None else whole_samples(model, texts),
        work.slimmed.kept if work.slimmed is not None else None,
        originals=None if texts is None or work.whole is None else whole_samples(work.whole, texts),
        steps=options.heal_steps,
        minutes=options.heal_minutes,
        folder=work.heal_folder(),
        progress=work.advance("heal"),
    )
    _take(work, plan, result)


def _heal_pictures(work: Work, model: ModelIR, plan: Plan, views: PictureViews) -> None:
    """A classifier begins with the codes that its plan's quantizers find."""
    from edgec.compress import compress, needs_samples
    from edgec.heal.pictures import heal_pictures

    options, advance = work.options, work.advance("heal")
    samples = calibration_samples(work, model) if needs_samples(plan) else None
    start = compress(
        model,
        plan,
        samples=samples,
        more=more_samples(work, model),
        store=work.cache,
        source_key=work.key(model),
        progress=advance,
    )
    result = heal_pictures(
        model,
        start,
        views,
        steps=options.heal_steps,
        minutes=options.heal_minutes,
        folder=work.heal_folder(),
        progress=advance,
    )
    _take(work, plan, result)


def _take(work: Work, plan: Plan, result: Healed) -> None:
    from edgec.ir.plan import HealPlan

    tensors = tuple(
        dataclasses.replace(tensor, quantizer="healed") if tensor.name in result.rows else tensor
        for tensor in plan.tensors
    )
    done = HealPlan(result.steps, result.before, result.after)
    work.model, work.healed = result.model, result.rows
    work.plan = dataclasses.replace(plan, tensors=tensors, heal=done)


def train_exit_heads(work: Work) -> None:
    from edgec.compress import whole_samples
    from edgec.heal.exits import STEPS, spread, train_exits

    compressed, options = work.compressed, work.options
    assert compressed is not None and options.exits is not None
    model = compressed.model
    texts = training_texts(work, work.whole or model)
    samples = training_samples(work, model) if texts is None else whole_samples(model, texts)
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


def train_healing_adapter(work: Work) -> None:
    from edgec.compress import whole_samples
    from edgec.heal.adapter import train_adapter

    teacher, compressed, lowered, options = work.model, work.compressed, work.lowered, work.options
    assert teacher is not None and compressed is not None and lowered is not None and options.heal_adapter is not None
    if lowered.adapters is None:
        raise UsageError(f"`{teacher.facts.name}` has no linears with room for adapters")
    texts = training_texts(work, teacher)
    work.adapter = train_adapter(
        teacher,
        compressed,
        lowered.adapters.linears,
        training_samples(work, teacher) if texts is None else whole_samples(teacher, texts),
        rank=lowered.adapters.rank,
        steps=options.heal_adapter,
        folder=work.heal_folder(),
        progress=work.advance("adapter"),
    )
    work.samples = None


__all__ = ["heal_weights", "slim_model", "train_exit_heads", "train_healing_adapter"]
