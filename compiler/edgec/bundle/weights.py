"""Cutting the weights of a lowered module into content-addressed files, most important bytes first.

Order: what is no code, then the two top bits of all codes, then the third, then the fourth, then what longer codes
have below, each in the order of the memory plan. A prefix of the download is thus a usable model. What only some depths
of nested codes need has files of its own. Planes that are all zero (the lowest of a 6-bit tensor) are left out: memory
starts zeroed. So are bits of scales, zero points and floats that are zero (`edgec/ir/narrow.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgec.bundle.manifest import EXPANSION, FINEST, WEIGHT_FILE_BYTES, Segment, SegmentOp, expanded
from edgec.ir import WeightPlacement, narrow, planes


@dataclass(frozen=True)
class _Part:
    """A range of one placement as one kind of segment."""

    placement: WeightPlacement
    op: SegmentOp
    shift: int = 0
    start: int = 0  # bytes of the placement's data
    stop: int | None = None  # its end by default
    scaled: npt.NDArray[np.uint8] | None = None  # the stored bytes of `scaled8`, which is not cut further

    @property
    def depths(self) -> tuple[int, ...]:
        """Bits of nested codes with which this is needed; empty for all."""
        if self.op != "bit1":
            return self.placement.depths if self.placement.kind == "raw" else ()
        needed = tuple(bits for bits in self.placement.depths if bits > FINEST - 1 - self.shift)
        return () if needed == self.placement.depths else needed

    @property
    def quantum(self) -> int:
        """Stored bytes between two places where the part may be cut: targets stay multiples of 64."""
        if self.scaled is not None:
            return self.scaled.size
        if self.op == "trits":
            return self._packed(planes.TRITS_QUANTUM)
        return max(self._packed(planes.QUANTUM), 1 if self.op == "copy" else planes.VECTOR)

    @property
    def mask(self) -> int:
        """The bits of a target byte that this plane writes."""
        return {"bits2": 0xCC, "bit1": 0x11 << self.shift, "byte1": 1 << self.shift}[self.op]

    def is_zero(self) -> bool:
        return not np.any(self.placement.data & np.uint8(self.mask))

    def stored_bytes(self) -> int:
        if self.scaled is not None:
            return self.scaled.size
        return self._packed(self.placement.data.size if self.stop is None else self.stop) - self._packed(self.start)

    def _packed(self, target: int) -> int:
        """Stored bytes of so many target bytes."""
        return int(target // EXPANSION[self.op])

    def segment(self, start: int, length: int) -> Segment:
        target = self.placement.offset + self.start + expanded(self.op, start)
        return Segment(self.op, length, target, self.shift, self.placement.columns if self.scaled is not None else 0)

    def bytes(self, start: int, length: int) -> npt.NDArray[np.uint8]:
        if self.scaled is not None:
            return self.scaled
        first = self.start + expanded(self.op, start)
        data = self.placement.data[first : first + expanded(self.op, length)]
        if self.op == "copy":
            return data
        if self.op == "upper4" or self.op == "scale8" or self.op == "upper16":
            return narrow.narrow(data, self.op)
        if self.op == "bits2":
            return planes.split_bits2(data)
        if self.op == "trits":
            return planes.split_trits(data)
        return planes.split_bit1(data, self.shift) if self.op == "bit1" else planes.split_byte1(data, self.shift)


_LEAST_NARROW = 256  # bytes; of less, a segment's line in the manifest costs more than it saves

# Planes in the order of their importance: kind, op and shift.
_PLANES: tuple[tuple[str, SegmentOp, int], ...] = (
    ("nibbles", "bits2", 0),
    ("bytes", "byte1", 7),
    ("bytes", "byte1", 6),
    ("bytes", "byte1", 5),
    ("nibbles", "bit1", 1),
    ("bytes", "byte1", 4),
    ("nibbles", "bit1", 0),
    ("bytes", "byte1", 3),
    ("bytes", "byte1", 2),
    ("bytes", "byte1", 1),
    ("bytes", "byte1", 0),
)


def download_order(placements: Sequence[WeightPlacement], limit: int) -> list[_Part]:
    some = [placement for placement in placements if placement.data.size]
    parts = [part for placement in some if placement.kind == "raw" for part in _raw_parts(placement, limit)]
    parts.sort(key=_by_depths)
    for kind, op, shift in _PLANES:
        planes_of_all = [_Part(placement, op, shift) for placement in some if placement.kind == kind]
        planes_of_all.sort(key=_by_depths)
        for part in planes_of_all:
            if not part.is_zero():
                parts += _trits(part.placement) if op == "bits2" else [part]
    return parts


def _by_depths(part: _Part) -> tuple[int, ...]:
    """What is always needed comes first, then what the finest depth needs."""
    return tuple(-bits for bits in part.depths)


def _trits(placement: WeightPlacement) -> list[_Part]:
    """The two top bits of codes, as trits where that is possible."""
    whole = placement.data.size // planes.TRITS_QUANTUM * planes.TRITS_QUANTUM
    if not whole or not planes.is_ternary(placement.data):
        return [_Part(placement, "bits2")]
    rest = [_Part(placement, "bits2", start=whole)] if placement.data.size > whole else []
    return [_Part(placement, "trits", stop=whole), *rest]


def _raw_parts(placement: WeightPlacement, limit: int) -> list[_Part]:
    """All of it as it is, or in a narrow form where nothing is lost, and what is left over at its end."""
    if placement.columns and placement.data.size >= _LEAST_NARROW and placement.offset % planes.QUANTUM == 0:
        scaled = narrow.scaled(placement.data, placement.columns)
        pieces = [] if scaled is None else narrow.cut_scaled(scaled, placement.columns, limit)
        if pieces:
            return [_Part(placement, "scaled8", start=start, scaled=piece) for start, piece in pieces]
    whole = placement.data.size // narrow.QUANTUM * narrow.QUANTUM
    if whole >= _LEAST_NARROW and placement.offset % planes.QUANTUM == 0:
        for op in narrow.NARROW:
            if narrow.is_narrow(placement.data[:whole], op):
                rest = [_Part(placement, "copy", start=whole)] if placement.data.size > whole else []
                return [_Part(placement, op, stop=whole), *rest]
    return [_Part(placement, "copy")]


def weight_files(
    placements: Sequence[WeightPlacement], *, limit: int = WEIGHT_FILE_BYTES
) -> Iterator[tuple[bytearray, tuple[Segment, ...], tuple[int, ...]]]:
    """Content, segments and depths of each file, at most `limit` bytes (a multiple of 64) each.

    One file is in memory at a time.
    """
    content, segments, depths = bytearray(), list[Segment](), tuple[int, ...]()
    for part in download_order(placements, limit):
        if content and part.depths != depths:
            yield content, tuple(segments), depths
            content, segments = bytearray(), []
        depths = part.depths
        done, total = 0, part.stored_bytes()
        while done < total:
            room = (limit - len(content)) // part.quantum * part.quantum
            if room == 0:
                yield content, tuple(segments), depths
                content, segments = bytearray(), []
                continue
            length = min(room, total - done)
            content += part.bytes(done, length).tobytes()
            segments.append(part.segment(done, length))
            done += length
    if content:
        yield content, tuple(segments), depths
