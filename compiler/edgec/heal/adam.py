"""Adam (Kingma and Ba 2015) over named tensors, each with a rate of its own, and its state as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from edgec.heal.ops import Tensor

_BETAS, _EPSILON = (0.9, 0.98), 1e-8


class Adam:
    """`tensors` has (tensor, highest rate) by name; tensors without a gradient stay as they are."""

    def __init__(self, tensors: Mapping[str, tuple[Tensor, float]]) -> None:
        self._tensors = dict(tensors)
        self._moments = {name: (torch.zeros_like(t), torch.zeros_like(t)) for name, (t, _) in self._tensors.items()}

    def step(self, number: int, share: float) -> None:
        """Step `number` (from 1) at `share` of the highest rates. Gradients are used up."""
        first, second = _BETAS
        with torch.no_grad():
            for name, (tensor, rate) in self._tensors.items():
                gradient = tensor.grad
                if gradient is None:
                    continue
                mean, square = self._moments[name]
                mean.lerp_(gradient, 1 - first)
                square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
                divisor = (square / (1 - second**number)).sqrt_().add_(_EPSILON)
                tensor.addcdiv_(mean, divisor, value=-rate * share / (1 - first**number))
                tensor.grad = None

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Tensors and moments, to be saved."""
        found = {}
        for name, (tensor, _) in self._tensors.items():
            found[name] = tensor.detach().numpy()
            for kind, moment in zip(("mean", "square"), self._moments[name], strict=True):
                found[f"{name}/{kind}"] = moment.numpy()
        return found

    def restore(self, arrays: Mapping[str, Any]) -> None:
        """What `arrays` gave."""
        with torch.no_grad():
            for name, (tensor, _) in self._tensors.items():
                tensor.copy_(torch.from_numpy(arrays[name]))
                for kind, moment in zip(("mean", "square"), self._moments[name], strict=True):
                    moment.copy_(torch.from_numpy(arrays[f"{name}/{kind}"]))


__all__ = ["Adam"]
