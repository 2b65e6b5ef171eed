"""What a plan needs: bytes to download, bytes of weights, KV cache and workspace.

The lowering decides the real layout; these are the same formulas without the graph's details, and
a test holds them against the numbers of a real bundle.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import onnx_ir

from edgec.ir.compressed import GROUP, ROWS
from edgec.ir.model import DecoderFacts, ModelIR
from edgec.ir.plan import TERNARY, Bits, TensorPlan
from edgec.ir.weight_use import WeightUse, weight_uses

MEBI = 1 << 20
STACK_BYTES = 65536  # of one thread
FIXED_BYTES = 131072  # static data of the module and control region
STAGING_BYTES = MEBI  # smallest workspace, through which weights are loaded
MODULE_BYTES = 150_000  # one module and the runtime, compressed
# Beside the wasm memory, a tab holds the empty page (23 MiB in Chromium), code, the tokenizer and files on their way.
PAGE_BYTES = 64 * MEBI


def _padded(value: int, to: int) -> int:
    return -(-value // to) * to


def matrix_bytes(use: WeightUse, bits: Bits, *, stored: bool, compact: bool = False, group_size: int = GROUP) -> int:
    """Bytes of a matrix in the bundle (`stored`) or in memory, with scales and zero points.

    Codes are stored in `bits` bits and unpacked to 4 or 8. Each `group_size` columns have a scale and a zero point, of
    16 and 8 bits, in a bundle 8 and 8 if `compact`, or 8 and 4 for codes of 2 and 3 bits. Five ternary codes are stored
    in a byte.
    """
    rows, groups, spans = _padded(use.rows, ROWS), -(-use.columns // GROUP), -(-use.columns // group_size)
    if bits == 32:
        return 4 * rows * use.columns
    if bits == TERNARY:
        parameters = 24 if not stored else 12 if compact else 20
        return rows * groups * GROUP // (5 if stored else 2) + rows * spans * parameters // 8
    width = bits if stored else 8 if bits > 4 else 4
    parameters = 24 if not (stored and compact) else 12 if bits <= 3 else 16  # bits
    return rows * (groups * GROUP * width + spans * parameters) // 8


def weight_bytes(model: ModelIR, tensors: Sequence[TensorPlan], *, stored: bool) -> int:
    """Bytes of all initializers, see `matrix_bytes`."""
    uses = weight_uses(model.model)
    planned = {tensor.name: tensor for tensor in tensors}
    total = 0
    for name, value in model.model.graph.initializers.items():
        if value.const_value is None:
            continue
        tensor = planned.get(name)
        if stored and tensor is not None and tensor.scheme == "channels":
            shape = value.const_value.shape.numpy()
            total += math.prod(shape) + 2 * shape[0]
        elif name in uses and tensor is not None and tensor.bits != 16:
            bits, size = TERNARY if tensor.ternary else tensor.bits, tensor.group_size or GROUP
            total += matrix_bytes(uses[name], bits, stored=stored, compact=tensor.compact, group_size=size)
        else:
            total += int(value.const_value.nbytes) // (2 if stored and tensor is not None and tensor.bits == 16 else 1)
    return total


def float_bytes(model: ModelIR, quantized: Collection[str]) -> int:
    """Bytes of all initializers but the matrices `quantized`, as stored."""
    uses = weight_uses(model.model)
    return sum(
        matrix_bytes(uses[name], 32, stored=True) if name in uses else int(value.const_value.nbytes)
        for name, value in model.model.graph.initializers.items()
        if value.const_value is not None and name not in quantized
    )


def kv_page_bytes(decoder: DecoderFacts, bits: int, page_tokens: int) -> int:
    """Keys and values of `page_tokens` tokens in all layers.

    "16 bits" are 12-bit codes in int16, with a float32 scale per 32 key features and per value.
    """
    codes = decoder.head_dim * 2 * (bits // 8)
    groups = decoder.head_dim // 32 if decoder.head_dim % 32 == 0 else 1
    scales = 4 * (groups + 1) if bits == 16 else 0
    return decoder.layers * decoder.kv_heads * page_tokens * (codes + scales)


def adapter_bytes(model: ModelIR, rank: int) -> int:
    """Room for an adapter of all linears of a decoder's layers (experts have none): two float16 matrices and the
    scales of each, as the lowering places them."""
    decoder = model.decoder
    assert decoder is not None
    wide, keys = decoder.heads * decoder.head_dim, decoder.kv_heads * decoder.head_dim
    attention = [(wide, decoder.hidden), (keys, decoder.hidden), (keys, decoder.hidden), (decoder.hidden, wide)]
    mlp = [(decoder.intermediate, decoder.hidden)] * (2 if decoder.gated_mlp else 1)
    mlp.append((decoder.hidden, decoder.intermediate))

    def room(rows: int, columns: int) -> int:
        return sum(_padded(size, 64) for size in (4 * rank, 2 * rank * columns, 2 * rank * _padded(rows, ROWS)))

    total = 64
    for layer in range(decoder.layers):
        experts = f"model.layers.{layer}.mlp.experts.down_proj.weight" in model.model.graph.initializers
        total += sum(room(*shape) for shape in (attention if experts else attention + mlp))
    return total


def decoder_workspace_bytes(
    decoder: DecoderFacts,
    *,
    prefill_chunk: int,
    context_length: int,
    threads: int,
    quantized: bool,
    adapter_rank: int = 0,
) -> int:
    """Activations of one prefill chunk, logits, and what threads have of their own."""
    heads = decoder.heads * decoder.head_dim
    qkv = heads + 2 * decoder.kv_heads * decoder.head_dim
    per_value = 3 if quantized else 4  # int16 codes, scales, sums and outliers
    stream = 4 * decoder.hidden
    attention = per_value * decoder.hidden + 4 * qkv + 4 * heads + per_value * heads
    mlp = per_value * decoder.hidden + (4 + per_value) * decoder.intermediate
    if decoder.experts:
        chosen = (4 + per_value) * decoder.expert_intermediate + 4 * decoder.hidden
        experts = (4 + per_value) * decoder.hidden + decoder.experts_per_token * chosen + 4 * decoder.experts
        mlp = max(mlp, experts)
    if adapter_rank:  # inputs as floats again, the inner values, and the sums before the activation
        floats = 4 if quantized else 0
        attention = max(attention, (per_value + floats) * decoder.hidden + 4 * qkv + 12 * adapter_rank)
        wide = (4 + per_value + floats) * decoder.intermediate
        sums = (12 if decoder.gated_mlp else 8) * decoder.intermediate
        mlp = max(mlp, (per_value + floats) * decoder.hidden + sums + 8 * adapter_rank, wide + 4 * adapter_rank)
    chunk = prefill_chunk * (stream + max(attention, mlp) + 4 * decoder.head_dim)
    # A thread has the scores and sums of 16 queries, and 16 floats for each feature of the widest input of a linear.
    widest = max(decoder.hidden, heads, decoder.intermediate) if quantized else 0
    own = 64 * (context_length + decoder.head_dim + widest)
    return max(STAGING_BYTES, chunk + 4 * decoder.vocabulary + own * threads)


def graph_workspace_bytes(model: ModelIR, dims: Mapping[str, int]) -> int:
    """Most bytes of activations that are alive at once when every node writes its own output.

    Nodes of unknown shape do not count.
    """
    graph = model.model.graph
    nodes = list(graph)
    position = {node: index for index, node in enumerate(nodes)}
    change = [0] * (len(nodes) + 2)
    kept = set(graph.outputs)
    for value in [*graph.inputs, *(output for node in nodes for output in node.outputs)]:
        producer = value.producer()
        first = position[producer] if producer is not None else 0
        readers = [position[node] for node, _ in value.uses() if node in position]
        last = len(nodes) if value in kept or producer is None else max(readers, default=first)
        size = _value_bytes(value, dims)
        change[first] += size
        change[last + 1] -= size
    alive = peak = 0
    for difference in change:
        alive += difference
        peak = max(peak, alive)
    return max(STAGING_BYTES, peak)


def _value_bytes(value: onnx_ir.Value, dims: Mapping[str, int]) -> int:
    if value.shape is None or value.dtype is None or value.const_value is not None:
        return 0
    elements = 1
    for dim in value.shape.dims:
        size = dim if isinstance(dim, int) else None if dim.value is None else dim.evaluate(dict(dims))
        if not isinstance(size, int):
            return 0
        elements *= size
    return int(elements * value.dtype.itemsize)


__all__ = [
    "FIXED_BYTES",
    "MEBI",
    "MODULE_BYTES",
    "PAGE_BYTES",
    "STACK_BYTES",
    "adapter_bytes",
    "decoder_workspace_bytes",
    "float_bytes",
    "graph_workspace_bytes",
    "kv_page_bytes",
    "matrix_bytes",
    "weight_bytes",
]
