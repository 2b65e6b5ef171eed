"""Static placement of buffers by lifetime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 64


def align(value: int, to: int = ALIGNMENT) -> int:
    return -(-value // to) * to


@dataclass(frozen=True)
class Lifetime:
    """A buffer of `bytes` that is in use from step `first` to step `last`, both included."""

    bytes: int
    first: int
    last: int


def plan_offsets(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """Offsets (64-byte aligned) such that buffers that live at the same time do not overlap, and the total.

    Greedy by size, each into the tightest gap that fits (Pisarchyk and Lee, "Efficient Memory
    Management for Deep Neural Net Inference", 2020).
    """
    offsets = [0] * len(lifetimes)
    placed: list[int] = []
    total = 0
    for index in sorted(range(len(lifetimes)), key=lambda i: (-lifetimes[i].bytes, i)):
        wanted = lifetimes[index]
        size = align(wanted.bytes)
        rivals = sorted(
            (offsets[i], offsets[i] + align(lifetimes[i].bytes))
            for i in placed
            if lifetimes[i].first <= wanted.last and wanted.first <= lifetimes[i].last
        )
        best, best_gap, cursor = None, None, 0
        for start, end in rivals:
            gap = start - cursor
            if gap >= size and (best_gap is None or gap < best_gap):
                best, best_gap = cursor, gap
            cursor = max(cursor, end)
        offsets[index] = cursor if best is None else best
        placed.append(index)
        total = max(total, offsets[index] + size)
    return offsets, total
