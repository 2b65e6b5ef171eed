"""Lower a decoder language model: one flat list of kernel calls per entry point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgec.ir.compressed import GROUP, CompressedModel
from edgec.ir.lowered import KVLayout
from edgec.ir.model import DecoderFacts
from edgec.lower.wasm.decoder_match import LayerWeights, LinearWeights, match_decoder
from edgec.lower.wasm.kernels.attention import attention, scratch_floats
from edgec.lower.wasm.kernels.embedding import embedding
from edgec.lower.wasm.kernels.epilogue import Epilogue, padded
from edgec.lower.wasm.kernels.kv_cache import PageLayout, rope_and_append, rope_angles
from edgec.lower.wasm.kernels.linear import linear
from edgec.lower.wasm.kernels.linear_float import linear_float
from edgec.lower.wasm.kernels.norm import norm
from edgec.lower.wasm.kernels.quantize import quantize, quantized_bytes
from edgec.lower.wasm.program import Entry, Operand, Program, Scalar, Storage
from edgec.lower.wasm.weights import Matrix, WeightStore


@dataclass(frozen=True)
class Activations:
    """Input of a linear: quantized (codes, scales, sums) or one float32 buffer of `stride` floats a row."""

    storages: tuple[Storage, ...]
    stride: int
    quantized: bool


class _Lowering:
    def __init__(self, compressed: CompressedModel) -> None:
        plan, facts = compressed.plan, compressed.model.decoder
        assert facts is not None and plan.kv is not None
        self.facts: DecoderFacts = facts
        self.plan = plan
        self.rows = plan.prefill_chunk
        self.names = match_decoder(compressed.model)
        self.layout = PageLayout(facts.layers, facts.kv_heads, facts.head_dim, plan.kv.bits)
        pages = -(-plan.context_length // plan.kv.page_tokens)
        self.program = Program(
            "decoder",
            plan.max_threads,
            kv=KVLayout(plan.kv.bits, plan.kv.page_tokens, self.layout.page_bytes, pages, 0),
        )
        self.weights = WeightStore(self.program, compressed)
        self.tokens = self.program.workspace("tokens", 4 * self.rows, persistent=True)
        self.stream = self.program.workspace("stream", 4 * self.rows * facts.hidden, persistent=True)
        self.logits = self.program.workspace("logits", 4 * padded(facts.vocabulary), persistent=True)
        self.program.input("tokens", "int32", (self.rows,), self.tokens)
        self.program.output("logits", "float32", (facts.vocabulary,), self.logits)
        self.inv_freq = self.program.weight("rope.inv_freq", np.asarray(facts.rope_inv_freq, np.float32))

    # Buffers

    def quantized_buffers(self, name: str, columns: int, rows: int) -> Activations:
        sizes = quantized_bytes(columns, rows)
        storages = tuple(self.program.workspace(f"{name}.{part}", size) for part, size in sizes.items())
        return Activations(storages, columns, quantized=True)

    def float_buffer(self, name: str, columns: int, rows: int) -> Activations:
        return Activations((self.program.workspace(name, 4 * columns * rows),), columns, quantized=False)

    def buffers_for(self, matrix: Matrix, name: str, rows: int) -> Activations:
        make = self.float_buffer if matrix.bits == 32 else self.quantized_buffers
        return make(name, matrix.columns, rows)

    # Operations

    def norm(self, entry: Entry, source: Storage, weight: str, target: Activations, first: Scalar, m: Scalar) -> None:
        columns = self.facts.hidden
        key = ("rms_norm", columns, target.quantized)
        kernel = self.program.kernel(
            key,
            lambda isa: norm(
                isa,
                kind="rms",
                columns=columns,
                stride=columns,
                epsilon=self.facts.norm_epsilon,
                quantized=target.quantized,
            ),
        )
        entry.call(kernel, source, self.weights.vector(weight), *target.storages, first, m)

    def linear(
        self,
        entry: Entry,
        source: Activations,
        matrix: Matrix,
        output: Storage,
        m: Scalar,
        *,
        bias: str | None = None,
        residual: Storage | None = None,
        gated: bool = False,
    ) -> None:
        epilogue = Epilogue(
            bias=bias is not None, activation="silu" if gated else None, residual=residual is not None, gated=gated
        )
        operands: list[Operand] = [*source.storages, *matrix.storages]
        if bias is not None:
            operands.append(self.weights.bias(bias, gated=gated))
        if residual is not None:
            operands.append(residual)
        rows, columns, bits, stride = matrix.rows, matrix.columns, matrix.bits, source.stride
        if bits == 32:
            kernel = self.program.kernel(
                ("linear_f32", rows, columns, stride, epilogue),
                lambda isa: linear_float(rows=rows, columns=columns, input_stride=stride, epilogue=epilogue),
            )
        else:
            kernel = self.program.kernel(
                (f"linear_w{bits}a8", rows, columns, epilogue),
                lambda isa: linear(isa, rows=rows, columns=columns, bits=bits, epilogue=epilogue),
            )
        entry.call(kernel, *operands, output, m)

    def quantize(self, entry: Entry, source: Storage, stride: int, matrix: Matrix, name: str) -> Activations:
        """`source` as input of `matrix`, quantized unless the matrix is float32."""
        if matrix.bits == 32:
            return Activations((source,), stride, quantized=False)
        target = self.quantized_buffers(name, matrix.columns, self.rows)
        columns = matrix.columns
        kernel = self.program.kernel(
            ("quantize", columns, stride), lambda isa: quantize(isa, columns=columns, stride=stride)
        )
        entry.call(kernel, source, *target.storages, "n")
        return target

    def matrix(self, weights: LinearWeights, *, gated: bool = False) -> Matrix:
        return self.weights.matrix(weights.weight, transposed=True, gated=gated)

    # Entry points

    def cache_operands(self, layer: int) -> list[Operand]:
        kv = self.program.kv_storage
        return [self.program.page_table, *(kv.at(offset) for offset in self.layout.buffers(layer).values())]

    def attention(self, entry: Entry, layer: int, weights: LayerWeights, angles: tuple[Storage, Storage]) -> None:
        facts, program, rows = self.facts, self.program, self.rows
        qkv_matrix, output_matrix = self.matrix(weights.qkv), self.matrix(weights.output)
        normed = self.buffers_for(qkv_matrix, "attention_norm", rows)
        self.norm(entry, self.stream, weights.attention_norm, normed, 0, "n")
        stride = padded(qkv_matrix.rows)
        qkv = program.workspace("qkv", 4 * stride * rows)
        self.linear(entry, normed, qkv_matrix, qkv, "n", bias=weights.qkv.bias)

        integer = self.layout.bits == 16
        width = facts.heads * facts.head_dim
        queries = [program.workspace("queries", (2 if integer else 4) * width * rows)]
        if integer:
            queries.append(program.workspace("query_scales", 4 * facts.heads * self.layout.groups * rows))
        rope = program.kernel(
            ("rope_and_append", stride),
            lambda isa: rope_and_append(layout=self.layout, heads=facts.heads, stride=stride),
        )
        cache = self.cache_operands(layer)
        entry.call(rope, qkv, *angles, *cache, *queries, "position", "n")

        fused = output_matrix.bits != 32 and facts.head_dim % GROUP == 0
        target = (self.quantized_buffers if fused else self.float_buffer)("attention", width, rows)
        scratch = program.workspace("scores", 4 * scratch_floats(self.plan.context_length) * self.plan.max_threads)
        kernel = program.kernel(
            ("attention", fused),
            lambda isa: attention(
                isa,
                layout=self.layout,
                heads=facts.heads,
                context_length=self.plan.context_length,
                quantized=fused,
                sliding_window=facts.sliding_window,
            ),
        )
        entry.call(kernel, *queries, *cache, scratch, *target.storages, "position", "n")
        if not fused:
            target = self.quantize(entry, target.storages[0], width, output_matrix, "attention_codes")
        self.linear(entry, target, output_matrix, self.stream, "n", bias=weights.output.bias, residual=self.stream)

    def mlp(self, entry: Entry, weights: LayerWeights) -> None:
        gate_up, down = self.matrix(weights.gate_up, gated=True), self.matrix(weights.down)
        normed = self.buffers_for(gate_up, "mlp_norm", self.rows)
        self.norm(entry, self.stream, weights.mlp_norm, normed, 0, "n")
        stride = padded(gate_up.rows // 2)
        gated = self.program.workspace("gated", 4 * stride * self.rows)
        self.linear(entry, normed, gate_up, gated, "n", bias=weights.gate_up.bias, gated=True)
        source = self.quantize(entry, gated, stride, down, "gated_codes")
        self.linear(entry, source, down, self.stream, "n", bias=weights.down.bias, residual=self.stream)

    def prefill(self) -> None:
        facts, program = self.facts, self.program
        entry = program.entry("prefill", "n", "position")
        table = self.weights.matrix(self.names.embedding, transposed=False)
        kernel = program.kernel(("embedding", table.bits), lambda isa: embedding(columns=facts.hidden, bits=table.bits))
        entry.call(kernel, self.tokens, *table.storages, self.stream, "n")
        half = facts.head_dim // 2
        cosines, sines = (program.workspace(name, 4 * half * self.rows) for name in ("cosines", "sines"))
        angles = program.kernel(("rope_angles",), lambda isa: rope_angles(half=half, scale=facts.rope_scale))
        entry.call(angles, self.inv_freq, cosines, sines, "position", "n")
        for layer, weights in enumerate(self.names.layers):
            self.attention(entry, layer, weights, (cosines, sines))
            self.mlp(entry, weights)

    def head(self) -> None:
        entry = self.program.entry("head", "row")
        tied = self.names.lm_head == self.names.embedding
        matrix = self.weights.matrix(self.names.lm_head, transposed=not tied)
        normed = self.buffers_for(matrix, "final_norm", 1)
        self.norm(entry, self.stream, self.names.final_norm, normed, "row", 1)
        self.linear(entry, normed, matrix, self.logits, 1)

    def decode(self) -> None:
        entry = self.program.entry("decode", "position")
        entry.enter("prefill", 1, "position")
        entry.enter("head", 0)


def lower_decoder(compressed: CompressedModel) -> Program:
    """A program with the entry points `prefill`, `head` and `decode` of docs/runtime-abi.md.

    Raises `UnsupportedError` when the graph is not the decoder of `ir/model.py`.
    """
    lowering = _Lowering(compressed)
    lowering.prefill()
    lowering.head()
    lowering.decode()
    return lowering.program
