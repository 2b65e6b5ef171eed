"""A small head after a layer of a decoder, which says the next token where it is sure of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgec.ir.compressed import PackedTensor

Matrix = PackedTensor | npt.NDArray[np.float32]  # [rows, columns]


@dataclass(frozen=True)
class ExitHead:
    """After `layer` layers: logits = lm_head(z + up @ (down @ z)), z the stream through a norm of the final one's kind.

    `threshold` is the probability of the likeliest token from which on it is taken, None where none keeps the
    agreement that was asked for. `agreement` is the share of the tokens taken that are the whole model's likeliest,
    `share` that of the tokens that are taken, both over `tokens` tokens of which neither head nor threshold was made.
    """

    layer: int
    norm: npt.NDArray[np.float32]
    norm_bias: npt.NDArray[np.float32] | None
    down: Matrix  # [rank, hidden]
    up: Matrix  # [hidden, rank]
    threshold: float | None
    agreement: float
    share: float
    tokens: int
