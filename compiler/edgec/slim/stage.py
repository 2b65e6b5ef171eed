"""`slim`: take away what costs least, before bits are given to what is left."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from edgec.compress import Sample, is_archive, read_samples, sensitivities, whole_samples
from edgec.compress.prune.importance import measure
from edgec.compress.prune.resize import initializer_elements
from edgec.compress.prune.vocabulary import kept_ids, prune_vocabulary
from edgec.errors import UnsupportedError, UsageError
from edgec.ir.model import ModelIR
from edgec.ir.plan import SlimPlan
from edgec.ir.store import Store, key_of
from edgec.plan import quantizable
from edgec.slim.alone import quantized_alone
from edgec.slim.measure import Judge
from edgec.slim.mix import Mix, Slimmed, Slimmer, levels
from edgec.slim.search import search
from edgec.slim.texts import parted, read_texts, some

Progress = Callable[[str, int, int], None]
_OPERATIONS = 1.2e12  # to measure what the matrices of a language model lose: half a minute
_TOKENS = 512  # by which blocks and features are judged


def slim(
    model: ModelIR,
    *,
    fraction: float | None = None,
    vocabulary: int | Path | None = None,
    plan: SlimPlan | None = None,
    calibration: Path | None = None,
    write: Callable[[], Sequence[str] | None] = lambda: None,
    store: Store | None = None,
    source_key: str = "",
    progress: Progress | None = None,
) -> tuple[Slimmed, SlimPlan]:
    """A smaller model, and what was done.

    `fraction` of the bytes that the weights have in float16 are to go: a search finds the mix that loses
    least, and quantization alone is measured beside it. `vocabulary` is a number of tokens, or a text whose tokens
    stay. `plan` is what was done before, to be done again. `calibration` is a text or an .npz file; without it,
    `write` gives what a decoder writes itself, where that is needed. Whatever was measured is kept in `store`, where
    `source_key` tells the model from all others, so that a search that was interrupted goes on.
    Raises `UsageError` for data that are missing or do not fit, `UnsupportedError` for models of several parts,
    `DoesNotFitError` where too much was asked for.
    """
    if model.parts:
        raise UnsupportedError(f"`{model.facts.name}` is a model of several parts, which cannot be slimmed yet")
    kept: list[int] | None = None
    if vocabulary is not None:
        kept = kept_ids(model, vocabulary, _plain_text(calibration))
    if fraction is None and plan is None:
        assert kept is not None
        return Slimmed(prune_vocabulary(model, kept), tuple(kept)), _only_vocabulary(kept)
    if plan is not None and kept is None and plan.vocabulary and not plan.weight_bytes:
        kept = kept_ids(model, plan.vocabulary, _plain_text(calibration))
    if plan is not None and not _structural(plan) and (kept is not None or not plan.vocabulary):
        pruned = model if kept is None else prune_vocabulary(model, kept)
        return _checked(Slimmed(pruned, None if kept is None else tuple(kept)), plan)
    learned, judged, samples, judged_samples = _data(model, calibration, write)
    few = _enough(samples, model)
    found_before = measure(model, few, store=store, source_key=source_key, progress=progress)
    slimmer = Slimmer(model, found_before, learned)
    if plan is not None:
        mix = Mix(plan.vocabulary, len(plan.removed_blocks), plan.mlp_share, plan.head_groups)
        return _checked(slimmer.apply(mix, kept, plan.removed_blocks), plan)
    assert fraction is not None
    budget = int((1 - fraction) * 2 * initializer_elements(model.model.graph))
    losses = sensitivities(
        model,
        quantizable(model),
        few,
        operations=_OPERATIONS,
        store=store,
        source_key=source_key,
        progress=lambda item, done, total: progress and progress(item and f"loss of `{item}`", done, total),
    )
    judge = Judge(model, judged, judged_samples)
    key = key_of("slim", source_key, learned, judged, list(samples), list(judged_samples), kept)
    choices = levels(slimmer, keep_vocabulary=kept is not None)
    found = search(slimmer, choices, judge, losses, budget, kept, store=store, key=key, progress=progress)
    alone = quantized_alone(
        model, losses, budget, judge, samples, store=store, source_key=source_key, progress=progress
    )
    done = SlimPlan(
        vocabulary=len(found.slimmed.kept or ()),
        vocabulary_sha256=_sha256(found.slimmed.kept),
        removed_blocks=tuple(slimmer.removed(found.mix.removed_blocks)),
        mlp_share=found.mix.mlp_share,
        head_groups=found.mix.head_groups,
        weight_bytes=budget,
        reason=_reason(model, fraction, budget, len(found.trials), found.trials[0].loss),
        trials=found.trials,
        alone=alone,
    )
    chosen = found.slimmed

    def judged_loss(other: ModelIR) -> float:
        return judge.loss(Slimmed(other, chosen.kept), {})

    left = {name: losses[name] for name in quantizable(chosen.model)}  # some went with their blocks
    return dataclasses.replace(chosen, losses=left, judge=judged_loss), done


def _enough(samples: Sequence[Sample], model: ModelIR) -> Sequence[Sample]:
    """Those of the first some hundred tokens; mean squares hardly need more."""
    if model.decoder is None:
        return samples
    tokens = np.cumsum([sample["input_ids"].size for sample in samples])
    return samples[: 1 + int(np.searchsorted(tokens, _TOKENS))]


def _structural(plan: SlimPlan) -> bool:
    return bool(plan.removed_blocks) or plan.mlp_share < 1 or plan.head_groups > 0


def _checked(slimmed: Slimmed, plan: SlimPlan) -> tuple[Slimmed, SlimPlan]:
    """The model of a plan that was given, whose tokens are those it was made with."""
    if _sha256(slimmed.kept) != plan.vocabulary_sha256:
        raise UsageError(
            "the plan keeps other tokens than this text chooses",
            hint="give the same `--calibration` and `--keep-vocab` as when the plan was made",
        )
    return slimmed, plan


def _only_vocabulary(kept: Sequence[int]) -> SlimPlan:
    return SlimPlan(len(kept), _sha256(kept), (), 1.0, 0, 0, f"a vocabulary of {len(kept):,} tokens was asked for")


def _reason(model: ModelIR, fraction: float, budget: int, trials: int, loss: float) -> str:
    kind = "nats per token" if model.decoder else "of the embeddings' cosine" if model.task else "of the outputs' power"
    return (
        f"{100 * fraction:g}% of the float16 weights go, {budget / 1e6:,.2f} MB stay: the best of {trials} mixes "
        f"measured loses {loss:.3g} {kind} before healing"
    )


def _data(
    model: ModelIR, calibration: Path | None, write: Callable[[], Sequence[str] | None]
) -> tuple[list[str], list[str], Sequence[Sample], Sequence[Sample]]:
    """(texts to learn from, texts to be judged by, samples of the former, samples to be judged by without texts)."""
    texts: Sequence[str] | None
    if calibration is not None and not is_archive(calibration):
        texts = read_texts(model, calibration)
    elif calibration is not None:
        samples = read_samples(model, calibration)
        if len(samples) < 2:
            raise UsageError(f"`{calibration}` has one sample", hint="slimming needs two or more")
        return [], [], samples[::2], samples[1::2]
    else:
        texts = write()
    if texts is None:
        raise UsageError(
            f"slimming needs calibration data, and `{model.facts.name}` cannot make its own",
            hint="give a text or an .npz file with `--calibration`",
        )
    if model.tokenizer is None:
        raise UsageError(f"`{model.facts.name}` has no tokenizer", hint="give an .npz file with `--calibration`")
    learned, judged = parted(texts, model)
    return learned, judged, whole_samples(model, some(learned)), []


def _plain_text(file: Path | None) -> str:
    if file is None or is_archive(file):
        return ""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""  # whoever reads the data says what is wrong with them


def _sha256(kept: Sequence[int] | None) -> str:
    return "" if kept is None else hashlib.sha256(",".join(map(str, kept)).encode()).hexdigest()


__all__ = ["slim"]
