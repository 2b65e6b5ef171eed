"""Weights as they will be stored, differentiable: rounding in the forward pass, straight through in the backward pass.

Codes, steps and zero points are learned together (Esser et al. 2020, "Learned Step Size Quantization";
Bhalgat et al. 2020, "LSQ+", for the zero point). What the forward pass multiplies with is bit for bit what the packed
tensor will mean: steps are rounded to scales as they are stored (`Grid`), zero points to integers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgec.compress.quantize import Grid, QuantizedRows
from edgec.heal.ops import Tensor
from edgec.ir.weight_use import WeightUse

_LEAST_SCALE = 6.2e-5  # the smallest normal float16
_LARGEST_SCALE, _LARGEST_COMPACT_SCALE = 65504.0, 1.9375


class _Round(torch.autograd.Function):  # type: ignore[misc]
    """`(q - center) * step` for the code q of each weight; groups along the last axis."""

    @staticmethod
    def forward(context: Any, weights: Tensor, steps: Tensor, centers: Tensor, levels: float) -> Tensor:
        scaled = weights / steps + centers
        codes = scaled.round().clamp_(0, levels)
        # Beyond half a step outside of the codes a weight does not move its code.
        inside = (scaled >= -0.5) & (scaled <= levels + 0.5)
        context.save_for_backward(codes - centers, scaled.sub_(centers), inside, steps)
        return (codes - centers) * steps

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        (gradient,) = gradients
        offsets, scaled, inside, steps = context.saved_tensors
        to_weights = gradient * inside
        to_steps = (gradient * offsets - to_weights * scaled).sum(-1, keepdim=True)
        to_centers = ((to_weights - gradient) * steps).sum(-1, keepdim=True)
        return to_weights, to_steps, to_centers, None


class _Storable(torch.autograd.Function):  # type: ignore[misc]
    """Rounds to what is stored; the gradient goes straight through."""

    @staticmethod
    def forward(context: Any, values: Tensor, rounded: Tensor) -> Tensor:
        return rounded

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


@dataclass
class QuantizedWeight:
    """One matrix of `bits` bits. `latent`, `log_steps` and `centers` are what is trained."""

    use: WeightUse
    grid: Grid
    latent: Tensor  # [rows, groups, group size], columns padded with zeros
    log_steps: Tensor  # [rows, groups, 1], natural logarithms
    centers: Tensor  # [rows, groups, 1], the code that means zero

    @classmethod
    def start(cls, use: WeightUse, matrix: npt.NDArray[np.float32], found: QuantizedRows) -> QuantizedWeight:
        """From float weights and a first choice of steps and zero points."""
        groups, size = found.scales.shape[1], found.grid.group_size
        padded = np.zeros((use.rows, groups * size), np.float32)
        padded[:, : use.columns] = matrix
        steps = np.maximum(found.grid.steps(found.scales), found.grid.steps(np.array(_LEAST_SCALE, np.float32)))
        centers = found.grid.centers(found.zeros)
        latent = torch.from_numpy(padded.reshape(use.rows, groups, size)).requires_grad_()
        log_steps = torch.from_numpy(np.log(steps)[..., None]).requires_grad_()
        return cls(use, found.grid, latent, log_steps, torch.from_numpy(centers[..., None].copy()).requires_grad_())

    def array(self) -> Tensor:
        """The initializer's array with the values that will be stored."""
        steps, centers = self._stored()
        values = _Round.apply(self.latent, steps, centers, float(self.grid.levels))
        matrix = values.reshape(self.use.rows, -1)[:, : self.use.columns]
        return matrix.T if self.use.layout == "kn" else matrix

    def _stored(self) -> tuple[Tensor, Tensor]:
        divisor = float(self.grid.step_divisor)
        steps = self.log_steps.exp()
        largest = _LARGEST_COMPACT_SCALE if self.grid.compact else _LARGEST_SCALE
        wanted = np.clip(steps.detach().numpy(), _LEAST_SCALE / divisor, largest / divisor)
        scales = torch.from_numpy(self.grid.storable_scales(wanted))
        zeros = torch.from_numpy(self.grid.storable_zeros(self.centers.detach().numpy()))
        fraction = float(self.grid.zero_divisor)
        return _Storable.apply(steps, scales / divisor), _Storable.apply(self.centers, zeros / fraction)

    def rows(self) -> QuantizedRows:
        """The codes as they are stored."""
        with torch.no_grad():
            steps, centers = self._stored()
            codes = (self.latent / steps + centers).round_().clamp_(0, float(self.grid.levels))
            scales = (steps * float(self.grid.step_divisor)).to(torch.float16)
            zeros = (centers * float(self.grid.zero_divisor)).round()
        return QuantizedRows(
            self.grid,
            np.ascontiguousarray(codes.to(torch.uint8).reshape(self.use.rows, -1)[:, : self.use.columns].numpy()),
            scales[..., 0].numpy(),
            zeros[..., 0].to(torch.uint8).numpy(),
        )


@dataclass(frozen=True)
class FloatWeight:
    """An initializer that is stored as floats. `latent` is what is trained, `rate` how fast at most."""

    latent: Tensor
    rate: float
    stored: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] | None = None  # rounds to what is stored

    def array(self) -> Tensor:
        """With the values that will be stored."""
        if self.stored is None:
            return self.latent
        return _Storable.apply(self.latent, torch.from_numpy(self.stored(self.latent.detach().numpy())))


__all__ = ["FloatWeight", "QuantizedWeight"]
