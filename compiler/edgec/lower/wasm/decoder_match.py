"""Recognise the decoder graph of `ir/model.py` (after `simplify`) and name its weights.

Every node has to be accounted for: a graph that computes anything else is refused, not guessed.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir

from edgec.errors import UnsupportedError
from edgec.ir.model import ModelIR


@dataclass(frozen=True)
class LinearWeights:
    weight: str
    bias: str | None = None


@dataclass(frozen=True)
class LayerWeights:
    """Names of initializers."""

    attention_norm: str
    qkv: LinearWeights
    output: LinearWeights
    mlp_norm: str
    gate_up: LinearWeights
    down: LinearWeights


@dataclass(frozen=True)
class DecoderWeights:
    embedding: str
    layers: tuple[LayerWeights, ...]
    final_norm: str
    lm_head: str  # the embedding's name when tied


class _Matcher:
    def __init__(self, model: ModelIR) -> None:
        self.graph = model.model.graph
        self.name = model.facts.name
        self.seen: set[onnx_ir.Node] = set()

    def fail(self, value: onnx_ir.Value, wanted: str) -> UnsupportedError:
        users = ", ".join(f"`{node.op_type}` ({node.name or node.outputs[0].name})" for node in value.consumers())
        return UnsupportedError(
            f"`{self.name}` is not the decoder that edgec lowers: expected {wanted} after `{value.name}`, "
            f"found {users or 'nothing'}",
            hint="compile the Hugging Face directory or the GGUF file, not an export of it",
        )

    def user(self, value: onnx_ir.Value, op: str, *, slot: int | None = None) -> onnx_ir.Node:
        """The consumer of `value` with op type `op` (through input `slot`)."""
        for node, index in value.uses():
            if node.op_type == op and (slot is None or slot == index):
                self.seen.add(node)
                return node
        raise self.fail(value, f"`{op}`")

    def initializer(self, node: onnx_ir.Node, slot: int) -> str:
        value = node.inputs[slot]
        if value is None or not value.is_initializer() or value.name is None:
            raise UnsupportedError(f"input {slot} of `{node.op_type}` ({node.name}) of `{self.name}` is not a weight")
        return value.name

    def linear(self, value: onnx_ir.Value) -> tuple[LinearWeights, onnx_ir.Value]:
        matmul = self.user(value, "MatMul", slot=0)
        weight = self.initializer(matmul, 1)
        out = matmul.outputs[0]
        for node in out.consumers():
            other = [i for i, v in enumerate(node.inputs) if v is not out]
            if node.op_type == "Add" and len(other) == 1:
                operand = node.inputs[other[0]]
                if operand is not None and operand.is_initializer():
                    self.seen.add(node)
                    return LinearWeights(weight, self.initializer(node, other[0])), node.outputs[0]
        return LinearWeights(weight), out

    def norm(self, value: onnx_ir.Value) -> tuple[str, onnx_ir.Value]:
        node = self.user(value, "RMSNormalization", slot=0)
        return self.initializer(node, 1), node.outputs[0]

    def residual(self, branch: onnx_ir.Value, stream: onnx_ir.Value) -> onnx_ir.Value:
        node = self.user(branch, "Add")
        if stream not in node.inputs:
            raise self.fail(branch, f"`Add` with `{stream.name}`")
        return node.outputs[0]

    def layer(self, stream: onnx_ir.Value) -> tuple[LayerWeights, onnx_ir.Value]:
        attention_norm, normed = self.norm(stream)
        qkv, joined = self.linear(normed)
        query, key, value = self.user(joined, "Split").outputs
        rotated = [self.user(part, "RotaryEmbedding", slot=0).outputs[0] for part in (query, key)]
        attention = self.user(rotated[0], "Attention", slot=0)
        if list(attention.inputs[:3]) != [*rotated, value]:
            raise self.fail(rotated[0], "`Attention` of rotated queries, rotated keys and values")
        output, projected = self.linear(attention.outputs[0])
        stream = self.residual(projected, stream)
        mlp_norm, normed = self.norm(stream)
        gate_up, joined = self.linear(normed)
        gate, up = self.user(joined, "Split").outputs
        sigmoid = self.user(gate, "Sigmoid").outputs[0]
        silu = self.user(sigmoid, "Mul").outputs[0]
        product = self.user(silu, "Mul")
        if up not in product.inputs:
            raise self.fail(silu, f"`Mul` with `{up.name}`")
        down, projected = self.linear(product.outputs[0])
        stream = self.residual(projected, stream)
        return LayerWeights(attention_norm, qkv, output, mlp_norm, gate_up, down), stream

    def lm_head(self, value: onnx_ir.Value) -> str:
        matmul = self.user(value, "MatMul", slot=0)
        weight = matmul.inputs[1]
        producer = weight.producer() if weight is not None else None
        if producer is not None and producer.op_type == "Transpose":
            self.seen.add(producer)
            return self.initializer(producer, 0)
        return self.initializer(matmul, 1)


def match_decoder(model: ModelIR) -> DecoderWeights:
    """Raises `UnsupportedError` naming the first node that does not fit."""
    assert model.decoder is not None
    matcher = _Matcher(model)
    ids = next(value for value in matcher.graph.inputs if value.name == "input_ids")
    gather = matcher.user(ids, "Gather", slot=1)
    embedding = matcher.initializer(gather, 0)
    stream = gather.outputs[0]
    layers = []
    for _ in range(model.decoder.layers):
        weights, stream = matcher.layer(stream)
        layers.append(weights)
    final_norm, normed = matcher.norm(stream)
    lm_head = matcher.lm_head(normed)
    positional = {"Cast", "Reshape", "Unsqueeze", "Mul", "Cos", "Sin"}  # the angles, computed from DecoderFacts
    for node in matcher.graph:
        if node not in matcher.seen and node.op_type not in positional:
            raise UnsupportedError(f"`{node.op_type}` ({node.name or node.outputs[0].name}) has no place in a decoder")
    return DecoderWeights(embedding, tuple(layers), final_norm, lm_head)
