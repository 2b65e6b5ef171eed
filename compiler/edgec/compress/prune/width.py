"""Fewer features inside MLPs and fewer attention heads, so that every matrix stays dense.

A feature counts what it brings to the block's output: the root mean square of its activation times the norm of the
row of the next matrix (Sun et al. 2023, "A Simple and Effective Pruning Approach for Large Language
Models" (Wanda), summed over a structure as in An et al. 2023, "Fluctuation-based Adaptive Structured Pruning").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir

from edgec.compress.prune.resize import initializer_elements, take
from edgec.ir.compressed import GROUP
from edgec.ir.model import ModelIR
from edgec.passes.base import add_initializer, is_op, only_use, static_shape

_ELEMENTWISE = ("Add", "Mul", "Gelu", "Relu", "Sigmoid", "Tanh", "Swish")
Scores = npt.NDArray[np.float64]


@dataclass
class Mlp:
    """Features between two matrices. `parts` are the places of the features in the output of `up`."""

    up: onnx_ir.Value  # [in, parts * features]
    down: onnx_ir.Value  # [features, out]
    inner: onnx_ir.Value  # what `down` is multiplied with
    features: int
    parts: int = 1
    vectors: list[onnx_ir.Value] = field(default_factory=list)  # biases: initializers of one number per feature
    joined: list[onnx_ir.Value] = field(default_factory=list)  # those of `parts` times as many
    values: list[onnx_ir.Value] = field(default_factory=list)  # all between the two
    splits: list[onnx_ir.Node] = field(default_factory=list)


@dataclass(frozen=True)
class Heads:
    """One attention of `kv_heads` groups of heads that share keys and values."""

    node: onnx_ir.Node
    split: onnx_ir.Node
    rotary: tuple[onnx_ir.Node, ...]
    qkv: onnx_ir.Value  # [in, (heads + 2 * kv_heads) * width]
    bias: onnx_ir.Value | None
    output: onnx_ir.Value  # [heads * width, out]
    heads: int
    kv_heads: int
    width: int


def mlps(model: ModelIR) -> list[Mlp]:
    """All MLPs of two matrices with only elementwise operators between them, in the graph's order."""
    found = []
    for node in model.model.graph:
        down = node.inputs[1] if is_op(node, "MatMul") else None
        if down is not None and down.is_initializer() and len(down.shape or ()) == 2 and len(down.uses()) == 1:
            mlp = _mlp(node, down)
            if mlp is not None:
                found.append(mlp)
    return found


def attentions(model: ModelIR) -> list[Heads]:
    """All attentions whose queries, keys and values come from one matrix and go into one."""
    found = []
    for node in model.model.graph:
        if is_op(node, "Attention") and "q_num_heads" in node.attributes:
            heads = _heads(node)
            if heads is not None:
                found.append(heads)
    return found


def feature_scores(model: ModelIR, powers: Mapping[str, Scores]) -> tuple[list[Scores], list[Scores]]:
    """What each feature of each MLP, and each group of heads of each attention, brings to the output.

    `powers` has mean squares of what each matrix is multiplied with (`edgec.compress.prune.importance`).
    """
    heads = attentions(model)
    of_heads = [_brought(h.output, powers).reshape(h.kv_heads, -1) for h in heads]
    return [_brought(mlp.down, powers) for mlp in mlps(model)], [np.sqrt(np.square(s).sum(axis=1)) for s in of_heads]


def _brought(matrix: onnx_ir.Value, powers: Mapping[str, Scores]) -> Scores:
    assert matrix.const_value is not None
    norms = np.square(matrix.const_value.numpy(), dtype=np.float64).sum(axis=1)
    return np.asarray(np.sqrt(powers[str(matrix.name)] * norms))


def kept_features(score: Scores, share: float) -> npt.NDArray[np.int64]:
    """The features of an MLP that stay, in order: a multiple of 32, those of the highest scores."""
    count = min(score.size, max(GROUP, round(share * score.size / GROUP) * GROUP))
    return np.sort(np.argsort(-score, kind="stable")[:count])


def kept_groups(score: Scores, count: int) -> npt.NDArray[np.int64]:
    """The groups of attention heads that stay, in order."""
    return np.sort(np.argsort(-score, kind="stable")[:count])


def narrow_mlps(model: ModelIR, scores: Sequence[Scores], share: float) -> ModelIR:
    """Every MLP keeps `share` of its features, a multiple of 32, those of the highest scores."""
    result = dataclasses.replace(model, model=model.model.clone())
    graph = result.model.graph
    before = initializer_elements(graph)
    widths = []
    for mlp, score in zip(mlps(result), scores, strict=True):
        kept = kept_features(score, share)
        _narrow(graph, mlp, kept)
        widths.append(len(kept))
    decoder = result.decoder
    if decoder is not None and widths:
        decoder = dataclasses.replace(decoder, intermediate=max(widths))
    return _recounted(result, before, decoder=decoder)


