"""Attention of whole sequences by integers, beside numpy in float64."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx.helper as oh
import onnx_ir as ir
import pytest

from edgec.lower.wasm.graph import lower_graph
from edgec.lower.wasm.kernels.encoder_attention import AttentionShape
from edgec.lower.wasm.kernels.integer_attention import attention_codes, code_bytes, integer_attention, is_possible
from edgec.lower.wasm.target import ISAS, RELAXED, SIMD128
from edgec.passes import simplify
from tests.lower.graph.harness import EACH, WasmGraph, compressed, make_model
from tests.lower.kernel_runner import KernelRunner
from tests.passes.graphs import run

Array = npt.NDArray[Any]
HIDDEN = -1e30
N, T, S = (ir.SymbolicDim(name) for name in ("n", "t", "s"))
SIZES = [(1, 1, 1), (2, 3, 5), (1, 16, 16), (2, 17, 63), (1, 5, 64), (1, 37, 65), (1, 20, 200)]


def shape_of(**changes: Any) -> AttentionShape:
    """Four query heads and two of keys, 24 features of keys, 16 of values, in `[batch, tokens, heads, ...]`."""
    shape = AttentionShape(
        batch=N,
        heads=4,
        kv_heads=2,
        queries=T,
        keys=S,
        width=24,
        value_width=16,
        scale=0.3,
        causal=False,
        softcap=0.0,
        query_strides=(T * 96, 24, 96),
        key_strides=(S * 48, 24, 48),
        value_strides=(S * 32, 16, 32),
        output_strides=(T * 64, 16, 64),
        offsets=(0, 0, 0, 0),
    )
    return dataclasses.replace(shape, **changes)


@dataclasses.dataclass
class Case:
    q: Array
    k: Array
    v: Array
    mask: Array | None = None

    @classmethod
    def random(cls, n: int, t: int, s: int, mask: Array | None = None) -> Case:
        random = np.random.default_rng(n * 10000 + t * 100 + s)
        shapes = ((n, t, 4, 24), (n, s, 2, 24), (n, s, 2, 16))
        q, k, v = (random.normal(0, 1, shape).astype(np.float32) for shape in shapes)
        return cls(q, k, v, mask)

    def expected(self, shape: AttentionShape) -> Array:
        q, k, v = (array.astype(np.float64).transpose(0, 2, 1, 3) for array in (self.q, self.k, self.v))
        k, v = (np.repeat(array, 2, axis=1) for array in (k, v))
        scores = q @ k.transpose(0, 1, 3, 2) * shape.scale
        if shape.softcap:
            scores = np.tanh(scores / shape.softcap) * shape.softcap
        if self.mask is not None:
            scores = np.where(self.mask, scores, HIDDEN) if self.mask.dtype == bool else scores + self.mask
        if shape.causal:
            scores = np.where(np.tri(*scores.shape[2:]) > 0, scores, HIDDEN)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights = np.where(scores > HIDDEN / 2, weights, 0)
        mixed: Array = weights / np.maximum(weights.sum(axis=-1, keepdims=True), 1e-30) @ v
        return mixed.transpose(0, 2, 1, 3)


class Attention:
    """Both kernels of one instruction set."""

    def __init__(self, shape: AttentionShape, isa: str = "simd128") -> None:
        self.shape = shape
        self.codes = KernelRunner(attention_codes(shape), ISAS[isa])
        self.products = KernelRunner(integer_attention(shape), ISAS[isa])

    def __call__(self, case: Case, threads: int = 1) -> Array:
        n, t, s = len(case.q), case.q.shape[1], case.k.shape[1]
        sizes = {"n": n, "t": t, "s": s}
        scalars = [sizes[name] for name in self.shape.dimensions()]
        types = (np.int32, np.float32, np.int32, np.float32)
        codes = [np.zeros(-(-size // 4), kind) for size, kind in zip(code_bytes(self.shape, n, s), types, strict=True)]
        self.codes.run([case.k, case.v, *codes], scalars, threads=threads)
        output = np.full((n, t, 4, 16), np.nan, np.float32)
        mask = [] if case.mask is None else [case.mask]
        self.products.run([case.q, *codes, *mask, output], scalars, threads=threads)
        return output


@pytest.mark.parametrize("changes", [{}, {"causal": True, "softcap": 2.0}])
def test_result_is_near(changes: dict[str, Any]) -> None:
    attention = Attention(shape_of(**changes))
    for n, t, s in SIZES:
        case = Case.random(n, t, s)
        np.testing.assert_allclose(attention(case), case.expected(attention.shape), atol=2e-3)


@pytest.mark.parametrize("kind", ["float32", "bool"])
def test_masks(kind: str) -> None:
    """Of batch and keys alone; some queries see nothing of a whole block, one sequence sees nothing at all."""
    attention = Attention(shape_of(mask_strides=(S, 0, 0, 1), mask_dtype=kind))
    for n, t, s in [*SIZES, (2, 9, 130)]:
        shown = np.random.default_rng(s).random((n, 1, 1, s)) < 0.7
        shown[..., : min(70, s - 1)] &= s < 100
        shown[-1] &= n == 1
        mask = shown if kind == "bool" else np.where(shown, 0, np.float32(np.finfo(np.float32).min)).astype(np.float32)
        case = Case.random(n, t, s, mask)
        np.testing.assert_allclose(attention(case), case.expected(attention.shape), atol=2e-3)


def test_mask_whose_keys_are_apart() -> None:
    attention = Attention(shape_of(mask_strides=(0, 0, 1, T)))
    for n, t, s in SIZES:
        mask = np.random.default_rng(s).normal(0, 3, (s, t)).astype(np.float32)
        case = Case.random(n, t, s, mask)
        expected = dataclasses.replace(case, mask=mask.T).expected(attention.shape)
        np.testing.assert_allclose(attention(case), expected, atol=2e-3)


def test_one_key_above_all_others() -> None:
    """Many small weights, of 7.5 codes each, keep their part of the sum beside one that is 1000 times as large."""
    attention = Attention(shape_of())
    case = Case.random(1, 4, 500)
    case.k[0, :, :, :] = 0
    case.q[...] = 1
    case.k[0, 3, :, :] = 7 / 24 / 0.3
    np.testing.assert_allclose(attention(case), case.expected(attention.shape), atol=1e-2)


def test_every_instruction_set_and_thread_count_gives_the_same_bits() -> None:
    case = Case.random(2, 37, 65)
    plain = Attention(shape_of())(case)
    for isa in (SIMD128, RELAXED):
        for threads in (1, 2, 3, 7):
            assert np.array_equal(Attention(shape_of(), isa.name)(case, threads), plain)


def test_result_of_a_query_depends_on_nothing_but_itself() -> None:
    attention = Attention(shape_of())
    case = Case.random(2, 37, 65)
    whole = attention(case)
    for first, last in ((0, 1), (5, 9), (16, 37)):
        alone = attention(Case(case.q[1:, first:last], case.k[1:], case.v[1:]))
        assert np.array_equal(alone, whole[1:, first:last])


def test_extreme_values() -> None:
    attention = Attention(shape_of())
    case = Case.random(1, 5, 70)
    for factor in (0.0, 1e-25, 1e12):
        scaled = Case(case.q * np.float32(factor), case.k, case.v * np.float32(factor))
        np.testing.assert_allclose(attention(scaled), scaled.expected(attention.shape), rtol=0, atol=3e-3 * factor)


def test_what_is_possible() -> None:
    assert is_possible(shape_of())
    assert not is_possible(shape_of(width=20))
    assert not is_possible(shape_of(value_width=136))


def test_graphs_of_quantized_matrices_use_it() -> None:
    """A graph whose matrices are float32 keeps float32 attention, and so do few queries."""
    random = np.random.default_rng(1)
    weights = {"w": random.normal(0, 0.2, (32, 96)).astype(np.float32)}
    nodes = [
        oh.make_node("MatMul", ["x", "w"], ["qkv"]),
        oh.make_node("Split", ["qkv"], ["q", "k", "v"], axis=-1, num_outputs=3),
        oh.make_node("Attention", ["q", "k", "v"], ["y"], q_num_heads=4, kv_num_heads=4),
    ]
    model = make_model(nodes, {"x": ("f", ["n", "t", 32])}, {"y": "f"}, weights)
    feed = {"x": random.normal(0, 1, (2, 19, 32)).astype(np.float32)}
    for bits, tokens, integers in ((8, 19, True), (8, 7, False), (32, 19, False)):
        short = {"x": feed["x"][:, :tokens]}
        program = lower_graph(compressed(simplify(model), dims={"n": 2, "t": tokens}, bits=bits))
        assert ("integer_attention" in str(program._factories.keys())) == integers
        module = program.build(EACH)
        results = [WasmGraph(module, variant)(short)[0] for variant in EACH]
        [wanted] = run(model.model, short)
        np.testing.assert_allclose(results[0], wanted, atol=5e-2 if bits == 8 else 1e-5)
        assert all(np.array_equal(results[0], other) for other in results[1:])
