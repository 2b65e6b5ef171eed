"""What may be chosen of a compilation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgec.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgec.ir import Plan
    from edgec.ir.plan import Bits, QuantizerName


@dataclass(frozen=True)
class CompileOptions:
    """What may be chosen beyond model and profile; None leaves a choice to the planner."""

    bits: Bits | None = None  # of weights: 2 to 8, 32 for float, or "ternary"
    context_length: int | None = None  # tokens
    kv_bits: int | None = None  # 16, or 32 for float
    max_dims: Mapping[str, int] | None = None  # upper bounds of a graph's symbolic dimensions
    fixed_inputs: Mapping[str, npt.ArrayLike] | None = None  # values of inputs that become constants
    precision: Literal["auto", "float32"] = "auto"
    quantizer: QuantizerName | None = None  # how codes are found
    group_size: int | None = None  # columns that share a scale
    nested: tuple[int, ...] = ()  # bits, 3 or 2 or both, that a device may take of codes of 4
    target_bytes: int | None = None  # of the download; bits are then allocated by what each matrix loses
    target_bpw: float | None = None  # the same, in bits per weight, scales and zero points included
    min_accuracy: float | None = None  # the fewest bytes that keep so much of the float model, up to 1
    calibration: Path | None = None  # a text, pictures or an .npz file; without it a decoder writes its own text
    slim: float | None = None  # share of the bytes of float16 weights that are to go
    keep_vocabulary: int | Path | None = None  # number of tokens, or a text whose tokens stay
    heal_steps: int | None = None  # training of what was slimmed or rounded, in steps
    heal_minutes: float | None = None  # or in minutes
    heal_adapter: int | None = None  # steps of training an adapter beside the quantized model
    heal_folder: Path | None = None  # where training is saved, and goes on from
    lora: Path | None = None  # folder of an adapter of the peft library, added to the weights
    rotate: bool = False  # turn a decoder's stream, so that no feature stands out
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


def slims(options: CompileOptions) -> bool:
    replayed = options.plan is not None and options.plan.slim is not None
    return options.slim is not None or options.keep_vocabulary is not None or replayed


def rotates(options: CompileOptions) -> bool:
    return options.rotate or (options.plan is not None and options.plan.rotated)


def heals(options: CompileOptions) -> bool:
    return options.heal_steps is not None or options.heal_minutes is not None


def trains_adapter(options: CompileOptions) -> bool:
    return options.heal_adapter is not None


def check_options(options: CompileOptions) -> None:
    """Raises `UsageError` for choices that exclude each other, `MissingDependencyError` where an extra is missing."""
    _check_rotation(options)
    _check_healing(options)
    _check_adapters(options)
    _check_nested(options)


def _check_rotation(options: CompileOptions) -> None:
    if options.rotate and options.plan is not None and not options.plan.rotated:
        raise UsageError("the plan says whether the model is rotated", hint="make the plan with `--rotate`")
    if rotates(options) and options.adapter_rank is not None:
        raise UsageError(
            "adapters do not know that what they read and write is rotated",
            hint="merge one with `--lora`, or leave `--rotate` out",
        )
    if rotates(options) and options.exits is not None:
        raise UsageError(
            "early exits read the stream as the lm_head does, which is rotated",
            hint="leave `--rotate` or `--exits` out",
        )


def _check_healing(options: CompileOptions) -> None:
    if options.heal_steps is not None and options.heal_minutes is not None:
        raise UsageError("a number of steps and a number of minutes exclude each other", hint="leave one of them out")
    if heals(options) and options.min_accuracy is not None:
        raise UsageError("an accuracy is measured before anything is healed", hint="leave one of both out")
    if heals(options) and trains_adapter(options):
        raise UsageError(
            "healing trains the weights, or an adapter beside them",
            hint="leave `--heal-adapter` or the other option out",
        )
    if heals(options) or trains_adapter(options) or options.exits is not None:
        from edgec.heal import check_installed

        check_installed()


def _check_adapters(options: CompileOptions) -> None:
    if options.adapter_rank is None:
        if trains_adapter(options):
            raise UsageError("an adapter needs room", hint="say of what rank it may be with `--adapters RANK`")
        return
    if options.plan is not None:
        raise UsageError("the plan says whether there is room for adapters", hint="make the plan with `--adapters`")
    if slims(options):
        raise UsageError("an adapter fits a whole model, not a slimmed one", hint="merge it with `--lora`")
    if options.profile_kernels:
        raise UsageError("kernels are timed without adapters", hint="leave `--adapters` out")


def _check_nested(options: CompileOptions) -> None:
    """What was trained for one depth is not right for another."""
    nested = options.nested or (options.plan.depths if options.plan is not None else ())
    if options.nested and options.plan is not None:
        raise UsageError("the plan says which codes are nested", hint="make the plan with `--nested`")
    others = {
        "healing trains": heals(options),
        "an adapter that makes up for the codes is trained for": trains_adapter(options),
        "early exits are trained for": options.exits is not None,
        "slimming searches bits for": slims(options),
        "an accuracy is measured at": options.min_accuracy is not None,
    }
    for what, asked in others.items():
        if nested and asked:
            raise UsageError(f"{what} one depth of nested codes, not for all", hint="leave one of both out")


__all__ = ["CompileOptions", "check_options", "heals", "rotates", "slims", "trains_adapter"]