def fewer_heads(model: ModelIR, scores: Sequence[Scores], count: int) -> ModelIR:
    """Every attention keeps `count` groups of heads, those of the highest scores."""
    result = dataclasses.replace(model, model=model.model.clone())
    graph = result.model.graph
    before = initializer_elements(graph)
    found = attentions(result)
    for heads, score in zip(found, scores, strict=True):
        _keep_heads(graph, heads, kept_groups(score, count))
    decoder = result.decoder
    if decoder is not None and found:
        shared = decoder.heads // decoder.kv_heads
        for values in (graph.inputs, graph.outputs):
            for value in values:
                if value.shape is not None and len(value.shape) == 4:
                    value.shape = onnx_ir.Shape([value.shape[0], count, value.shape[2], value.shape[3]])
        decoder = dataclasses.replace(decoder, heads=count * shared, kv_heads=count)
    return _recounted(result, before, decoder=decoder)


def _recounted(result: ModelIR, before: int, **changes: object) -> ModelIR:
    removed = before - initializer_elements(result.model.graph)
    facts = dataclasses.replace(result.facts, parameters=result.facts.parameters - removed)
    return dataclasses.replace(result, facts=facts, **changes)  # type: ignore[arg-type]


# MLPs


def _mlp(node: onnx_ir.Node, down: onnx_ir.Value) -> Mlp | None:
    inner = node.inputs[0]
    if inner is None or down.const_value is None:
        return None
    features = static_shape(down.const_value)[0]
    mlp = Mlp(down, down, inner, features)
    waiting, seen, ups = [inner], set[onnx_ir.Value](), set[onnx_ir.Value]()
    while waiting:
        value = waiting.pop()
        if value in seen:
            continue
        seen.add(value)
        producer = value.producer()
        if producer is None or value.is_graph_output():
            return None
        mlp.values.append(value)
        if is_op(producer, "Split"):
            if producer not in mlp.splits:
                mlp.splits.append(producer)
                product = producer.inputs[0]
                assert product is not None
                if not _joined(mlp, product, ups):
                    return None
        elif is_op(producer, "MatMul"):
            if not _is_up(producer, features):
                return None
            ups.add(producer.inputs[1])  # type: ignore[arg-type]
        elif is_op(producer, *_ELEMENTWISE):
            for operand in producer.inputs:
                if operand is None or (operand.is_initializer() and _size(operand) == 1):
                    continue
                if operand.is_initializer():
                    if _size(operand) != features or len(operand.uses()) != 1:
                        return None
                    mlp.vectors.append(operand)
                else:
                    waiting.append(operand)
        else:
            return None
    readers = {user for value in mlp.values for user, _ in value.uses()}
    inside = {value.producer() for value in mlp.values} | {node}
    if len(ups) != 1 or len(mlp.splits) > 1 or not readers <= inside:
        return None
    mlp.up = ups.pop()
    return mlp if len(mlp.up.uses()) == 1 else None


def _joined(mlp: Mlp, product: onnx_ir.Value, ups: set[onnx_ir.Value]) -> bool:
    """`product` is what gate and up are split from."""
    split = mlp.splits[0]
    mlp.parts = len(split.outputs)
    mlp.values.append(product)
    node = product.producer()
    if is_op(node, "Add"):
        assert node is not None
        for bias, other in (node.inputs, tuple(reversed(node.inputs))):
            if bias is not None and other is not None and bias.is_initializer():
                mlp.joined.append(bias)
                mlp.values.append(other)
                node = other.producer()
                break
    if not is_op(node, "MatMul") or node is None or not _is_up(node, mlp.parts * mlp.features):
        return False
    ups.add(node.inputs[1])  # type: ignore[arg-type]
    sizes = split.inputs[1] if len(split.inputs) > 1 else None
    numbers = sizes.const_value.numpy() if sizes is not None and sizes.const_value is not None else None
    return numbers is not None and numbers.tolist() == [mlp.features] * mlp.parts


def _is_up(node: onnx_ir.Node, width: int) -> bool:
    weight = node.inputs[1]
    if weight is None or not weight.is_initializer() or weight.const_value is None:
        return False
    return len(static_shape(weight.const_value)) == 2 and static_shape(weight.const_value)[1] == width


def _size(value: onnx_ir.Value) -> int:
    assert value.const_value is not None
    return int(value.const_value.size)


def _narrow(graph: onnx_ir.Graph, mlp: Mlp, kept: npt.NDArray[np.int64]) -> None:
    everywhere = np.concatenate([kept + part * mlp.features for part in range(mlp.parts)])
    take(mlp.up, 1, everywhere)
    take(mlp.down, 0, kept)
    for vector in mlp.vectors:
        take(vector, -1, kept)
    for vector in mlp.joined:
        take(vector, -1, everywhere)
    for split in mlp.splits:
        sizes = np.array([len(kept)] * mlp.parts, np.int64)
        split.replace_input_with(1, add_initializer(graph, f"{mlp.up.name}/kept", sizes))
    _reshape(mlp.values, {mlp.features: len(kept), mlp.parts * mlp.features: len(everywhere)})


