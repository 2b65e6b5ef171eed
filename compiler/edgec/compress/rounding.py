"""How much rounding changes each matrix, for weights that may lie on a grid already.

Gaussian weights lose what `edgec/plan/allocate.py` has in its table. Those out of a file that was quantized before lose
next to nothing at the bits and group sizes that they had, which a target should know.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from edgec.compress.quantize import QUANTIZERS
from edgec.ir.model import ModelIR
from edgec.ir.plan import TERNARY, WEIGHT_BITS, Bits
from edgec.ir.weight_use import weight_uses

_ROWS = 32  # of each matrix, evenly spaced


def rounding_errors(
    model: ModelIR, names: Sequence[str], group_sizes: Sequence[int], *, narrow: int = 0
) -> dict[str, Mapping[tuple[Bits, int], float]]:
    """By (bits, group size) the squared error of some rows of each matrix, relative to its weights.

    Up to `narrow` bits have compact scales. Nothing is measured where there are no sizes.
    """
    uses = weight_uses(model.model)
    found: dict[str, Mapping[tuple[Bits, int], float]] = {}
    for name in names if group_sizes else ():
        tensor = model.model.graph.initializers[name].const_value
        assert tensor is not None
        matrix = uses[name].to_matrix(tensor.numpy())
        rows = np.ascontiguousarray(matrix[:: max(1, matrix.shape[0] // _ROWS)], np.float32)
        power = float(np.square(rows, dtype=np.float64).sum())
        errors: dict[tuple[Bits, int], float] = {}
        widths: tuple[Bits, ...] = (TERNARY, *WEIGHT_BITS)
        for bits, size in itertools.product(widths, group_sizes):
            ternary, count = bits == TERNARY, 2 if bits == TERNARY else bits
            compact = ternary or count <= narrow
            quantizer = QUANTIZERS["rtn"](count, None, compact=compact, group_size=size, ternary=ternary)
            lost = np.square(rows - quantizer.quantize(rows).values(), dtype=np.float64).sum()
            errors[bits, size] = float(lost) / power if power else 0.0
        found[name] = errors
    return found


__all__ = ["rounding_errors"]
