"""Recognise the decoder graph of `ir/model.py` (after `simplify`) and describe it as data.

The walk goes backwards from each layer's Attention and residual sums. Every node has to be accounted for,
with its attributes: a graph that computes anything else is refused, not guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir

from edgec.errors import UnsupportedError
from edgec.ir.model import TURN, DecoderFacts, ModelIR

_HINT = "compile the Hugging Face directory or the GGUF file, not an export of it"


@dataclass(frozen=True)
class LinearWeights:
    """Names of initializers."""

    weight: str
    bias: str | None = None


@dataclass(frozen=True)
class Norm:
    kind: Literal["rms", "layer"]
    epsilon: float
    weight: str
    bias: str | None = None


@dataclass(frozen=True)
class Rotary:
    """Of the first `2 * len(inv_freq)` features of each head."""

    inv_freq: tuple[float, ...]
    scale: float


@dataclass(frozen=True)
class AttentionLayer:
    """`norm` None: the projections read the stream itself. `query_norm` and `key_norm` are over the last
    axis of `[n, heads, head_dim]`, or of `[n, heads * head_dim]` when `whole`."""

    norm: Norm | None
    qkv: LinearWeights
    query_norm: Norm | None
    key_norm: Norm | None
    whole: bool
    rotary: Rotary | None
    scale: float
    softcap: float | None
    window: int | None
    inner_norm: Norm | None
    output: LinearWeights
    output_norm: Norm | None


@dataclass(frozen=True)
class Experts:
    """Of which each token takes some. Weights are `[experts, ...]`, of `MlpLayer.up` and `.down`."""

    router: str
    count: int
    per_token: int
    normalized: bool  # the weights of the chosen ones sum to 1


@dataclass(frozen=True)
class MlpLayer:
    """`source`: what it reads through its norm, "after" the attention's update or "before" it; "shared" is the
    attention's own normed input."""

    source: Literal["after", "before", "shared"]
    norm: Norm | None
    up: LinearWeights  # gate and up joined when gated
    gated: bool
    activation: str
    inner_norm: Norm | None
    down: LinearWeights
    output_norm: Norm | None
    experts: Experts | None = None


@dataclass(frozen=True)
class Decoder:
    embedding: str
    embedding_scale: float
    positions: str | None  # table of learned positions
    turn: str | None  # matrix that the embedded token is multiplied with
    layers: tuple[tuple[AttentionLayer, MlpLayer], ...]
    final_norm: Norm
    turn_back: str | None  # matrix before the lm_head
    lm_head: LinearWeights  # the weight is the embedding's name when tied
    logit_softcap: float | None


