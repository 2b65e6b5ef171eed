"""Where a decoder's weights come from: one tensor at a time, never the whole model in memory."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgec.ir.plan import Bits


class WeightSource(Protocol):
    """Tensors by name: those of `tensors.tensor_shapes`, or those of a checkpoint."""

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """The values as float32 in the checkpoint's orientation; linears are `[out, in]`."""
        ...

    def grid_bits(self, name: str) -> Bits | None:
        """The bits of the codes on which each 32 inputs of an output already lie, see `ir.weight_use.mark_grid`."""
        ...