def _reshape(values: Sequence[onnx_ir.Value], sizes: dict[int, int]) -> None:
    """New sizes of the last axis."""
    for value in values:
        if value.shape is not None and value.shape[-1] in sizes:
            value.shape = onnx_ir.Shape([*value.shape.dims[:-1], sizes[value.shape[-1]]])  # type: ignore[index]


# Heads


def _heads(node: onnx_ir.Node) -> Heads | None:
    heads, kv_heads = node.attributes.get_int("q_num_heads"), node.attributes.get_int("kv_num_heads")
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    if mask is not None and (mask.shape is None or (len(mask.shape) > 3 and mask.shape[1] != 1)):
        return None  # it may differ from head to head
    rotary: list[onnx_ir.Node] = []
    parts: list[onnx_ir.Value] = []
    for value in node.inputs[:3]:
        producer = value.producer() if value is not None else None
        if is_op(producer, "RotaryEmbedding"):
            assert producer is not None
            rotary.append(producer)
            value = producer.inputs[0]
        if value is None or only_use(value) is None:
            return None
        parts.append(value)
    split = parts[0].producer()
    if split is None or not is_op(split, "Split") or list(split.outputs) != parts:
        return None
    product, bias = split.inputs[0], None
    source = product.producer() if product is not None else None
    if is_op(source, "Add"):
        assert source is not None
        for vector, other in (source.inputs, tuple(reversed(source.inputs))):
            if vector is not None and other is not None and vector.is_initializer():
                bias, source = vector, other.producer()
                break
    reader = only_use(node.outputs[0])
    if source is None or not is_op(source, "MatMul") or reader is None or not is_op(reader, "MatMul"):
        return None
    qkv, output = source.inputs[1], reader.inputs[1]
    if any(w is None or not w.is_initializer() or len(w.uses()) != 1 for w in (qkv, output)):
        return None
    assert qkv is not None and output is not None and qkv.const_value is not None and output.const_value is not None
    width = static_shape(output.const_value)[0] // max(heads or 1, 1)
    if not heads or not kv_heads or static_shape(qkv.const_value)[1] != (heads + 2 * kv_heads) * width:
        return None
    return Heads(node, split, tuple(rotary), qkv, bias, output, heads, kv_heads, width)


def _keep_heads(graph: onnx_ir.Graph, found: Heads, kept: npt.NDArray[np.int64]) -> None:
    shared, width = found.heads // found.kv_heads, found.width
    queries = (kept[:, None] * shared + np.arange(shared)).reshape(-1)
    features: Callable[[npt.NDArray[np.int64], int], npt.NDArray[np.int64]] = lambda heads, first: (  # noqa: E731
        (first + heads[:, None] * width + np.arange(width)).reshape(-1)
    )
    keys, values = found.heads * width, (found.heads + found.kv_heads) * width
    columns = np.concatenate([features(queries, 0), features(kept, keys), features(kept, values)])
    take(found.qkv, 1, columns)
    if found.bias is not None:
        take(found.bias, -1, columns)
    take(found.output, 0, features(queries, 0))
    sizes = [len(queries) * width, len(kept) * width, len(kept) * width]
    found.split.replace_input_with(1, add_initializer(graph, f"{found.qkv.name}/kept", np.array(sizes, np.int64)))
    found.node.attributes["q_num_heads"] = onnx_ir.AttrInt64("q_num_heads", len(queries))
    found.node.attributes["kv_num_heads"] = onnx_ir.AttrInt64("kv_num_heads", len(kept))
    for node in found.rotary:
        before = node.attributes.get_int("num_heads")
        after = len(queries) if before == found.heads and node is found.rotary[0] else len(kept)
        node.attributes["num_heads"] = onnx_ir.AttrInt64("num_heads", after)
        _reshape([node.outputs[0]], {before * width: after * width})
    for value, size in zip(found.split.outputs, sizes, strict=True):
        if value.shape is not None:
            value.shape = onnx_ir.Shape([*value.shape.dims[:-1], size])
    product = found.split.inputs[0]
    assert product is not None
    total = (found.heads + 2 * found.kv_heads) * width
    inner = product.producer()
    before_bias = [] if inner is None or found.bias is None else [v for v in inner.inputs if v is not None]
    _reshape([product, *(v for v in before_bias if not v.is_initializer())], {total: sum(sizes)})
    _reshape([found.node.outputs[0]], {found.heads * width: sizes[0]})


__all__ = [
    "Heads",
    "Mlp",
    "attentions",
    "feature_scores",
    "fewer_heads",
    "kept_features",
    "kept_groups",
    "mlps",
    "narrow_mlps",
]
