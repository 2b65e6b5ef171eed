"""Cutting the weights of a lowered module into content-addressed files, most important bytes first.

Order: by rank; within a rank raw bytes, then the 2-bit planes of all tensors, then bit 1, then
bit 0, each in the order of the memory plan. A prefix of the download is thus a usable model.
Planes that are all zero (two of each 6-bit tensor) are left out: memory starts zeroed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgec.bundle.manifest import MAX_WEIGHT_FILE_BYTES, Segment
from edgec.ir import WeightPlacement, planes


@dataclass(frozen=True)
class _Part:
    """A range of one placement as one kind of segment."""

    placement: WeightPlacement
    op: str  # "copy", "bits2", "bit1"
    shift: int

    @property
    def ratio(self) -> int:
        """Target bytes per stored byte."""
        return {"copy": 1, "bits2": 2, "bit1": 4}[self.op]

    @property
    def quantum(self) -> int:
        """Stored bytes between two places where the part may be cut: targets stay multiples of 64."""
        return planes.QUANTUM // self.ratio

    @property
    def mask(self) -> int:
        """The bits of a target byte that this part writes."""
        return 0xFF if self.op == "copy" else 0xCC if self.op == "bits2" else 0x11 << self.shift

    def is_zero(self) -> bool:
        return self.op != "copy" and not np.any(self.placement.data & np.uint8(self.mask))

    def stored_bytes(self) -> int:
        return self.placement.data.size // self.ratio

    def segment(self, start: int, length: int) -> Segment:
        target = self.placement.offset + start * self.ratio
        if self.op == "copy":
            return Segment("copy", length, target)
        return Segment("bits2", length, target) if self.op == "bits2" else Segment("bit1", length, target, self.shift)

    def bytes(self, start: int, length: int) -> npt.NDArray[np.uint8]:
        data = self.placement.data[start * self.ratio : (start + length) * self.ratio]
        if self.op == "copy":
            return data
        return planes.split_bits2(data) if self.op == "bits2" else planes.split_bit1(data, self.shift)


def download_order(placements: Sequence[WeightPlacement]) -> list[_Part]:
    parts: list[_Part] = []
    for rank in sorted({placement.rank for placement in placements}):
        ranked = [placement for placement in placements if placement.rank == rank and placement.data.size]
        nibbles = [placement for placement in ranked if placement.kind == "nibbles"]
        parts += [_Part(placement, "copy", 0) for placement in ranked if placement.kind == "raw"]
        for op, shift in (("bits2", 0), ("bit1", 1), ("bit1", 0)):
            planes_of_all = [_Part(placement, op, shift) for placement in nibbles]
            parts += [part for part in planes_of_all if not part.is_zero()]
    return parts


def weight_files(
    placements: Sequence[WeightPlacement], *, limit: int = MAX_WEIGHT_FILE_BYTES
) -> Iterator[tuple[bytearray, tuple[Segment, ...]]]:
    """Contents and segments of each file, at most `limit` bytes (a multiple of 64) each.

    One file is in memory at a time.
    """
    content, segments = bytearray(), list[Segment]()
    for part in download_order(placements):
        done, total = 0, part.stored_bytes()
        while done < total:
            room = (limit - len(content)) // part.quantum * part.quantum
            if room == 0:
                yield content, tuple(segments)
                content, segments = bytearray(), []
                continue
            length = min(room, total - done)
            content += part.bytes(done, length).tobytes()
            segments.append(part.segment(done, length))
            done += length
    if content:
        yield content, tuple(segments)
