"""The fewest bits per weight whose plan is accurate enough.

What quantization loses falls to about a quarter with each bit, so the logarithm of the loss is nearly a straight line
over the bits per weight: the next number to try is where the line through what is known meets what is wanted, kept
inside of what is known to be too few and enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgec.errors import AccuracyError, DoesNotFitError, EdgecError
from edgec.ir.plan import AccuracyTrial, Plan
from edgec.profiles.units import size_text

FEWEST, MOST = 2.375, 8.75  # bits per weight, scales and zero points included
_FIRST = 4.75
_PER_BIT = math.log(4)  # what the logarithm of the loss falls by, where nothing better is known
_MARGIN = 0.1  # bits that a guess beyond what is known goes further
_CLOSE = 0.03  # of the bits per weight: nearer is not looked
_MOST_TRIALS = 8
_LEAST_LOSS = 1e-9  # has a logarithm


@dataclass(frozen=True)
class Smallest:
    plan: Plan
    reached: float
    trials: tuple[AccuracyTrial, ...]  # in the order in which they were made


def smallest(
    model: str,
    wanted: float,
    make: Callable[[float], tuple[Plan, int]],
    judge: Callable[[Plan], float],
    progress: Callable[[str, int, int], None] | None = None,
) -> Smallest:
    """The smallest plan found whose accuracy (at most 1) is `wanted` or more.

    `make` gives the plan of a number of bits per weight and its bytes of weights; it raises `DoesNotFitError` for more
    than the device takes. Raises `AccuracyError` where no plan is accurate enough, with what was reached.
    """
    trials: list[AccuracyTrial] = []
    best: Plan | None = None
    refusal: DoesNotFitError | None = None
    most = MOST  # bits that may be tried
    bits: float | None = _FIRST
    for number in range(_MOST_TRIALS):
        if bits is None:
            break
        if progress is not None:
            progress(f"{bits:.2f} bits per weight", number, _MOST_TRIALS)
        try:
            plan, size = make(bits)
        except DoesNotFitError as error:
            refusal, most = error, bits - _CLOSE * bits
        else:
            trials.append(AccuracyTrial(round(bits, 4), size, math.floor(1e6 * judge(plan)) / 1e6))
            if trials[-1].reached >= wanted and size == min(t.bytes for t in trials if t.reached >= wanted):
                best = plan
        bits = _next(trials, wanted, most)
    if best is None:
        raise _unreachable(model, wanted, trials, refusal)
    if progress is not None:
        progress("", _MOST_TRIALS, _MOST_TRIALS)
    reached = min((t for t in trials if t.reached >= wanted), key=lambda t: t.bytes).reached
    return Smallest(best, reached, tuple(trials))


def _next(trials: Sequence[AccuracyTrial], wanted: float, most: float) -> float | None:
    """The bits per weight to try, None where that would tell nothing new."""
    enough = min((t for t in trials if t.reached >= wanted), key=lambda t: t.bits_per_weight, default=None)
    few = max((t for t in trials if t.reached < wanted), key=lambda t: t.bits_per_weight, default=None)
    aim = _log_loss(wanted)
    if few is None and enough is None:
        return most if most > FEWEST else None
    if few is None:
        assert enough is not None
        guess = enough.bits_per_weight + (_log_loss(enough.reached) - aim) / _PER_BIT - _MARGIN
        return max(guess, FEWEST) if enough.bits_per_weight > FEWEST else None
    low = few.bits_per_weight
    if enough is None:
        guess = low + (_log_loss(few.reached) - aim) / _PER_BIT + _MARGIN
        return min(guess, most) if low < most else None
    gap = enough.bits_per_weight - low
    if gap <= _CLOSE * enough.bits_per_weight:
        return None
    fall = _log_loss(few.reached) - _log_loss(enough.reached)
    share = (_log_loss(few.reached) - aim) / fall if fall > 0 else 0.5
    return low + gap * min(max(share, 0.15), 0.85)


def _log_loss(reached: float) -> float:
    return math.log(max(1 - reached, _LEAST_LOSS))


def _unreachable(
    model: str, wanted: float, trials: Sequence[AccuracyTrial], refusal: DoesNotFitError | None
) -> EdgecError:
    if not trials:
        assert refusal is not None
        return refusal
    best = max(trials, key=lambda t: t.reached)
    message = (
        f"`{model}` reaches an accuracy of {best.reached:.6g} in {size_text(best.bytes)} of weights "
        f"({best.bits_per_weight:.2f} bits per weight), {wanted} was asked for"
    )
    if refusal is not None:
        return AccuracyError(f"{message}, and more does not fit: {refusal}", hint=refusal.hint)
    return AccuracyError(message, hint="ask for less, or keep floats with `--precision float32`")


__all__ = ["FEWEST", "MOST", "Smallest", "smallest"]
