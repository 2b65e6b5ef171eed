"""Kernels of mixtures of experts against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.lower.wasm.kernels.epilogue import PLAIN, Epilogue
from edgec.lower.wasm.kernels.experts import Pairs, combine, route
from edgec.lower.wasm.kernels.linear_float import linear_float, pack_float
from edgec.lower.wasm.target import SIMD128
from tests.lower.kernel_runner import KernelRunner

ROWS = 7


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize(("experts", "per_token"), [(5, 2), (8, 8), (64, 6), (3, 1)])
def test_route(experts: int, per_token: int, normalized: bool) -> None:
    stride = -(-experts // 8) * 8
    scores = np.random.default_rng(experts).normal(0, 3, (ROWS, stride)).astype(np.float32)
    scores[2, : experts - 1] = scores[2, experts - 1]  # all equal: the first ones are taken
    chosen = np.full((ROWS, per_token), -1, np.int32)
    weights = np.zeros((ROWS, per_token), np.float32)
    func = route(experts=experts, per_token=per_token, stride=stride, normalized=normalized)
    KernelRunner(func, SIMD128).run([scores, chosen, weights], [ROWS], threads=2)

    wide = scores[:, :experts].astype(np.float64)
    likely = np.exp(wide - wide.max(-1, keepdims=True))
    likely /= likely.sum(-1, keepdims=True)
    order = np.argsort(-wide, axis=-1, kind="stable")[:, :per_token]
    np.testing.assert_array_equal(chosen, order)
    wanted = np.take_along_axis(likely, order, -1)
    if normalized:
        wanted /= wanted.sum(-1, keepdims=True)
    np.testing.assert_allclose(weights, wanted, rtol=1e-6)


@pytest.mark.parametrize("added", [False, True])
def test_combine(added: bool) -> None:
    random = np.random.default_rng(1)
    outputs, weights = random.normal(size=(ROWS, 3, 16)).astype(np.float32), random.random((ROWS, 3), np.float32)
    target = random.normal(size=(ROWS, 16)).astype(np.float32)
    wanted = np.einsum("rsf,rs->rf", outputs, weights) + (target if added else 0)
    KernelRunner(combine(per_token=3, stride=16, added=added), SIMD128).run([outputs, weights, target], [ROWS])
    np.testing.assert_allclose(target, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("shared", [1, 2])
def test_linear_of_pairs(gated: bool, shared: int) -> None:
    """One output row for each pair; inputs are shared by the pairs of a token, or one for each."""
    random = np.random.default_rng(2)
    outputs, columns, experts = 8, 20, 4
    rows = 2 * outputs if gated else outputs  # gate and up alternate in blocks of 8
    weight = random.normal(size=(experts, rows, columns)).astype(np.float32)
    chosen = random.integers(0, experts, 2 * ROWS).astype(np.int32)
    source = random.normal(size=(2 * ROWS // shared, columns)).astype(np.float32)
    found = np.zeros((2 * ROWS, outputs), np.float32)
    epilogue = Epilogue(activation="relu", gated=True) if gated else PLAIN
    func = linear_float(
        rows=rows, columns=columns, input_stride=columns, epilogue=epilogue, pairs=Pairs(rows // 8, shared)
    )
    packed = pack_float(weight.reshape(-1, columns))
    KernelRunner(func, SIMD128).run([source, packed, chosen, found], [2 * ROWS], threads=2)
    sums = np.einsum("pk,pnk->pn", source.repeat(shared, 0), weight[chosen])
    wanted = np.maximum(sums[:, :8], 0) * sums[:, 8:] if gated else sums
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
