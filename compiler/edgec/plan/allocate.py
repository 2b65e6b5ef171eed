"""Bits per tensor for a number of bytes: those that lose least.

Each tensor's loss is known at one number of bits and falls with the squared error of its weights
from there. What a byte gains is largest for the first bits and falls, so the best choice under a
budget is found by always taking the step that gains most per byte (the knapsack's Lagrangian
solution; exact but for the last step that does not fit).
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

from edgec.errors import DoesNotFitError
from edgec.ir.compressed import GROUP
from edgec.ir.plan import PROBE_BITS, WEIGHT_BITS
from edgec.ir.weight_use import WeightUse
from edgec.plan.memory import matrix_bytes

# Mean squared error of groups of 32 Gaussian weights after the range search, relative to the weights'.
_ERROR = {2: 0.0883, 3: 0.021, 4: 0.00489, 5: 0.00122, 6: 0.000307, 7: 0.0000774, 8: 0.0000201}


@dataclass(frozen=True)
class Choice:
    bits: int
    reason: str


def allocate(
    model: str,
    uses: Mapping[str, WeightUse],
    losses: Mapping[str, float],
    budget: int,
    *,
    compact: bool = False,
    group_size: int = GROUP,
) -> dict[str, Choice]:
    """The bits of each tensor in `losses` (its loss at `PROBE_BITS`), together at most `budget` bytes as stored.

    `compact` says which scheme the tensors will have, `group_size` how many columns share a scale. Raises
    `DoesNotFitError` when the fewest bits are too many.
    """
    chosen = dict.fromkeys(losses, 0)  # index into WEIGHT_BITS
    sizes = {name: _sizes(uses[name], compact, group_size) for name in losses}
    left = budget - sum(size[0] for size in sizes.values())
    if left < 0:
        raise DoesNotFitError(
            f"the matrices of `{model}` take {(budget - left) / 1e6:,.1f} MB at {WEIGHT_BITS[0]} bits, "
            f"the target leaves {max(budget, 0) / 1e6:,.1f} MB for them",
            hint="raise the target, or take a smaller model",
        )
    order = {name: number for number, name in enumerate(losses)}
    steps = [_step(sizes[name], losses[name], 0, order[name], name) for name in losses]
    heapq.heapify(steps)
    while steps:
        _, _, name, size, to = heapq.heappop(steps)
        if size > left:
            continue
        left -= size
        chosen[name] = to
        if to + 1 < len(WEIGHT_BITS):
            heapq.heappush(steps, _step(sizes[name], losses[name], to, order[name], name))
    total = sum(_loss(losses[name], WEIGHT_BITS[at]) for name, at in chosen.items())
    return {name: Choice(WEIGHT_BITS[at], _reason(losses[name], WEIGHT_BITS[at], total)) for name, at in chosen.items()}


def expected_loss(losses: Mapping[str, float], choices: Mapping[str, Choice]) -> float:
    """What all tensors lose together."""
    return sum(_loss(losses[name], choice.bits) for name, choice in choices.items())


def _sizes(use: WeightUse, compact: bool, group_size: int) -> list[int]:
    """Bytes as stored at each of WEIGHT_BITS."""
    return [matrix_bytes(use, bits, stored=True, compact=compact, group_size=group_size) for bits in WEIGHT_BITS]


def _step(sizes: list[int], loss: float, at: int, order: int, name: str) -> tuple[float, int, str, int, int]:
    """(minus the gain per byte, order for ties, tensor, bytes, index) of the best larger number of bits."""
    best = None
    for to in range(at + 1, len(WEIGHT_BITS)):
        size = sizes[to] - sizes[at]
        gain = (_loss(loss, WEIGHT_BITS[at]) - _loss(loss, WEIGHT_BITS[to])) / size
        if best is None or -gain < best[0]:
            best = (-gain, order, name, size, to)
    assert best is not None
    return best


def _loss(loss: float, bits: int) -> float:
    return loss * _ERROR[bits] / _ERROR[PROBE_BITS]


def _reason(loss: float, bits: int, total: float) -> str:
    here = _loss(loss, bits)
    share = 100 * here / total if total else 0.0
    return f"loses {here:.2g} at {bits} bits, {share:.1f}% of what all lose, alone {loss:.2g} at {PROBE_BITS} bits"


__all__ = ["Choice", "allocate", "expected_loss"]
