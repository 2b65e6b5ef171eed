"""Lower a decoder language model: one flat list of kernel calls per entry point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgec.errors import UnsupportedError
from edgec.ir.compressed import GROUP, ROWS, CompressedModel
from edgec.ir.exits import ExitHead
from edgec.ir.lowered import KVLayout
from edgec.ir.model import DecoderFacts
from edgec.ir.work import Amount
from edgec.lower.wasm.adapters import Adapted, Adapters, gate_and_up
from edgec.lower.wasm.decoder_match import AttentionLayer, Experts, LinearWeights, MlpLayer, Norm, Rotary, match_decoder
from edgec.lower.wasm.kernels.adapter import Outputs
from edgec.lower.wasm.kernels.attention import attention, scratch_floats
from edgec.lower.wasm.kernels.embedding import embedding
from edgec.lower.wasm.kernels.epilogue import Epilogue, padded
from edgec.lower.wasm.kernels.experts import Pairs, combine, route
from edgec.lower.wasm.kernels.kv_cache import PageLayout, rope_and_append, rope_angles
from edgec.lower.wasm.kernels.linear import linear
from edgec.lower.wasm.kernels.linear_float import linear_float
from edgec.lower.wasm.kernels.norm import norm, norm_parts
from edgec.lower.wasm.kernels.outliers import table_bytes
from edgec.lower.wasm.kernels.quantize import quantize, quantized_bytes, row_bytes
from edgec.lower.wasm.kernels.softcap import softcap
from edgec.lower.wasm.program import Entry, Operand, Program, Scalar, Storage, View
from edgec.lower.wasm.weights import Matrix, WeightStore
from edgec.lower.wasm.work import Work, attended, reached, times


@dataclass(frozen=True)
class Activations:
    """Input of a linear: quantized (codes, scales, sums) or one float32 buffer of `stride` floats a row."""

    storages: tuple[Storage, ...]
    stride: int
    quantized: bool
    span: int = 1  # groups that share a scale

    @property
    def row_bytes(self) -> int:
        return row_bytes(self.stride, span=self.span) if self.quantized else 4 * self.stride


class _Lowering:
    def __init__(self, compressed: CompressedModel) -> None:
        plan, facts = compressed.plan, compressed.model.decoder
        assert facts is not None and plan.kv is not None
        self.facts: DecoderFacts = facts
        self.plan = plan
        self.rows = plan.prefill_chunk
        self.network = match_decoder(compressed.model)
        self.layout = PageLayout(facts.layers, facts.kv_heads, facts.head_dim, plan.kv.bits)
        pages = -(-plan.context_length // plan.kv.page_tokens)
        self.program = Program(
            "decoder",
            plan.max_threads,
            kv=KVLayout(plan.kv.bits, plan.kv.page_tokens, self.layout.page_bytes, pages, 0),
        )
        self.weights = WeightStore(self.program, compressed)
        self.tokens = self.program.workspace("tokens", 4 * self.rows, persistent=True)
        self.stride = padded(facts.hidden)  # floats per row of the stream
        self.stream = self.program.workspace("stream", 4 * self.rows * self.stride, persistent=True)
        self.logits = self.program.workspace("logits", 4 * padded(facts.vocabulary), persistent=True)
        self.program.input("tokens", "int32", (self.rows,), self.tokens)
        self.program.output("logits", "float32", (facts.vocabulary,), self.logits)
        rotaries = dict.fromkeys(layer.rotary for layer, _ in self.network.layers if layer.rotary is not None)
        self.inv_freq = {
            rotary: self.program.weight(
                f"rope.{number}.inv_freq" if number else "rope.inv_freq", np.asarray(rotary.inv_freq, np.float32)
            )
            for number, rotary in enumerate(rotaries)
        }
        self.angles: dict[Rotary, tuple[Storage, Storage]] = {}
        self.exits = compressed.exits
        self.adapters: Adapters | None = None
        if plan.adapters is not None:
            self.adapters = Adapters(self.program, plan.adapters.rank, self.rows)
            self.program.adapters = self.adapters.slots

    # Buffers

    def quantized_buffers(self, name: str, matrix: Matrix, rows: int) -> Activations:
        sizes = quantized_bytes(matrix.columns, rows, span=matrix.span)
        storages = tuple(self.program.workspace(f"{name}.{part}", size) for part, size in sizes.items())
        return Activations(storages, matrix.columns, quantized=True, span=matrix.span)

    def float_buffer(self, name: str, columns: int, rows: int) -> Activations:
        return Activations((self.program.workspace(name, 4 * columns * rows),), columns, quantized=False)

    def buffers_for(self, matrix: Matrix, name: str, rows: int) -> Activations:
        if matrix.bits == 32:
            return self.float_buffer(name, matrix.columns, rows)
        return self.quantized_buffers(name, matrix, rows)

    # Operations

    def codes_work(self, m: Amount, columns: int, target: Activations) -> Work:
        """Of `m` rows that become `target`; looking for outliers takes as long again as making the codes."""
        results = times(m, 2 * columns) if target.quantized else 0
        return Work(activations=times(m, 4 * columns + target.row_bytes), results=results, shape=f"{columns}")

    def norm(self, entry: Entry, weights: Norm, target: Activations, first: Scalar, m: Scalar) -> None:
        """Rows of the stream, normalized."""
        columns = self.facts.hidden
        kernel = self.norm_kernel((f"{weights.kind}_norm",), weights, columns, self.stride, target)
        work = self.codes_work(m, columns, target)
        entry.call(kernel, self.stream, *self.norm_weights(weights), *target.storages, first, m, work=work)

    def norm_kernel(
        self, key: tuple[object, ...], weights: Norm, columns: int, stride: int, target: Activations | None
    ) -> str:
        """To `target`, or added to the stream."""
        bias, quantized, span = weights.bias is not None, target is not None and target.quantized, 1
        if target is not None and target.quantized:
            span = target.span
        return self.program.kernel(
            (*key, quantized, span, weights.epsilon, bias),
            lambda isa: norm(
                isa,
                kind=weights.kind,
                columns=columns,
                stride=stride,
                epsilon=weights.epsilon,
                quantized=quantized,
                bias=bias,
                added_stride=stride if target is None else None,
                span=span,
            ),
        )

    def add_normed(self, entry: Entry, source: Storage, weights: Norm) -> None:
        """`source`, normalized, is added to the stream."""
        columns = self.facts.hidden
        kernel = self.norm_kernel((f"add_{weights.kind}_norm",), weights, columns, self.stride, None)
        work = Work(activations=times("n", 12 * columns), shape=f"{columns}")
        entry.call(kernel, source, *self.norm_weights(weights), self.stream, 0, "n", work=work)

    def norm_weights(self, weights: Norm) -> list[Storage]:
        names = [weights.weight] if weights.bias is None else [weights.weight, weights.bias]
        return [self.weights.vector(name) for name in names]

    def input(self, entry: Entry, weights: Norm | None, matrix: Matrix, name: str) -> Activations:
        """The stream, normalized if there is a norm, as input of `matrix`."""
        if weights is None:
            return self.quantize(entry, self.stream, self.stride, matrix, name)
        target = self.buffers_for(matrix, name, self.rows)
        self.norm(entry, weights, target, 0, "n")
        return target

    def update(
        self,
        entry: Entry,
        source: Activations,
        matrix: Matrix,
        weights: LinearWeights,
        output_norm: Norm | None,
        name: str,
    ) -> None:
        """The last linear of a branch: its output is added to the stream, through a norm if there is one."""
        bias, adapted = weights.bias, [Adapted(name, Outputs(self.facts.hidden))]
        if output_norm is None:
            self.linear(entry, source, matrix, self.stream, "n", bias=bias, residual=self.stream, adapted=adapted)
            return
        update = self.program.workspace("update", 4 * self.stride * self.rows)
        self.linear(entry, source, matrix, update, "n", bias=bias, adapted=adapted)
        self.add_normed(entry, update, output_norm)

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
        activation: str | None = None,
        gated: bool = False,
        chosen: Storage | None = None,
        pairs: Pairs | None = None,
        weights: Amount | None = None,
        adapted: Sequence[Adapted] = (),
        adapter: bool | None = None,
    ) -> None:
        """`adapted`: the linears of the checkpoint that it is made of, to which an adapter may be added."""
        if adapted and self.adapters is not None and (gated or activation is not None):
            self.adapted_linear(entry, source, matrix, output, m, bias, activation, gated, adapted)
            adapted, adapter = (), False
        epilogue = Epilogue(bias=bias is not None, activation=activation, residual=residual is not None, gated=gated)
        operands: list[Operand] = [*source.storages, *matrix.storages]
        if bias is not None:
            operands.append(self.weights.bias(bias, gated=gated))
        if residual is not None:
            operands.append(residual)
        if chosen is not None:
            operands.append(chosen)
        rows, columns, bits = matrix.rows, matrix.columns, matrix.bits
        tables = self.tables(matrix) if pairs is None and m != 1 else []
        kernel = self.linear_kernel(rows, matrix, source.stride, epilogue, pairs, tables=bool(tables))
        written = 4 * (rows // 2 if gated else rows)
        work = Work(
            macs=times(m, rows * columns),
            arithmetic="float32" if bits == 32 else "codes",
            bits=bits,
            weights=weights,
            activations=times(m, source.row_bytes + written * (1 if residual is None else 2)),
            group_size=GROUP * matrix.span,
            results=times(m, rows),
            functions=times(m, epilogue.exponentials(written // 4)),
            shape=f"{rows}x{columns}",
        )
        entry.call(kernel, *operands, *tables, output, m, work=work, adapter=adapter)
        if adapted and self.adapters is not None:
            read = (source.storages, source.stride, source.span if source.quantized else 0)
            self.adapters.add(entry, read, columns, adapted, output, padded(rows), m)

    def tables(self, matrix: Matrix) -> list[Storage]:
        """What outliers of many rows need (`kernels/outliers.py`)."""
        if matrix.bits == 32:
            return []
        return [self.program.workspace("tables", table_bytes(matrix.columns, self.plan.max_threads))]

    def linear_kernel(
        self, rows: int, matrix: Matrix, stride: int, epilogue: Epilogue, pairs: Pairs | None, *, tables: bool
    ) -> str:
        columns, bits, span = matrix.columns, matrix.bits, matrix.span
        if bits == 32:
            return self.program.kernel(
                ("linear_f32", rows, columns, stride, epilogue, pairs),
                lambda isa: linear_float(
                    rows=rows, columns=columns, input_stride=stride, epilogue=epilogue, pairs=pairs
                ),
            )
        return self.program.kernel(
            (f"linear_w{bits}a8", rows, columns, span, epilogue, pairs, tables),
            lambda isa: linear(
                isa,
                rows=rows,
                columns=columns,
                bits=bits,
                epilogue=epilogue,
                pairs=pairs,
                span=span,
                tables=tables,
            ),
        )

    def adapted_linear(
        self,
        entry: Entry,
        source: Activations,
        matrix: Matrix,
        output: Storage,
        m: Scalar,
        bias: str | None,
        activation: str | None,
        gated: bool,
        adapted: Sequence[Adapted],
    ) -> None:
        """With an adapter: the sums alone, the adapter, and then what the epilogue would have done."""
        assert self.adapters is not None
        outputs = matrix.rows // 2 if gated else matrix.rows
        rows = 2 * padded(outputs) if gated else outputs
        sums = self.program.workspace("adapter_sums", 4 * padded(rows) * self.rows)
        operands: list[Operand] = [*source.storages, *matrix.storages]
        if bias is not None:
            operands.append(self.weights.bias(bias, gated=gated))
        tables = self.tables(matrix)
        epilogue = Epilogue(bias=bias is not None)
        kernel = self.linear_kernel(rows, matrix, source.stride, epilogue, None, tables=bool(tables))
        work = Work(
            macs=times(m, rows * matrix.columns),
            arithmetic="float32" if matrix.bits == 32 else "codes",
            bits=matrix.bits,
            activations=times(m, source.row_bytes + 4 * rows),
            group_size=GROUP * matrix.span,
            results=times(m, rows),
            shape=f"{rows}x{matrix.columns}",
        )
        entry.call(kernel, *operands, *tables, sums, m, work=work, adapter=True)
        read = (source.storages, source.stride, source.span if source.quantized else 0)
        self.adapters.add(entry, read, matrix.columns, adapted, sums, padded(rows), m)
        self.adapters.activate(entry, sums, output, m, activation=activation, gated=gated, rows=outputs)

    def inner_input(
        self, entry: Entry, source: Storage, stride: int, weights: Norm | None, matrix: Matrix, name: str
    ) -> Activations:
        """`source` as input of a branch's last linear, normalized if there is a norm."""
        if weights is None:
            return self.quantize(entry, source, stride, matrix, name)
        target, columns = self.buffers_for(matrix, name, self.rows), matrix.columns
        kernel = self.norm_kernel((f"inner_{weights.kind}_norm", columns, stride), weights, columns, stride, target)
        work = self.codes_work("n", columns, target)
        entry.call(kernel, source, *self.norm_weights(weights), *target.storages, 0, "n", work=work)
        return target

    def quantize(
        self,
        entry: Entry,
        source: Storage,
        stride: int,
        matrix: Matrix,
        name: str,
        *,
        each: int = 1,
        single: bool = False,
    ) -> Activations:
        """`source`, of `each` rows a token or of a `single` one, as input of `matrix`: quantized unless the matrix is
        float32."""
        if matrix.bits == 32:
            return Activations((source,), stride, quantized=False)
        target = self.quantized_buffers(name, matrix, 1 if single else self.rows * each)
        columns, span = matrix.columns, matrix.span
        kernel = self.program.kernel(
            ("quantize", columns, stride, span), lambda isa: quantize(isa, columns=columns, stride=stride, span=span)
        )
        m = 1 if single else "n" if each == 1 else times("n", each)
        work = self.codes_work(m, columns, target)
        entry.call(kernel, source, *target.storages, m, work=work)
        return target

    def matrix(self, weights: LinearWeights, *, gated: bool = False) -> Matrix:
        return self.weights.matrix(weights.weight, transposed=True, gated=gated)

    # Entry points

    def cache_operands(self, layer: int) -> list[Operand]:
        kv = self.program.kv_storage
        return [self.program.page_table, *(kv.at(offset) for offset in self.layout.buffers(layer).values())]

    def layer(self, entry: Entry, number: int, attention: AttentionLayer, mlp: MlpLayer) -> None:
        qkv, output = self.matrix(attention.qkv), self.matrix(attention.output)
        normed = self.input(entry, attention.norm, qkv, "attention_input")
        source = None
        if mlp.experts is not None and mlp.source != "after":
            raise UnsupportedError("experts that compute beside the attention are not lowered")
        if mlp.source != "after":  # the attention is about to change the stream
            up = self.matrix(mlp.up, gated=mlp.gated)
            if mlp.source == "before":
                source = self.input(entry, mlp.norm, up, "mlp_input")
            elif (qkv.bits == 32, qkv.span) == (up.bits == 32, up.span):
                source = normed
            else:
                source = self.input(entry, attention.norm, up, "mlp_input")
        self.attention(entry, number, attention, normed, qkv, output)
        if mlp.experts is None:
            self.mlp(entry, number, mlp, source)
        else:
            self.experts(entry, mlp, mlp.experts)

    def attention(
        self,
        entry: Entry,
        number: int,
        layer: AttentionLayer,
        normed: Activations,
        matrix: Matrix,
        output_matrix: Matrix,
    ) -> None:
        facts, program, rows = self.facts, self.program, self.rows
        queries, query_bytes = self.keys_and_values(entry, number, layer, normed, matrix)
        integer, width, cache = self.layout.bits == 16, facts.heads * facts.head_dim, self.cache_operands(number)
        mixed = program.workspace("attention", 4 * width * rows)
        context = self.plan.context_length
        scratch = program.workspace(
            "scores", 4 * scratch_floats(self.layout, facts.heads, context) * self.plan.max_threads
        )
        window = None if layer.window is None or layer.window >= context else layer.window
        kernel = program.kernel(
            ("attention", window, layer.softcap),
            lambda isa: attention(
                layout=self.layout,
                heads=facts.heads,
                context_length=context,
                sliding_window=window,
                softcap=layer.softcap,
            ),
        )
        pairs = attended("n", "position", window)
        work = Work(
            macs=times(pairs, 2 * width),
            arithmetic="int16" if integer else "float32",
            cache=times(reached("n", "position", window), self.layout.token_bytes),
            activations=times("n", query_bytes + 4 * width),
            functions=times(pairs, 2 * facts.heads),  # the exponential, and the code of the weight
            shape=f"{facts.heads}/{facts.kv_heads} heads of {facts.head_dim}",
        )
        entry.call(kernel, *queries, *cache, scratch, mixed, "position", "n", work=work)
        codes = self.inner_input(entry, mixed, width, layer.inner_norm, output_matrix, "attention_codes")
        self.update(entry, codes, output_matrix, layer.output, layer.output_norm, linear_name(number, "o_proj"))

    def keys_and_values(
        self, entry: Entry, number: int, layer: AttentionLayer, normed: Activations, matrix: Matrix
    ) -> tuple[list[Storage], int]:
        """Appends keys and values to the cache. Returns the queries, and their bytes per token."""
        facts, program, rows = self.facts, self.program, self.rows
        stride = padded(matrix.rows)
        qkv = program.workspace("qkv", 4 * stride * rows)
        width, keys = facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim
        parts = (("q", width, 0), ("k", keys, width), ("v", keys, width + keys))
        adapted = [Adapted(linear_name(number, f"{part}_proj"), Outputs(size, start)) for part, size, start in parts]
        self.linear(entry, normed, matrix, qkv, "n", bias=layer.qkv.bias, adapted=adapted)
        self.norm_heads(entry, layer, qkv, stride)

        integer = self.layout.bits == 16
        queries = [program.workspace("queries", (2 if integer else 4) * width * rows)]
        if integer:
            queries.append(program.workspace("query_scales", 4 * facts.heads * self.layout.groups * rows))
        rotated = 0 if layer.rotary is None else 2 * len(layer.rotary.inv_freq)
        rope = program.kernel(
            ("rope_and_append", stride, rotated, layer.scale),
            lambda isa: rope_and_append(
                layout=self.layout, heads=facts.heads, stride=stride, rotated=rotated, softmax_scale=layer.scale
            ),
        )
        angles = () if layer.rotary is None else self.angles[layer.rotary]
        query_bytes = 2 * width + 4 * facts.heads * self.layout.groups if integer else 4 * width
        read = 4 * (width + 2 * keys + rotated)
        work = Work(
            activations=times("n", read + query_bytes),
            cache=times("n", self.layout.token_bytes),
            results=times("n", width + 2 * keys),
            shape=f"{stride}",
        )
        entry.call(rope, qkv, *angles, *self.cache_operands(number), *queries, "position", "n", work=work)
        return queries, query_bytes

    def norm_heads(self, entry: Entry, layer: AttentionLayer, qkv: Storage, stride: int) -> None:
        """Norms of queries and keys, in place."""
        facts = self.facts
        if layer.query_norm is None or layer.key_norm is None:
            return
        start = facts.heads * facts.head_dim
        self.norm_parts(entry, layer.query_norm, facts.heads, layer.whole, qkv.at(0), stride)
        self.norm_parts(entry, layer.key_norm, facts.kv_heads, layer.whole, qkv.at(4 * start), stride)

    def norm_parts(self, entry: Entry, weights: Norm, heads: int, whole: bool, values: View, stride: int) -> None:
        parts, columns = (1, heads * self.facts.head_dim) if whole else (heads, self.facts.head_dim)
        kernel = self.program.kernel(
            (f"{weights.kind}_norm_parts", parts, columns, stride, weights.epsilon),
            lambda isa: norm_parts(
                kind=weights.kind, parts=parts, columns=columns, stride=stride, epsilon=weights.epsilon
            ),
        )
        work = Work(activations=times("n", 8 * parts * columns), shape=f"{parts}x{columns}")
        entry.call(kernel, values, self.weights.vector(weights.weight), "n", work=work)

    def rotate(self, entry: Entry, rotary: Rotary) -> None:
        """The angles of a chunk's positions."""
        half = len(rotary.inv_freq)
        kept = bool(self.exits)  # other entry points come between
        size = 4 * half * self.rows
        cosines, sines = (self.program.workspace(name, size, persistent=kept) for name in ("cosines", "sines"))
        kernel = self.program.kernel(
            ("rope_angles", half, rotary.scale), lambda isa: rope_angles(half=half, scale=rotary.scale)
        )
        work = Work(activations=times("n", 8 * half), shape=f"{half}")
        entry.call(kernel, self.inv_freq[rotary], cosines, sines, "position", "n", work=work)
        self.angles[rotary] = cosines, sines

    def mlp(self, entry: Entry, number: int, layer: MlpLayer, source: Activations | None) -> None:
        """`source` None: the MLP reads the stream as it is now."""
        up, down = self.matrix(layer.up, gated=layer.gated), self.matrix(layer.down)
        if source is None:
            source = self.input(entry, layer.norm, up, "mlp_input")
        stride = padded(up.rows // 2 if layer.gated else up.rows)
        inner = self.program.workspace("mlp", 4 * stride * self.rows)
        name = linear_name(number, "up_proj")
        adapted: Sequence[Adapted] = [Adapted(name, Outputs(up.rows))]
        if layer.gated:
            adapted = gate_and_up(linear_name(number, "gate_proj"), name, up.rows // 2)
        self.linear(
            entry, source, up, inner, "n", bias=layer.up.bias, activation=layer.activation, gated=layer.gated,
            adapted=adapted,
        )  # fmt: skip
        codes = self.inner_input(entry, inner, stride, layer.inner_norm, down, "mlp_codes")
        self.update(entry, codes, down, layer.down, layer.output_norm, linear_name(number, "down_proj"))

    def experts(self, entry: Entry, layer: MlpLayer, experts: Experts) -> None:
        """The experts that each token chooses, one output row for each pair of a token and an expert."""
        program, rows, each = self.program, self.rows, experts.per_token
        router = self.matrix(LinearWeights(experts.router))
        up = self.weights.experts(layer.up.weight, experts.count, gated=True)
        down = self.weights.experts(layer.down.weight, experts.count, gated=False)
        source, source_stride = self.stream, self.stride
        if layer.norm is not None:
            normed = self.float_buffer("experts_input", self.facts.hidden, rows)
            self.norm(entry, layer.norm, normed, 0, "n")
            source, source_stride = normed.storages[0], normed.stride

        stride = padded(router.rows)
        scores = program.workspace("router_scores", 4 * stride * rows)
        self.linear(entry, self.quantize(entry, source, source_stride, router, "router_codes"), router, scores, "n")
        chosen, shares = (program.workspace(name, 4 * each * rows) for name in ("chosen", "shares"))
        kernel = program.kernel(
            ("route",),
            lambda isa: route(experts=experts.count, per_token=each, stride=stride, normalized=experts.normalized),
        )
        work = Work(activations=times("n", 4 * stride + 8 * each), shape=f"{experts.count}")
        entry.call(kernel, scores, chosen, shares, "n", work=work)

        pairs = times("n", each)

        def read(matrix: Matrix) -> Amount:
            whole = sum(storage.bytes for storage in matrix.storages)
            return ("min", times(pairs, whole // experts.count), whole)

        codes = self.quantize(entry, source, source_stride, up, "experts_codes")
        inner_stride = padded(up.rows // 2)
        inner = program.workspace("experts", 4 * inner_stride * rows * each)
        self.linear(
            entry, codes, up, inner, pairs, activation=layer.activation, gated=True, chosen=chosen,
            pairs=Pairs(2 * inner_stride // ROWS, each), weights=read(up),
        )  # fmt: skip
        codes = self.quantize(entry, inner, inner_stride, down, "inner_codes", each=each)
        outputs = program.workspace("experts_outputs", 4 * self.stride * rows * each)
        blocks = Pairs(self.stride // ROWS, 1)
        self.linear(entry, codes, down, outputs, pairs, chosen=chosen, pairs=blocks, weights=read(down))
        added = layer.output_norm is None
        target = self.stream if added else program.workspace("update", 4 * self.stride * rows)
        kernel = program.kernel(
            ("combine", added), lambda isa: combine(per_token=each, stride=self.stride, added=added)
        )
        work = Work(activations=times("n", 4 * self.stride * (each + 1 + added)), shape=f"{each}x{self.stride}")
        entry.call(kernel, outputs, shares, target, "n", work=work)
        if layer.output_norm is not None:
            self.add_normed(entry, target, layer.output_norm)

    def embed(self, entry: Entry) -> None:
        columns, stride, network = self.facts.hidden, self.stride, self.network
        table = self.weights.matrix(network.embedding, transposed=False)
        target = self.stream  # an unquantized product needs its input until the end
        if network.turn is not None:
            target = self.program.workspace("embedded", 4 * stride * self.rows)
        kernel = self.program.kernel(
            ("embedding", table.bits, table.span),
            lambda isa: embedding(
                rows=table.rows,
                columns=columns,
                bits=table.bits,
                scale=network.embedding_scale,
                stride=stride,
                span=table.span,
            ),
        )
        work = Work(weights=times("n", table.row_bytes), activations=times("n", 4 + 4 * columns), shape=f"{columns}")
        entry.call(kernel, self.tokens, *table.storages, target, "n", work=work)
        if network.positions is not None:
            places = self.weights.matrix(network.positions, transposed=False)
            kernel = self.program.kernel(
                ("positions", places.bits, places.span),
                lambda isa: embedding(
                    rows=places.rows, columns=columns, bits=places.bits, stride=stride, learned=True, span=places.span
                ),
            )
            work = Work(weights=times("n", places.row_bytes), activations=times("n", 8 * columns), shape=f"{columns}")
            entry.call(kernel, *places.storages, target, "position", "n", work=work)
        if network.turn is not None:
            turn = self.matrix(LinearWeights(network.turn))
            self.linear(entry, self.quantize(entry, target, stride, turn, "embedded_codes"), turn, self.stream, "n")

    def prefill(self) -> None:
        """In one piece, or in one for each span of layers between exits, which may be called by themselves."""
        starts = [0, *(head.layer for head in self.exits)]
        pieces = [self.program.entry(f"layers_{start}", "n", "position") for start in starts] if self.exits else []
        entry = self.program.entry("prefill", "n", "position")
        for piece in pieces:
            entry.enter(piece.name, "n", "position")
        self.embed(first := pieces[0] if pieces else entry)
        for rotary in self.inv_freq:
            self.rotate(first, rotary)
        for number, (first_branch, second_branch) in enumerate(self.network.layers):
            piece = pieces[sum(start <= number for start in starts) - 1] if pieces else entry
            self.layer(piece, number, first_branch, second_branch)

    def head(self) -> None:
        entry = self.program.entry("head", "row")
        matrix, turn_back = self.lm_head(), self.network.turn_back
        first = matrix if turn_back is None else self.matrix(LinearWeights(turn_back))
        normed = self.buffers_for(first, "final_norm", 1)
        self.norm(entry, self.network.final_norm, normed, "row", 1)
        if turn_back is not None:
            turned = self.program.workspace("turned_back", 4 * self.stride)
            self.linear(entry, normed, first, turned, 1)
            normed = self.quantize(entry, turned, self.stride, matrix, "head_input", single=True)
        self.logits_of(entry, normed, matrix)

    def lm_head(self) -> Matrix:
        network = self.network
        return self.weights.matrix(network.lm_head.weight, transposed=network.lm_head.weight != network.embedding)

    def logits_of(self, entry: Entry, source: Activations, matrix: Matrix) -> None:
        network = self.network
        self.linear(entry, source, matrix, self.logits, 1, bias=network.lm_head.bias)
        if network.logit_softcap is not None:
            vectors, cap = padded(self.facts.vocabulary) // 4, network.logit_softcap
            kernel = self.program.kernel(("softcap",), lambda isa: softcap(vectors=vectors, cap=cap))
            work = Work(activations=8 * self.facts.vocabulary, shape=f"{self.facts.vocabulary}")
            entry.call(kernel, self.logits, work=work)

    def exit(self, head: ExitHead) -> None:
        """`exit_<layer>(row)`: the head's logits of a row of the stream. `fill_<layer>(n, position)`: keys and values
        of the layers left out, from the stream as it is (Elbayad et al. 2020, "Depth-Adaptive Transformer")."""
        entry, name, columns = self.program.entry(f"exit_{head.layer}", "row"), f"exits.{head.layer}", self.facts.hidden
        final = self.network.final_norm
        normed = self.program.workspace("exit_norm", 4 * self.stride)
        target = Activations((normed,), self.stride, quantized=False)
        kernel = self.norm_kernel((f"{final.kind}_norm",), final, columns, self.stride, target)
        vectors = [("norm.weight", head.norm), ("norm.bias", head.norm_bias)]
        weights = [self.program.weight(f"{name}.{part}", array) for part, array in vectors if array is not None]
        entry.call(
            kernel, self.stream, *weights, normed, "row", 1, work=Work(activations=8 * columns, shape=f"{columns}")
        )
        down, up = (self.weights.added(f"{name}.{part}", getattr(head, part)) for part in ("down", "up"))
        inner = self.program.workspace("exit_inner", 4 * padded(down.rows))
        self.linear(entry, self.quantize(entry, normed, self.stride, down, "exit_input", single=True), down, inner, 1)
        codes = self.quantize(entry, inner, padded(down.rows), up, "exit_inner_input", single=True)
        self.linear(entry, codes, up, normed, 1, residual=normed)
        lm_head = self.lm_head()
        self.logits_of(entry, self.quantize(entry, normed, self.stride, lm_head, "exit_output", single=True), lm_head)

        fill = self.program.entry(f"fill_{head.layer}", "n", "position")
        for number, (layer, _) in enumerate(self.network.layers[head.layer :], start=head.layer):
            qkv = self.matrix(layer.qkv)
            source = self.input(fill, layer.norm, qkv, "attention_input")
            self.keys_and_values(fill, number, layer, source, qkv)

    def decode(self) -> None:
        entry = self.program.entry("decode", "position")
        entry.enter("prefill", 1, "position")
        entry.enter("head", 0)


def linear_name(layer: int, linear: str) -> str:
    """As in `edgec/ir/model.py`."""
    block = "mlp" if linear in ("gate_proj", "up_proj", "down_proj") else "self_attn"
    return f"model.layers.{layer}.{block}.{linear}"


def lower_decoder(compressed: CompressedModel) -> Program:
    """A program with the entry points `prefill`, `head` and `decode` of docs/runtime-abi.md.

    Raises `UnsupportedError` when the graph is not the decoder of `ir/model.py`.
    """
    lowering = _Lowering(compressed)
    lowering.prefill()
    lowering.head()
    for head in lowering.exits:
        lowering.exit(head)
    lowering.decode()
    return lowering.program