class _Matcher:
    def __init__(self, model: ModelIR, facts: DecoderFacts) -> None:
        self.facts = facts
        self.name = model.facts.name
        self.inputs = {value.name: value for value in model.model.graph.inputs}
        self.outputs = {value.name: value for value in model.model.graph.outputs}
        self.seen: set[onnx_ir.Node] = set()

    # Single nodes

    def refusal(self, what: str) -> UnsupportedError:
        return UnsupportedError(f"`{self.name}` is not the decoder that edgec lowers: {what}", hint=_HINT)

    def made_by(self, value: onnx_ir.Value | None, *ops: str) -> onnx_ir.Node:
        """The node that makes `value`, which must be one of `ops`."""
        node = self.maybe(value, *ops)
        if node is None:
            found = value.producer() if value is not None else None
            name = "an absent input" if value is None else f"`{value.name}`"
            wanted = ", ".join(f"`{op}`" for op in ops)
            raise self.refusal(f"expected {wanted} before {name}, found {_described(found)}")
        return node

    def maybe(self, value: onnx_ir.Value | None, *ops: str) -> onnx_ir.Node | None:
        node = value.producer() if value is not None else None
        if node is None or node.domain not in ("", "ai.onnx") or node.op_type not in ops:
            return None
        self.seen.add(node)
        return node

    def expect(self, condition: bool, node: onnx_ir.Node, what: str) -> None:
        if not condition:
            raise self.refusal(f"{_described(node)} {what}")

    def attributes(self, node: onnx_ir.Node, **wanted: Any) -> None:
        """Each attribute of `node` has the value in `wanted`; no other is there."""
        for name, attribute in node.attributes.items():
            self.expect(name in wanted and attribute.value == wanted[name], node, f"has `{name}` {attribute.value}")

    def initializer(self, node: onnx_ir.Node, slot: int) -> str:
        value = node.inputs[slot] if slot < len(node.inputs) else None
        if value is None or not value.is_initializer() or value.name is None:
            raise self.refusal(f"input {slot} of {_described(node)} is not a weight")
        return value.name

    def array(self, value: onnx_ir.Value | None) -> np.ndarray | None:
        """A small constant."""
        if value is None or not value.is_initializer() or value.const_value is None or value.const_value.size > 1 << 16:
            return None
        return value.const_value.numpy()

    def number(self, value: onnx_ir.Value | None) -> float | None:
        array = self.array(value)
        return None if array is None or array.size != 1 else array.reshape(-1)[0].item()

    # Parts

    def split_constant(self, node: onnx_ir.Node) -> tuple[onnx_ir.Value, float]:
        """(other operand, number) of a node with a constant operand."""
        for value, other in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
            number = self.number(other)
            if number is not None and value is not None:
                return value, number
        raise self.refusal(f"{_described(node)} has no constant operand")

    def linear(self, value: onnx_ir.Value | None) -> tuple[LinearWeights, onnx_ir.Value]:
        """(weights, input) of the linear layer that makes `value`."""
        node = self.made_by(value, "MatMul", "Add")
        bias = None
        if node.op_type == "Add":
            slot = 1 if node.inputs[1] is not None and node.inputs[1].is_initializer() else 0
            bias = self.initializer(node, slot)
            node = self.made_by(node.inputs[1 - slot], "MatMul")
        source = node.inputs[0]
        assert source is not None
        return LinearWeights(self.initializer(node, 1), bias), source

    def norm(self, value: onnx_ir.Value | None) -> tuple[Norm | None, onnx_ir.Value]:
        """(the norm that makes `value`, its input), or (None, `value`)."""
        node = self.maybe(value, "RMSNormalization", "LayerNormalization")
        assert value is not None
        if node is None:
            return None, value
        epsilon = node.attributes.get_float("epsilon", 1e-5)
        self.attributes(node, axis=-1, epsilon=epsilon, stash_type=1)
        bias = self.initializer(node, 2) if len(node.inputs) > 2 and node.inputs[2] is not None else None
        kind: Literal["rms", "layer"] = "rms" if node.op_type == "RMSNormalization" else "layer"
        source = node.inputs[0]
        assert source is not None
        return Norm(kind, epsilon, self.initializer(node, 1), bias), source

    def head_norm(self, value: onnx_ir.Value) -> tuple[Norm | None, bool, onnx_ir.Value]:
        """(norm, over whole rows, input) of a norm of queries or keys: of all heads, or of each between reshapes."""
        node = self.maybe(value, "Reshape")
        if node is None:
            norm, source = self.norm(value)
            return norm, True, source
        norm, source = self.norm(node.inputs[0])
        inner = self.made_by(source, "Reshape")
        projected, dims = inner.inputs[0], self.array(inner.inputs[1])
        self.expect(norm is not None, node, "surrounds no norm")
        splits = dims is not None and len(dims) == 4 and dims[3] == self.facts.head_dim
        self.expect(splits and projected is not None, inner, "does not split heads")
        assert projected is not None
        return norm, False, projected

    def rotary(self, value: onnx_ir.Value, heads: int) -> tuple[Rotary | None, onnx_ir.Value]:
        node = self.maybe(value, "RotaryEmbedding")
        if node is None:
            return None, value
        cosine, sine = (self.angles(node.inputs[slot], op) for slot, op in ((1, "Cos"), (2, "Sin")))
        self.expect(cosine == sine, node, "takes cosines and sines of different angles")
        rotated = 2 * len(cosine.inv_freq)
        dim = self.facts.head_dim
        self.attributes(node, num_heads=heads, interleaved=0, rotary_embedding_dim=0 if rotated == dim else rotated)
        source = node.inputs[0]
        self.expect(source is not None and len(node.inputs) == 3, node, "has other inputs")
        assert source is not None
        return cosine, source

    def angles(self, value: onnx_ir.Value | None, op: str) -> Rotary:
        """cos or sin of `position_ids * inv_freq`, times a scale."""
        scale = 1.0
        node = self.made_by(value, op, "Mul")
        if node.op_type == "Mul":
            inner, scale = self.split_constant(node)
            node = self.made_by(inner, op)
        product = self.made_by(node.inputs[0], "Mul")
        for column, frequencies in ((product.inputs[0], product.inputs[1]), (product.inputs[1], product.inputs[0])):
            array = self.array(frequencies)
            if array is not None and array.ndim == 1 and array.dtype == np.float32:
                self.positions(column)
                return Rotary(tuple(float(value) for value in array), scale)
        raise self.refusal(f"{_described(product)} is not a product of positions and frequencies")

    def positions(self, value: onnx_ir.Value | None) -> None:
        """`position_ids`, cast and reshaped."""
        while (node := self.maybe(value, "Cast", "Reshape", "Unsqueeze")) is not None:
            value = node.inputs[0]
        if value is not self.inputs["position_ids"]:
            raise self.refusal(f"`{value.name if value is not None else ''}` is not `position_ids`")

    def window(self, mask: onnx_ir.Value | None) -> int | None:
        """The window of a mask `range(last position + 1) > position_ids - window`."""
        if mask is None:
            return None
        greater = self.made_by(mask, "Greater")
        keys = self.made_by(greater.inputs[0], "Range")
        self.expect(self.number(keys.inputs[0]) == 0 and self.number(keys.inputs[2]) == 1, keys, "does not count")
        count, one = self.split_constant(self.made_by(keys.inputs[1], "Add"))
        last = self.made_by(count, "ReduceMax")
        self.expect(one == 1 and len(last.inputs) == 1, last, "does not find the last position")
        self.positions(last.inputs[0])
        oldest = self.made_by(greater.inputs[1], "Sub")
        self.positions(oldest.inputs[0])
        size = self.number(oldest.inputs[1])
        self.expect(size is not None and size >= 1, oldest, "does not subtract a window")
        assert size is not None
        return int(size)

    # Layers

    def layer(self, number: int, stream: onnx_ir.Value) -> tuple[tuple[AttentionLayer, MlpLayer], onnx_ir.Value]:
        attention, normed, update = self.attention(number, stream)
        after = self.residual(update, stream)
        mlp, end = self.mlp(stream, normed, after)
        return (attention, mlp), end

    def attention(self, number: int, stream: onnx_ir.Value) -> tuple[AttentionLayer, onnx_ir.Value, onnx_ir.Value]:
        """(layer, its normed input, its update of the stream)."""
        facts = self.facts
        node = self.made_by(self.outputs[f"present.{number}.key"], "Attention")
        scale = node.attributes.get_float("scale", facts.head_dim**-0.5)
        softcap = node.attributes.get_float("softcap", 0.0)
        self.attributes(
            node, is_causal=1, q_num_heads=facts.heads, kv_num_heads=facts.kv_heads, scale=scale, softcap=softcap,
            qk_matmul_output_mode=0,
        )  # fmt: skip
        past = [self.inputs[f"past_key_values.{number}.{part}"] for part in ("key", "value")]
        self.expect(list(node.inputs[4:6]) == past and len(node.inputs) == 6, node, "has another cache")
        self.expect(node.outputs[2] is self.outputs[f"present.{number}.value"], node, "leaves another cache")
        query, key, value = node.inputs[:3]
        assert query is not None and key is not None
        query_rotary, query = self.rotary(query, facts.heads)
        key_rotary, key = self.rotary(key, facts.kv_heads)
        self.expect(query_rotary == key_rotary, node, "takes queries and keys that are rotated differently")
        query_norm, whole, query = self.head_norm(query)
        key_norm, key_whole, key = self.head_norm(key)
        self.expect(
            (query_norm is None) == (key_norm is None) and whole == key_whole,
            node,
            "norms queries and keys differently",
        )
        split = self.made_by(query, "Split")
        self.expect(
            list(split.outputs) == [query, key, value], node, "does not take queries, keys and values of one linear"
        )
        self.attributes(split, axis=-1)
        qkv, normed = self.linear(split.inputs[0])
        norm, source = self.norm(normed)
        self.expect(source is stream, node, "does not read the stream")
        inner_norm, attended = self.norm_after(node.outputs[0])
        output, projected = self.linear_after(attended)
        output_norm, projected = self.norm_after(projected)
        layer = AttentionLayer(
            norm, qkv, query_norm, key_norm, whole, query_rotary, scale, softcap or None, self.window(node.inputs[3]),
            inner_norm, output, output_norm,
        )  # fmt: skip
        return layer, normed, projected

    def mlp(self, before: onnx_ir.Value, shared: onnx_ir.Value, after: onnx_ir.Value) -> tuple[MlpLayer, onnx_ir.Value]:
        """(layer, the stream after it)."""
        end, update = self.last_sum(after)
        output_norm, update = self.norm(update)
        down, inner_norm, gated, activation, up, normed, experts = self.branch(update)
        if normed is shared and shared is not before:
            return MlpLayer("shared", None, up, gated, activation, inner_norm, down, output_norm, experts), end
        norm, source = self.norm(normed)
        if source not in (before, after):
            raise self.refusal(f"an MLP reads `{source.name}`, neither the stream nor the attention's input")
        where: Literal["after", "before"] = "after" if source is after else "before"
        return MlpLayer(where, norm, up, gated, activation, inner_norm, down, output_norm, experts), end

    def branch(
        self, update: onnx_ir.Value
    ) -> tuple[LinearWeights, Norm | None, bool, str, LinearWeights, onnx_ir.Value, Experts | None]:
        """(down, norm before it, gated, activation, up, input, experts) of what an MLP, or experts, compute."""
        total = self.maybe(update, "ReduceSum")
        if total is None:
            down, inner = self.linear(update)
            inner_norm, inner = self.norm(inner)
            gated, activation, joined = self.activated(inner)
            up, normed = self.linear(joined)
            return down, inner_norm, gated, activation, up, normed, None
        self.attributes(total, keepdims=1, noop_with_empty_axes=0)
        weighted = self.made_by(total.inputs[0], "Mul")
        self.expect(self.number(total.inputs[1]) == 0, total, "does not sum over experts")
        column = self.made_by(weighted.inputs[1], "Transpose")
        self.attributes(column, perm=(2, 1, 0))
        down, inner = self.linear(weighted.inputs[0])
        gated, activation, joined = self.activated(inner)
        self.expect(gated, weighted, "weights experts that are not gated")
        up, normed = self.linear(joined)
        self.expect(up.bias is None and down.bias is None, weighted, "weights experts with biases")
        return down, None, gated, activation, up, normed, self.routed(column.inputs[0], normed)

    def routed(self, weights: onnx_ir.Value | None, source: onnx_ir.Value) -> Experts:
        """What chooses the experts: the most likely ones of a softmax, put back in their places."""
        facts = self.facts
        scatter = self.made_by(weights, "ScatterElements")
        self.attributes(scatter, axis=-1, reduction="none")
        nothing, zero = self.split_constant(self.made_by(scatter.inputs[0], "Mul"))
        likely = self.made_by(nothing, "Softmax")
        self.attributes(likely, axis=-1)
        self.expect(zero == 0, scatter, "does not begin with zeros")
        best = scatter.inputs[2]
        shares = self.maybe(best, "Div")
        if shares is not None:
            best = shares.inputs[0]
            total = self.made_by(shares.inputs[1], "ReduceSum")
            self.attributes(total, keepdims=1, noop_with_empty_axes=0)
            self.expect(self.number(total.inputs[1]) == -1 and total.inputs[0] is best, total, "is not the whole")
        top = self.made_by(best, "TopK")
        self.attributes(top, axis=-1, largest=1, sorted=1)
        same = top.inputs[0] is nothing and list(top.outputs) == [best, scatter.inputs[1]]
        self.expect(same and self.number(top.inputs[1]) == facts.experts_per_token, top, "chooses in another way")
        router, read = self.linear(likely.inputs[0])
        self.expect(read is source and router.bias is None, likely, "does not read what the experts read")
        return Experts(router.weight, facts.experts, facts.experts_per_token, shares is not None)

    def activated(self, value: onnx_ir.Value) -> tuple[bool, str, onnx_ir.Value]:
        """(gated, activation, output of the linear) of act(x), or of act(gate) * up."""
        node = value.producer()
        if node is not None and node.op_type == "Mul" and node.inputs[0] is not node.inputs[1]:
            for active, up in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
                split = up.producer() if up is not None else None
                if split is None or split.op_type != "Split" or up is not split.outputs[1]:
                    continue
                self.seen |= {node, split}
                self.attributes(split, axis=-1)
                activation, gate = self.activation(active)
                self.expect(gate is split.outputs[0] and len(split.outputs) == 2, node, "does not gate one linear")
                joined = split.inputs[0]
                assert joined is not None
                return True, activation, joined
        activation, inner = self.activation(value)
        return False, activation, inner

    def activation(self, value: onnx_ir.Value | None) -> tuple[str, onnx_ir.Value]:
        """(name in `kernels.activations`, input)."""
        product = self.maybe(value, "Mul")
        node = None
        if product is None:
            node = self.made_by(value, "Sigmoid", "Gelu", "Relu")
            kind = {"Sigmoid": "sigmoid", "Relu": "relu"}.get(node.op_type)
            if kind is None:
                tanh = node.attributes.get_string("approximate", "none") == "tanh"
                kind = "gelu_tanh" if tanh else "gelu"
        elif product.inputs[0] is product.inputs[1]:
            node, kind = self.made_by(product.inputs[0], "Relu"), "relu2"
        else:
            kind = "silu"
            plain, sigmoid = product.inputs
            if self.maybe(plain, "Sigmoid") is not None:
                plain, sigmoid = sigmoid, plain
            node = self.made_by(sigmoid, "Sigmoid")
            self.expect(node.inputs[0] is plain, product, "is not x * sigmoid(x)")
        source = node.inputs[0]
        assert source is not None
        return kind, source

    # Forward steps: the one consumer that continues the path

    def user(self, value: onnx_ir.Value, op: str, slot: int | None = None) -> onnx_ir.Node:
        nodes = [node for node, index in value.uses() if node.op_type == op and slot in (None, index)]
        if len(nodes) != 1:
            users = ", ".join(_described(node) for node in value.consumers()) or "nothing"
            raise self.refusal(f"expected `{op}` after `{value.name}`, found {users}")
        self.seen.add(nodes[0])
        return nodes[0]

    def linear_after(self, value: onnx_ir.Value) -> tuple[LinearWeights, onnx_ir.Value]:
        matmul = self.user(value, "MatMul", slot=0)
        weight, out = self.initializer(matmul, 1), matmul.outputs[0]
        for node in out.consumers():
            for slot in (0, 1):
                operand = node.inputs[slot] if node.op_type == "Add" else None
                if operand is not None and operand.is_initializer():
                    self.seen.add(node)
                    return LinearWeights(weight, operand.name), node.outputs[0]
        return LinearWeights(weight), out

    def norm_after(self, value: onnx_ir.Value) -> tuple[Norm | None, onnx_ir.Value]:
        node = next((node for node, slot in value.uses() if node.op_type.endswith("Normalization") and slot == 0), None)
        if node is None:
            return None, value
        norm, _ = self.norm(node.outputs[0])
        return norm, node.outputs[0]

    def residual(self, update: onnx_ir.Value, stream: onnx_ir.Value) -> onnx_ir.Value:
        node = self.user(update, "Add")
        self.expect(stream in node.inputs and update is not stream, node, f"does not add to `{stream.name}`")
        return node.outputs[0]

    def last_sum(self, stream: onnx_ir.Value) -> tuple[onnx_ir.Value, onnx_ir.Value]:
        """(sum, update) of the sum that adds an update to `stream`."""
        node = self.user(stream, "Add")
        update = node.inputs[1] if node.inputs[0] is stream else node.inputs[0]
        assert update is not None
        return node.outputs[0], update

    # Ends

    def embedded(self) -> tuple[str, float, str | None, str | None, onnx_ir.Value]:
        """(table, scale, table of positions, matrix, the stream)."""
        gather = self.user(self.inputs["input_ids"], "Gather", slot=1)
        self.attributes(gather, axis=0)
        stream, scale, table = gather.outputs[0], 1.0, None
        product = next((node for node in stream.consumers() if node.op_type == "Mul"), None)
        if product is not None and any(self.number(value) is not None for value in product.inputs):
            self.seen.add(product)
            _, scale = self.split_constant(product)
            stream = product.outputs[0]
        learned = [node for node, slot in self.inputs["position_ids"].uses() if node.op_type == "Gather" and slot == 1]
        if learned:
            (node,) = learned
            self.seen.add(node)
            self.attributes(node, axis=0)
            table = self.initializer(node, 0)
            stream = self.residual(node.outputs[0], stream)
        turn = None
        product = next((node for node, slot in stream.uses() if node.op_type == "MatMul" and slot == 0), None)
        if product is not None and product.inputs[1] is not None and product.inputs[1].name == TURN:
            self.seen.add(product)
            turn, stream = TURN, product.outputs[0]
        return self.initializer(gather, 0), scale, table, turn, stream

    def head(self) -> tuple[LinearWeights, float | None, str | None, onnx_ir.Value]:
        """(lm_head, softcap of the logits, matrix before it, its input)."""
        value: onnx_ir.Value | None = self.outputs["logits"]
        cap = None
        scaled = self.maybe(value, "Mul")
        if scaled is not None:
            inner, cap = self.split_constant(scaled)
            value, inverse = self.split_constant(self.made_by(self.made_by(inner, "Tanh").inputs[0], "Mul"))
            self.expect(bool(np.isclose(inverse * cap, 1, rtol=1e-6)), scaled, "caps logits by two numbers")
        node = self.made_by(value, "MatMul", "Add")
        bias = None
        if node.op_type == "Add":
            slot = 1 if node.inputs[1] is not None and node.inputs[1].is_initializer() else 0
            bias, node = self.initializer(node, slot), self.made_by(node.inputs[1 - slot], "MatMul")
        transpose = self.maybe(node.inputs[1], "Transpose")
        weight = self.initializer(node, 1) if transpose is None else self.initializer(transpose, 0)
        source = node.inputs[0]
        back = self.maybe(source, "MatMul")
        if back is not None:
            source = back.inputs[0]
        assert source is not None
        return LinearWeights(weight, bias), cap, None if back is None else self.initializer(back, 1), source


