"""What is trained with is what is stored; gradients pass straight through."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgec.compress.quantize import QUANTIZERS
from edgec.heal.quantized import QuantizedWeight
from edgec.ir.weight_use import WeightUse


def weight(
    bits: int, layout: str = "kn", rows: int = 13, columns: int = 70, *, compact: bool = False
) -> tuple[QuantizedWeight, np.ndarray]:
    rng = np.random.default_rng(bits)
    matrix = rng.standard_normal((rows, columns)).astype(np.float32)
    shape = (columns, rows) if layout == "kn" else (rows, columns)
    use = WeightUse("w", shape, layout, frozenset({"linear"}), 1)  # type: ignore[arg-type]
    return QuantizedWeight.start(use, matrix, QUANTIZERS["rtn"](bits, None, compact=compact).quantize(matrix)), matrix


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("layout", ["kn", "nk"])
def test_the_forward_pass_is_what_will_be_stored(bits: int, layout: str) -> None:
    trained, matrix = weight(bits, layout)
    expected = QUANTIZERS["rtn"](bits, None).quantize(matrix).values()
    expected = expected.T if layout == "kn" else expected
    np.testing.assert_allclose(trained.array().detach().numpy(), expected, rtol=1e-6, atol=1e-7)
    with torch.no_grad():  # anywhere that training may lead
        generator = torch.Generator().manual_seed(1)
        for tensor, width in ((trained.latent, 0.5), (trained.log_steps, 0.3), (trained.centers, 3.0)):
            tensor.add_(width * torch.randn(tensor.shape, generator=generator))
    stored = trained.rows().values()
    stored = stored.T if layout == "kn" else stored
    np.testing.assert_array_equal(trained.array().detach().numpy(), stored)
    assert np.isfinite(stored).all()


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_compact_scales_stay_compact(bits: int) -> None:
    trained, _ = weight(bits, compact=True)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor, width in ((trained.latent, 0.5), (trained.log_steps, 9.0), (trained.centers, 3.0)):
            tensor.add_(width * torch.randn(tensor.shape, generator=generator))
    rows = trained.rows()
    np.testing.assert_array_equal(trained.array().detach().numpy().T, rows.values())
    assert not np.any(rows.scales.view(np.uint16) & np.uint16(~0x3FC0 & 0xFFFF))
    assert bits > 3 or not np.any(rows.zeros & 15)


def test_gradients_are_those_of_the_papers() -> None:
    """LSQ+: by the formulas in numpy, float64."""
    trained, _ = weight(3, "nk", rows=3, columns=64)
    incoming = torch.randn((3, 64), generator=torch.Generator().manual_seed(2))
    trained.array().backward(incoming)
    found = trained.rows()
    step = np.repeat(found.grid.steps(found.scales).astype(np.float64), 32, axis=1)
    center = np.repeat(found.grid.centers(found.zeros).astype(np.float64), 32, axis=1)
    latent = trained.latent.detach().numpy().reshape(3, 64).astype(np.float64)
    scaled = latent / step + center
    inside = (scaled >= -0.5) & (scaled <= found.grid.levels + 0.5)
    gradient = incoming.numpy().astype(np.float64)
    np.testing.assert_allclose(trained.latent.grad.numpy().reshape(3, 64), gradient * inside, rtol=1e-6)
    to_step = gradient * (found.codes - center - inside * (scaled - center))
    expected = to_step.reshape(3, 2, 32).sum(-1) * step[:, ::32]  # of its logarithm
    np.testing.assert_allclose(trained.log_steps.grad.numpy()[..., 0], expected, rtol=1e-3, atol=1e-5)
    to_center = (gradient * (inside - 1.0) * step).reshape(3, 2, 32).sum(-1)
    np.testing.assert_allclose(trained.centers.grad.numpy()[..., 0], to_center, rtol=1e-3, atol=1e-5)
