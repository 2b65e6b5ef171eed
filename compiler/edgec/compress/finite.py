"""Weights that are NaN or infinite, found and named."""

from __future__ import annotations

import numpy as np

from edgec.errors import ModelError
from edgec.ir.model import ModelIR
from edgec.ir.weight_use import FLOAT_TYPES


def check_all_finite(model: ModelIR) -> None:
    """Raises `ModelError` for the first float initializer that has a value which is not finite."""
    for name, value in model.model.graph.initializers.items():
        if value.const_value is not None and value.const_value.dtype in FLOAT_TYPES:
            check_finite(model, name)


def check_finite(model: ModelIR, name: str) -> None:
    """Numbers of one element, and masks of zeros and infinities, are meant as they are."""
    tensor = model.model.graph.initializers[name].const_value
    assert tensor is not None
    array = tensor.numpy()
    numbers = array.astype(np.float32, copy=False)
    finite = np.isfinite(numbers)
    if array.size == 1 or (not np.isnan(numbers).any() and not numbers[finite].any()):
        return
    bad = np.flatnonzero(~finite)
    if bad.size:
        index = ", ".join(str(int(i)) for i in np.unravel_index(bad[0], array.shape))
        raise ModelError(
            f"tensor `{name}` has the value {array.reshape(-1)[bad[0]]} at [{index}]",
            hint="check the checkpoint for damage or a diverged training run",
        )


__all__ = ["check_all_finite", "check_finite"]
