"""Rotary embedding, cache and attention against plain numpy, at 16 and 32 bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgec.ir.plan import PAGE_TOKENS
from edgec.lower.wasm.kernels.attention import attention, scratch_floats
from edgec.lower.wasm.kernels.kv_cache import PageLayout, rope_and_append, rope_angles
from edgec.lower.wasm.target import ISAS, RELAXED, RELAXED16, SIMD128, Isa
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


class Kernels:
    """Of the second of two layers, on a cache whose pages are anywhere."""

    def __init__(
        self,
        *,
        bits: int,
        heads: int,
        kv_heads: int,
        dim: int,
        rotated: int | None = None,
        window: int | None = None,
        softcap: float | None = None,
        isa: Isa = SIMD128,
    ) -> None:
        self.bits, self.heads, self.dim = bits, heads, dim
        self.half = (dim if rotated is None else rotated) // 2
        self.width = (heads + 2 * kv_heads) * dim
        self.frequencies = (10000.0 ** -(np.arange(self.half) / max(self.half, 1))).astype(np.float32)
        self.layout = PageLayout(layers=2, kv_heads=kv_heads, head_dim=dim, bits=bits)
        self.angles = KernelRunner(rope_angles(half=max(self.half, 1), scale=1.0), isa)
        self.rope = KernelRunner(
            rope_and_append(layout=self.layout, heads=heads, stride=self.width, rotated=2 * self.half), isa
        )
        self.mix = KernelRunner(
            attention(layout=self.layout, heads=heads, context_length=CONTEXT, sliding_window=window, softcap=softcap),
            isa,
        )

    def random(self, tokens: int) -> npt.NDArray[np.float32]:
        return np.random.default_rng(self.dim).standard_normal((tokens, self.width)).astype(np.float32)

    def run(self, qkv: npt.NDArray[np.float32], chunks: Sequence[int], threads: int = 2) -> npt.NDArray[np.float32]:
        """Attention of all rows, in chunks of so many."""
        layout, half, heads = self.layout, self.half, self.heads
        table = np.array([2, 0, 3, 1], np.int32)
        # What was there before: all NaN.
        cache = np.full(CONTEXT // PAGE_TOKENS * layout.page_bytes, 0xFF, np.uint8)
        outputs = []
        position = 0
        for m in chunks:
            turns = [np.zeros((m, half), np.float32) for _ in range(2)] if half else []
            if half:
                self.angles.run([self.frequencies, *turns], [position, m], threads=2)
            queries = np.zeros((m, heads * self.dim), np.int16 if self.bits == 16 else np.float32)
            extra = [np.zeros((m, heads * layout.groups), np.float32)] if self.bits == 16 else []
            # A kernel sees the cache through several pointers; here each gets its copy of what follows its offset.
            offsets = list(layout.buffers(1).values())
            before = cache.copy()
            views = [cache[offset:].copy() for offset in offsets]
            self.rope.run(
                [qkv[position : position + m], *turns, table, *views, queries, *extra], [position, m], threads=3
            )
            for view, offset in zip(views, offsets, strict=True):
                changed = view != before[offset:]
                cache[offset:][changed] = view[changed]
            views = [cache[offset:].copy() for offset in offsets]
            output = np.full((m, heads * self.dim), np.nan, np.float32)
            scratch = np.full(scratch_floats(layout, heads, CONTEXT) * threads, np.nan, np.float32)
            self.mix.run([queries, *extra, table, *views, scratch, output], [position, m], threads=threads)
            outputs.append(output)
            position += m
        return np.concatenate(outputs)


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
    kernels = Kernels(
        bits=bits, heads=heads, kv_heads=kv_heads, dim=dim, rotated=rotated, window=window, softcap=softcap
    )
    qkv = kernels.random(161)
    wanted = reference(qkv, kernels.frequencies, heads, kv_heads, dim, window, softcap)
    found = kernels.run(qkv, (17, 1, 140, 3))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("bits", "heads", "kv_heads", "dim", "window", "softcap"),
    [
        (16, 9, 3, 64, None, None),
        (16, 7, 1, 24, 33, None),
        (16, 4, 1, 96, 5, 0.7),
        (16, 2, 1, 8, 20, None),
        (16, 2, 2, 80, None, 0.7),
        (32, 7, 1, 24, 33, 0.7),
    ],
)
def test_rows_together_have_the_bits_of_rows_alone(
    bits: int, heads: int, kv_heads: int, dim: int, window: int | None, softcap: float | None
) -> None:
    kernels = Kernels(bits=bits, heads=heads, kv_heads=kv_heads, dim=dim, window=window, softcap=softcap)
    qkv = kernels.random(70)
    alone = kernels.run(qkv, [1] * 70, threads=1)
    for chunks, threads in (((70,), 1), ((66, 4), 5), ((3, 2, 5, 1, 59), 2)):
        assert np.array_equal(kernels.run(qkv, chunks, threads), alone)


@pytest.mark.parametrize("isa", [RELAXED, RELAXED16])
def test_every_instruction_set_has_the_same_bits(isa: Isa) -> None:
    shape = {"bits": 16, "heads": 9, "kv_heads": 3, "dim": 64}
    plain = Kernels(**shape)
    qkv = plain.random(90)
    chunks = (1, 30, 1, 58)
    assert np.array_equal(Kernels(**shape, isa=isa).run(qkv, chunks), plain.run(qkv, chunks))


@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(9, 3, 64), (7, 1, 80), (4, 4, 24), (5, 5, 8)])
def test_one_row_gives_the_same_bits_everywhere(heads: int, kv_heads: int, dim: int) -> None:
    """On every instruction set, for every number of threads, and as one of several rows; at the edges of blocks."""
    layout = PageLayout(layers=1, kv_heads=kv_heads, head_dim=dim, bits=16)
    random = np.random.default_rng(dim)
    pages = CONTEXT // PAGE_TOKENS
    cache = random.integers(-2047, 2048, pages * layout.page_bytes // 2).astype(np.int16).view(np.uint8)
    floats = cache.reshape(pages, -1)[:, layout.buffers(0)["key_scales"] :]
    floats[:] = random.uniform(1e-4, 1e-3, (pages, floats.shape[1] // 4)).astype(np.float32).view(np.uint8)
    views = [cache[offset:].copy() for offset in layout.buffers(0).values()]
    table = np.array([2, 0, 3, 1], np.int32)
    queries = random.integers(-2047, 2048, (3, heads * dim)).astype(np.int16)
    scales = random.uniform(1e-4, 1e-3, (3, heads * layout.groups)).astype(np.float32)
    runners = {
        name: KernelRunner(attention(layout=layout, heads=heads, context_length=CONTEXT), isa)
        for name, isa in ISAS.items()
    }

    def run(isa: str, first: int, rows: int, position: int, threads: int) -> npt.NDArray[np.float32]:
        output = np.full((rows, heads * dim), np.nan, np.float32)
        scratch = np.zeros(scratch_floats(layout, heads, CONTEXT) * threads, np.float32)
        taken = [queries[first : first + rows], scales[first : first + rows]]
        runners[isa].run([*taken, table, *views, scratch, output], [position + first, rows], threads=threads)
        return output

    for position in (0, 13, 14, 61, 62, 140, 250):
        wanted = run("simd128", 0, 3, position, 1)
        assert np.isfinite(wanted).all()
        for row in range(3):
            for isa in ISAS:
                for threads in (1, 2, 4):
                    assert np.array_equal(run(isa, row, 1, position, threads)[0], wanted[row])
