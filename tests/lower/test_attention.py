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
    half = len(frequencies)
    first, second, rest = np.split(x.astype(np.float64), [half, 2 * half], axis=-1)
    return np.concatenate(
        [first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle), rest], -1
    )


def reference(
    qkv: npt.NDArray[Any],
    frequencies: npt.NDArray[Any],
    heads: int,
    kv_heads: int,
    dim: int,
    window: int | None,
    softcap: float | None,
) -> npt.NDArray[np.float64]:
    tokens = len(qkv)
    all_heads = qkv.reshape(tokens, -1, dim)
    positions = np.arange(tokens)
    query = rotated(all_heads[:, :heads], frequencies, positions)
    key = rotated(all_heads[:, heads : heads + kv_heads], frequencies, positions).repeat(heads // kv_heads, 1)
    value = all_heads[:, heads + kv_heads :].astype(np.float64).repeat(heads // kv_heads, 1)
    scores = np.einsum("qhd,khd->hqk", query, key) * dim**-0.5
    if softcap is not None:
        scores = softcap * np.tanh(scores / softcap)
    distance = positions[:, None] - positions[None, :]
    hidden = (distance < 0) | (distance >= (window or CONTEXT))
    scores = np.where(hidden, -np.inf, scores)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hqk,khd->qhd", weights, value).reshape(tokens, -1)


@pytest.mark.parametrize(("bits", "tolerance"), [(32, 2e-6), (16, 1.2e-3)])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (3, 3), (7, 1)])
@pytest.mark.parametrize(
    ("dim", "rotated", "window", "softcap"),
    [
        (64, 64, None, None),
        (8, 8, None, None),
        (64, 64, 20, None),
        (256, 256, None, None),
        (64, 64, 20, 0.7),
        (80, 20, None, None),
        (24, 6, None, None),
        (16, 0, None, None),
    ],
)
def test_attention(
    bits: int,
    tolerance: float,
    heads: int,
    kv_heads: int,
    dim: int,
    rotated: int,
    window: int | None,
    softcap: float | None,
) -> None:
    half = rotated // 2
    rng = np.random.default_rng(dim)
    width = (heads + 2 * kv_heads) * dim
    qkv = rng.standard_normal((161, width)).astype(np.float32)
    frequencies = (10000.0 ** -(np.arange(half) / max(half, 1))).astype(np.float32)
    layout = PageLayout(layers=2, kv_heads=kv_heads, head_dim=dim, bits=bits)
    pages = CONTEXT // PAGE_TOKENS
    table = np.array([2, 0, 3, 1], np.int32)  # logical pages are anywhere
    cache = np.full(pages * layout.page_bytes, 0xFF, np.uint8)  # what was there before: all NaN
    angles = KernelRunner(rope_angles(half=max(half, 1), scale=1.0), SIMD128)
    rope = KernelRunner(rope_and_append(layout=layout, heads=heads, stride=width, rotated=rotated), SIMD128)
    mix = KernelRunner(
        attention(
            layout=layout,
            heads=heads,
            context_length=CONTEXT,
            sliding_window=window,
            softcap=softcap,
        ),
        SIMD128,
    )
    outputs = []
    position = 0
    for m in (17, 1, 140, 3):
        turns = [np.zeros((m, half), np.float32) for _ in range(2)] if half else []
        if half:
            angles.run([frequencies, *turns], [position, m], threads=2)
        queries = np.zeros((m, heads * dim), np.int16 if bits == 16 else np.float32)
        extra = [np.zeros((m, heads * layout.groups), np.float32)] if bits == 16 else []
        # A kernel sees the cache through several pointers; here each gets its copy of what follows its offset.
        offsets = list(layout.buffers(1).values())
        before = cache.copy()
        views = [cache[offset:].copy() for offset in offsets]
        rope.run([qkv[position : position + m], *turns, table, *views, queries, *extra], [position, m], threads=3)
        for view, offset in zip(views, offsets, strict=True):
            changed = view != before[offset:]
            cache[offset:][changed] = view[changed]
        views = [cache[offset:].copy() for offset in offsets]
        output = np.zeros((m, heads * dim), np.float32)
        scratch = np.zeros(scratch_floats(CONTEXT) * 2, np.float32)
        mix.run([queries, *extra, table, *views, scratch, output], [position, m], threads=2)
        outputs.append(output)
        position += m
    wanted = reference(qkv, frequencies, heads, kv_heads, dim, window, softcap)
    np.testing.assert_allclose(np.concatenate(outputs), wanted, rtol=0, atol=tolerance * np.abs(wanted).max())
