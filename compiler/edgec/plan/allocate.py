"""Bits and group sizes per tensor for a number of bytes: those that lose least.

Each tensor's loss is known at one number of bits and falls with the squared error of its weights
from there. Of all pairs of bits and group sizes, what a byte gains is largest for the first steps and falls, so the
best choice under a budget is found by always taking the step that gains most per byte (the knapsack's Lagrangian
solution; exact but for the last step that does not fit).
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgec.errors import DoesNotFitError
from edgec.ir.compressed import GROUP
from edgec.ir.plan import PROBE_BITS, TERNARY, WEIGHT_BITS, Bits, TensorPlan
from edgec.ir.weight_use import WeightUse
from edgec.plan.memory import matrix_bytes
from edgec.profiles.units import size_text

NARROW = 3  # bits up to which no grid of before is met: scales are compact in any case
SPANS = (32, 64, 128)  # group sizes to choose among; scales of more columns save less than they lose
# Stored bits of a code; ternary ones are five to a byte.
_WIDTHS: Mapping[Bits, float] = {TERNARY: 1.6, **{bits: bits for bits in WEIGHT_BITS}}
# Mean squared error of Gaussian weights after the range search, relative to the weights', by `compact`, group size
# and bits (those of WEIGHT_BITS).
_ERRORS = {
    False: {
        32: (0.0883, 0.021, 0.00489, 0.00122, 0.000307, 0.0000774, 0.0000201),
        64: (0.103, 0.027, 0.00669, 0.00167, 0.000411, 0.000103, 0.0000267),
        128: (0.113, 0.0321, 0.00848, 0.00212, 0.000523, 0.000131, 0.0000338),
    },
    True: {
        32: (0.0906, 0.023, 0.00493, 0.00121, 0.000304, 0.0000793, 0.000022),
        64: (0.106, 0.0289, 0.00672, 0.00167, 0.00042, 0.000108, 0.0000289),
        128: (0.116, 0.0328, 0.00841, 0.00212, 0.000535, 0.000137, 0.0000363),
    },
}
_TERNARY_ERRORS = {32: 0.178, 64: 0.185, 128: 0.188}  # scales are always compact
_PROBE_ERROR = _ERRORS[False][GROUP][WEIGHT_BITS.index(PROBE_BITS)]

Errors = Mapping[tuple[Bits, int], float]  # relative squared errors by (bits, group size)


@dataclass(frozen=True)
class Choice:
    bits: Bits
    group_size: int
    reason: str


@dataclass(frozen=True)
class _Option:
    bits: Bits
    group_size: int
    bytes: int
    loss: float


def allocate(
    model: str,
    uses: Mapping[str, WeightUse],
    losses: Mapping[str, float],
    budget: int,
    *,
    compact: bool = False,
    group_sizes: Sequence[int] = (GROUP,),
    errors: Mapping[str, Errors] | None = None,
    ternary: bool = False,
) -> dict[str, Choice]:
    """The bits and the group size of each tensor in `losses` (its loss at `PROBE_BITS`), together at most `budget`
    bytes as stored.

    `ternary` allows for three levels beside `WEIGHT_BITS`. `compact` says which scheme the tensors will have (those of
    up to `NARROW` bits always do), `group_sizes` how many columns may share a scale. `errors` are measured ones where
    Gaussian weights tell nothing (`edgec.compress.rounding_errors`). Raises `DoesNotFitError` when the fewest bytes are
    too many.
    """
    known = {name: found for name in losses if (found := (errors or {}).get(name))}
    widths: tuple[Bits, ...] = (TERNARY, *WEIGHT_BITS) if ternary else WEIGHT_BITS
    options = {
        name: _options(uses[name], loss, widths, compact, group_sizes, known.get(name)) for name, loss in losses.items()
    }
    left = budget - sum(found[0].bytes for found in options.values())
    if left < 0:
        raise DoesNotFitError(
            f"the matrices of `{model}` take {size_text(budget - left)} at {_WIDTHS[widths[0]]:g} bits, "
            f"the target leaves {size_text(max(budget, 0))} for them",
            hint="raise the target, or take a smaller model",
        )
    chosen = dict.fromkeys(losses, 0)  # index into the options
    order = {name: number for number, name in enumerate(losses)}
    steps: list[_Step] = []
    for name in losses:
        _push(steps, options[name], 0, left, order[name], name)
    while steps:
        _, _, name, size, to = heapq.heappop(steps)
        if size <= left:
            left -= size
            chosen[name] = to
        _push(steps, options[name], chosen[name], left, order[name], name)  # what still fits
    taken = {name: options[name][at] for name, at in chosen.items()}
    total = sum(option.loss for option in taken.values())
    return {
        name: Choice(option.bits, option.group_size, _reason(option, losses[name], total))
        for name, option in taken.items()
    }


def expected_loss(losses: Mapping[str, float], choices: Mapping[str, Choice], *, compact: bool = False) -> float:
    """What all tensors lose together."""
    return sum(_loss(losses[name], choice.bits, choice.group_size, compact) for name, choice in choices.items())


def at_probe(loss: float, tensor: TensorPlan, errors: Errors | None = None) -> float:
    """What the matrix that loses `loss` as `tensor` says would lose at `PROBE_BITS`."""
    bits: Bits = TERNARY if tensor.ternary else tensor.bits
    one = _loss(1.0, bits, tensor.group_size, tensor.compact, errors)
    return loss / one if one else 0.0


def _options(
    use: WeightUse,
    loss: float,
    widths: Sequence[Bits],
    compact: bool,
    group_sizes: Sequence[int],
    errors: Errors | None,
) -> list[_Option]:
    """Of growing size and falling loss. Where there is a choice, groups divide a row: kernels are slower and larger
    where the last one is shorter."""
    row = -(-use.columns // GROUP) * GROUP
    sizes = [size for size in group_sizes if row % size == 0] or [min(group_sizes)]
    found = [
        _Option(
            bits,
            min(size, row),
            matrix_bytes(use, bits, stored=True, compact=compact or _WIDTHS[bits] <= NARROW, group_size=size),
            _loss(loss, bits, size, compact, errors),
        )
        for bits in widths
        for size in sizes
    ]
    kept: list[_Option] = []
    for option in sorted(found, key=lambda option: (option.bytes, option.loss)):
        if not kept or option.loss < kept[-1].loss or (loss == 0 and _WIDTHS[option.bits] > _WIDTHS[kept[-1].bits]):
            kept.append(option)
    return kept


_Step = tuple[float, int, str, int, int]  # minus the gain per byte, order for ties, tensor, bytes, index


def _push(steps: list[_Step], options: Sequence[_Option], at: int, left: int, order: int, name: str) -> None:
    """Adds the best larger option that takes at most `left` bytes more, if there is one."""
    best: _Step | None = None
    for to in range(at + 1, len(options)):
        size = options[to].bytes - options[at].bytes
        if size > left:
            break
        gain = (options[at].loss - options[to].loss) / size
        if best is None or -gain < best[0]:
            best = (-gain, order, name, size, to)
    if best is not None:
        heapq.heappush(steps, best)


def _loss(loss: float, bits: Bits, group_size: int, compact: bool, errors: Errors | None = None) -> float:
    if errors is not None:
        probed = errors[PROBE_BITS, GROUP]
        return loss * errors[bits, group_size] / probed if probed else 0.0
    known = min((size for size in _TERNARY_ERRORS if size >= group_size), default=max(_TERNARY_ERRORS))
    if bits == TERNARY:
        return loss * _TERNARY_ERRORS[known] / _PROBE_ERROR
    return loss * _ERRORS[compact or bits <= NARROW][known][WEIGHT_BITS.index(bits)] / _PROBE_ERROR


def _reason(option: _Option, loss: float, total: float) -> str:
    share = 100 * option.loss / total if total else 0.0
    count = "three levels" if option.bits == TERNARY else f"{option.bits} bits"
    where = f"{count} in groups of {option.group_size}"
    return f"loses {option.loss:.2g} at {where}, {share:.1f}% of what all lose, alone {loss:.2g} at {PROBE_BITS} bits"


__all__ = ["NARROW", "SPANS", "Choice", "allocate", "at_probe", "expected_loss"]
