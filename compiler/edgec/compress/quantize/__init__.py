"""The quantizers, by the name that a plan gives; `Healed` takes codes that were found elsewhere."""

from __future__ import annotations

from edgec.compress.quantize.awq import Awq
from edgec.compress.quantize.base import Inputs, InputStatistics, QuantizedRows, Quantizer
from edgec.compress.quantize.gptq import Gptq
from edgec.compress.quantize.grid import StoredGrid
from edgec.compress.quantize.healed import Healed
from edgec.compress.quantize.hqq import HalfQuadratic
from edgec.compress.quantize.nested import Nested
from edgec.compress.quantize.rtn import ImportanceRoundToNearest, RoundToNearest
from edgec.compress.quantize.search import Grid

QUANTIZERS: dict[str, type[Quantizer]] = {
    quantizer.name: quantizer
    for quantizer in (RoundToNearest, ImportanceRoundToNearest, HalfQuadratic, Awq, Gptq, Nested, StoredGrid)
}

__all__ = ["QUANTIZERS", "Grid", "Healed", "InputStatistics", "Inputs", "Nested", "QuantizedRows", "Quantizer"]
