"""Codes that healing has found, taken as they are (`edgec/heal/`)."""

from __future__ import annotations

from typing import ClassVar

from edgec.compress.quantize.base import Floats, Inputs, InputStatistics, QuantizedRows, Quantizer
from edgec.ir.compressed import GROUP


class Healed(Quantizer):
    """`found` has the whole matrix's codes."""

    name: ClassVar[str] = "healed"
    needs: ClassVar[Inputs] = "nothing"

    def __init__(self, bits: int, inputs: InputStatistics | None, found: QuantizedRows | None = None) -> None:
        super().__init__(bits, inputs, group_size=found.grid.group_size if found is not None else GROUP)
        self.found = found

    def quantize(self, rows: Floats) -> QuantizedRows:
        return self.quantize_at(0, rows)

    def quantize_at(self, first: int, rows: Floats) -> QuantizedRows:
        assert self.found is not None
        part = slice(first, first + len(rows))
        return QuantizedRows(self.grid, self.found.codes[part], self.found.scales[part], self.found.zeros[part])


__all__ = ["Healed"]
