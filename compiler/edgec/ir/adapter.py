"""A low-rank adapter of one linear, as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class LowRank:
    """`y += scale * up @ (down @ x)`: `down` is `[rank, inputs]`, `up` `[outputs, rank]`, both float32."""

    down: npt.NDArray[np.float32]
    up: npt.NDArray[np.float32]
    scale: float

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])
