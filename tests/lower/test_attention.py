"""Rotary embedding, cache and attention against plain numpy, at 16 and 32 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgec.ir.plan import PAGE_TOKENS
from edgec.lower.wasm.kernels.attention import attention, scratch_floats
from edgec.lower.wasm.kernels.kv_cache import PageLayout, rope_and_append, rope_angles
from edgec.lower.wasm.target import SIMD128
from tests.lower.kernel_runner import KernelRunner

CONTEXT = 256


def rotated(x: npt.NDArray[Any], frequencies: npt.NDArray[Any], positions: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    angle = positions[:, None, None] * frequencies.astype(np.float64)
    first, second = np.split(x.astype(np.float64), 2, axis=-1)
    return np.concatenate(
        [first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)], -1
    )


def reference(
    qkv: npt.NDArray[Any], frequencies: npt.NDArray[Any], heads: int, kv_heads: int, dim: int, window: int | None
) -> npt.NDArray[np.float64]:
    tokens = len(qkv)
    all_heads = qkv.reshape(tokens, -1, dim)
    positions = np.arange(tokens)
    query = rotated(all_heads[:, :heads], frequencies, positions)
    key = rotated(all_heads[:, heads : heads + kv_heads], frequencies, positions).repeat(heads // kv_heads, 1)
    value = all_heads[:, heads + kv_heads :].astype(np.float64).repeat(heads // kv_heads, 1)
    scores = np.einsum("qhd,khd->hqk", query, key) * dim**-0.5
    distance = positions[:, None] - positions[None, :]
    hidden = (distance < 0) | (distance >= (window or CONTEXT))
    scores = np.where(hidden, -np.inf, scores)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hqk,khd->qhd", weights, value).reshape(tokens, -1)


@pytest.mark.parametrize(("bits", "tolerance"), [(32, 2e-6), (16, 1.2e-3)])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (3, 3), (7, 1)])
@pytest.mark.parametrize(("dim", "window"), [(64, None), (8, None), (64, 20), (256, None)])
def test_attention(bits: int, tolerance: float, heads: int, kv_heads: int, dim: int, window: int | None) -> None:
    rng = np.random.default_rng(dim)
    width = (heads + 2 * kv_heads) * dim
    qkv = rng.standard_normal((161, width)).astype(np.float32)
    frequencies = (10000.0 ** -(np.arange(dim // 2) / (dim // 2))).astype(np.float32)
    layout = PageLayout(layers=2, kv_heads=kv_heads, head_dim=dim, bits=bits)
    pages = CONTEXT // PAGE_TOKENS
    table = np.array([2, 0, 3, 1], np.int32)  # logical pages are anywhere
    cache = np.zeros(pages * layout.page_bytes, np.uint8)
    angles = KernelRunner(rope_angles(half=dim // 2, scale=1.0), SIMD128)
    rope = KernelRunner(rope_and_append(layout=layout, heads=heads, stride=width), SIMD128)
    mix = KernelRunner(
        attention(SIMD128, layout=layout, heads=heads, context_length=CONTEXT, quantized=False, sliding_window=window),
        SIMD128,
    )
    outputs = []
    position = 0
    for m in (17, 1, 140, 3):
        cosines, sines = np.zeros((m, dim // 2), np.float32), np.zeros((m, dim // 2), np.float32)
        angles.run([frequencies, cosines, sines], [position, m], threads=2)
        queries = np.zeros((m, heads * dim), np.int16 if bits == 16 else np.float32)
        extra = [np.zeros((m, heads * layout.groups), np.float32)] if bits == 16 else []
        # A kernel sees the cache through several pointers; here each gets its copy of what follows its offset.
        offsets = list(layout.buffers(1).values())
        before = cache.copy()
        views = [cache[offset:].copy() for offset in offsets]
        rope.run(
            [qkv[position : position + m], cosines, sines, table, *views, queries, *extra], [position, m], threads=3
        )
        for view, offset in zip(views, offsets, strict=True):
            changed = view != before[offset:]
            cache[offset:][changed] = view[changed]
        views = [cache[offset:].copy() for offset in offsets]
        output = np.zeros((m, heads * dim), np.float32)
        scratch = np.zeros(scratch_floats(CONTEXT) * 2, np.float32)
        mix.run([queries, *extra, table, *views, scratch, output], [position, m], threads=2)
        outputs.append(output)
        position += m
    wanted = reference(qkv, frequencies, heads, kv_heads, dim, window)
    np.testing.assert_allclose(np.concatenate(outputs), wanted, rtol=0, atol=tolerance * np.abs(wanted).max())
