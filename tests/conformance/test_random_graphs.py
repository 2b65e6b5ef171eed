"""Random graphs equal onnxruntime; the seed is the test's name."""

from __future__ import annotations

import pytest

from tests.conformance.random_graphs import WIDER, check_seed


@pytest.mark.parametrize("seed", range(12))
def test_few(seed: int) -> None:
    check_seed(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(12, 252, 40))
def test_many(first: int) -> None:
    for seed in range(first, first + 40):
        print(f"seed {seed}")
        check_seed(seed)


@pytest.mark.parametrize("seed", range(4))
def test_wider(seed: int) -> None:
    """Recurrent, quantized, integer and transposed operators among them, attention and norms as exports write them."""
    check_seed(seed, WIDER)
