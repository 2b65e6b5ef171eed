"""Checkpoints that were quantized elsewhere, as a source of plain float matrices.

`METHODS` has one entry for each `quant_method`. Nothing is rounded when a matrix is read; where its values lie on a
grid that ours holds, the planner keeps the codes (`WeightSource.grid_bits`).
"""

from edgec.frontend.prequantized.awq import AWQ
from edgec.frontend.prequantized.base import Method
from edgec.frontend.prequantized.bitnet import BITNET
from edgec.frontend.prequantized.bitsandbytes import BITSANDBYTES
from edgec.frontend.prequantized.gptq import GPTQ
from edgec.frontend.prequantized.weights import PrequantizedWeights

METHODS = {method.name: method for method in (GPTQ, AWQ, BITSANDBYTES, BITNET)}

__all__ = ["METHODS", "Method", "PrequantizedWeights"]