def match_decoder(model: ModelIR) -> Decoder:
    """Raises `UnsupportedError` naming the first node that does not fit."""
    assert model.decoder is not None
    matcher = _Matcher(model, model.decoder)
    embedding, scale, positions, turn, stream = matcher.embedded()
    layers = []
    for number in range(model.decoder.layers):
        layer, stream = matcher.layer(number, stream)
        layers.append(layer)
    lm_head, cap, back, source = matcher.head()
    final_norm, source = matcher.norm(source)
    if final_norm is None or source is not stream:
        raise matcher.refusal("the lm_head does not read the normed stream")
    _all_seen(matcher, model.model.graph)
    return Decoder(embedding, scale, positions, turn, tuple(layers), final_norm, back, lm_head, cap)


def _all_seen(matcher: _Matcher, graph: onnx_ir.Graph) -> None:
    for node in graph:
        if node not in matcher.seen:
            raise UnsupportedError(f"{_described(node)} has no place in a decoder", hint=_HINT)


def _described(node: onnx_ir.Node | None) -> str:
    return "no node" if node is None else f"`{node.op_type}` ({node.name or node.outputs[0].name})"


__all__ = ["AttentionLayer", "Decoder", "Experts", "LinearWeights", "MlpLayer", "Norm", "Rotary", "match_decoder"]
