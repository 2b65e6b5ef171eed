"""`ModelIR`: an ONNX graph (opset >= 23) plus the facts an ONNX graph cannot hold.

Conventions for `kind == "decoder"` (built by `frontend/decoder.py`, so that onnxruntime runs it
as it is and the lowering recognises it):

    inputs   input_ids                int64 [1, n]
             position_ids             int64 [1, n]          absolute positions past .. past + n - 1
             past_key_values.{i}.key  float [1, kv_heads, past, head_dim]     (and .value)
    outputs  logits                   float [1, n, vocabulary]
             present.{i}.key          float [1, kv_heads, past + n, head_dim] (and .value)

    Gather(embed) [-> Mul(scale)] [-> Add(Gather(positions, position_ids))] [-> MatMul(turn)]
    -> per layer: [Norm ->] MatMul(q), MatMul(k), MatMul(v) [-> Norm of queries and keys]
         [-> RotaryEmbedding(q), RotaryEmbedding(k)] -> Attention(is_causal, past_key, past_value)
         [-> Norm] -> MatMul(o) [-> Norm] -> Add(residual)
         -> [Norm ->] MLP or experts [-> Norm] -> Add(residual)
    -> Norm [-> MatMul(turn_back)] -> MatMul(lm_head) [-> Mul -> Tanh -> Mul: soft cap]

    MLP      MatMul(gate), MatMul(up) -> act(gate) -> Mul [-> Norm] -> MatMul(down), or
             MatMul(up) -> act [-> Norm] -> MatMul(down)
    experts  weights of all experts by Softmax(MatMul(router)) -> TopK [-> Div(ReduceSum)] -> ScatterElements;
             MatMul(gate_up) -> Split -> act(gate) -> Mul -> MatMul(down) of every expert, `[experts, n, ...]`,
             -> Mul(weights) -> ReduceSum. The lowering computes the chosen experts alone
    act      x * Sigmoid(x) (= SiLU), Gelu (exact or tanh), Relu, Relu(x) * Relu(x)
    Norm     RMSNormalization or LayerNormalization; of queries and keys either over all heads together or,
             between two Reshapes, over each head

What stands in brackets depends on the family. The second branch reads the stream after the first one's
sum, or (parallel branches) the stream as it entered the layer, or the very input of the first branch.
Attention may have `scale` and `softcap`, and layers with a sliding window a mask

    Greater(Range(0, ReduceMax(position_ids) + 1), Unsqueeze(position_ids) - window)

which hides what is too old. Every value between is `[1, n, features]` (Attention's 3D form, heads in the
attributes). A biased linear is MatMul -> Add(bias `[out]`). RotaryEmbedding takes cos and sin
`[1, n, rotated features / 2]`, computed once per set of frequencies from position_ids and an initializer
by Cast -> Unsqueeze -> Mul -> Cos, Sin (-> Mul(scale)). It rotates halves (not interleaved); checkpoints
that pair neighbours are brought into that order when their weights are read.

Linear weights are float32 initializers `[in, out]` as MatMul wants them, read lazily (`onnx_ir.LazyTensor`, a
transposed view), so that a stage holds one tensor at a time; what was quantized before is marked (`mark_grid` of
`ir/weight_use.py`). A tied lm_head is the node `Transpose(embed)` feeding the MatMul, never a second copy.
Initializers are named as in Llama's checkpoints, whatever the source (i counts layers); those in brackets are
not in Llama:

    model.embed_tokens.weight                      [vocabulary, hidden]
    [model.embed_positions.weight]                 [positions, hidden]
    model.layers.{i}.input_layernorm.weight [.bias]    [hidden]
    model.layers.{i}.self_attn.{q,k,v,o}_proj.weight   [in, out], optional .bias [out]
    [model.layers.{i}.self_attn.{q,k}_norm.weight]     [head_dim], or [out] over all heads
    [model.layers.{i}.self_attn.attn_sub_norm.weight]  before the linear `o`
    [model.layers.{i}.attention_output_layernorm.weight]
    model.layers.{i}.post_attention_layernorm.weight [.bias]    before the MLP
    model.layers.{i}.mlp.{gate,up,down}_proj.weight    [in, out], optional .bias [out]
    [model.layers.{i}.mlp.router.weight]               [hidden, experts]
    [model.layers.{i}.mlp.experts.gate_up_proj.weight] [experts, hidden, 2 * expert_intermediate], gate first
    [model.layers.{i}.mlp.experts.down_proj.weight]    [experts, expert_intermediate, hidden]
    [model.layers.{i}.mlp.ffn_sub_norm.weight]         before the linear `down`
    [model.layers.{i}.mlp_output_layernorm.weight]
    model.norm.weight [.bias]
    lm_head.weight                                 [hidden, vocabulary], absent when tied; [lm_head.bias]
    [model.turn.weight, model.turn_back.weight]    [hidden, hidden], of `passes/rotate.py`
    rope.inv_freq, rope.{j}.inv_freq               radians per token, scaling applied
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import onnx_ir

INV_FREQ = "rope.inv_freq"  # of the layers that rotate as most do
TURN, TURN_BACK = "model.turn.weight", "model.turn_back.weight"  # of a rotated stream whose table is not


@dataclass(frozen=True)
class ModelFacts:
    """What the model is and where it came from."""

    name: str
    architecture: str  # "llama", "qwen2", "bert", "onnx"
    source_format: Literal["hf", "gguf", "onnx", "optimum"]
    source_sha256: str  # over the source's bytes, in file-name order
    parameters: int
    license: str | None = None
    note: str | None = None  # which of several files of a folder was taken


@dataclass(frozen=True)
class LongRope:
    """How all tokens rotate where there may be more than `DecoderFacts.context_length` (Ding et al. 2024)."""

    context_length: int  # tokens
    inv_freq: tuple[float, ...]  # radians per token, in place of `rope.inv_freq`


@dataclass(frozen=True)
class DecoderFacts:
    """Shapes and constants of a decoder language model."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context_length: int  # tokens; the longest for which the graph's rotations are the model's
    windows: tuple[int | None, ...] = ()  # per layer: tokens that a token sees; None, or no entry: all before it
    gated_mlp: bool = True
    experts: int = 0  # of a mixture-of-experts layer
    experts_per_token: int = 0
    expert_intermediate: int = 0
    tied_embedding: bool = False
    longrope: LongRope | None = None

    @property
    def longest_context(self) -> int:
        """Tokens that the model was trained for, by whichever rotations."""
        return self.context_length if self.longrope is None else self.longrope.context_length


@dataclass(frozen=True)
class TokenizerAssets:
    """Everything text-in, text-out needs. `tokenizer_json` is the `tokenizers` library's format."""

    tokenizer_json: bytes
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None = None
    pad_token_id: int | None = None
    chat_template: str | None = None  # Jinja source
    special_tokens: Mapping[str, str] = field(default_factory=dict)  # "bos_token" -> "<s>"


@dataclass(frozen=True)
class GraphPart:
    """One of several graphs in a model: what a call gives and wants, by names of the ONNX graph's inputs and outputs.

    The nodes between belong to it; parts share what they have in common, weights above all. What follows from the
    inputs of the part that it `follows` alone is computed by that part and kept in memory. `state` are tensors that
    stay in memory too: an output and the input that it is in the next call, longer by what the call appended.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    follows: str | None = field(default=None, kw_only=True)
    state: Mapping[str, str] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True)
class ModelIR:
    """A model between stages. `verify()` raises `ModelError` when a convention is broken."""

    model: onnx_ir.Model
    kind: Literal["decoder", "graph"]
    facts: ModelFacts
    decoder: DecoderFacts | None = None
    tokenizer: TokenizerAssets | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)  # snake_case defaults
    task: Mapping[str, Any] | None = None  # pre/post-processing as data, see docs/bundle-format.md
    parts: Mapping[str, GraphPart] = field(default_factory=dict)  # by name; empty: the graph is one part, `run`

    def graph_parts(self) -> Mapping[str, GraphPart]:
        """`parts`, or the one that is the whole graph."""
        graph = self.model.graph
        inputs, outputs = (tuple(value.name or "" for value in side) for side in (graph.inputs, graph.outputs))
        return self.parts or {"run": GraphPart(inputs, outputs)}

    def for_context(self, tokens: int) -> ModelIR:
        """The model with the rotations of a context of that many tokens, which differ with longrope alone."""
        longrope = self.decoder.longrope if self.decoder is not None else None
        if self.decoder is None or longrope is None or tokens <= self.decoder.context_length:
            return self
        model = self.model.clone()
        value = model.graph.initializers[INV_FREQ]
        value.const_value = onnx_ir.tensor(np.array(longrope.inv_freq, np.float32), name=INV_FREQ)
        facts = replace(self.decoder, context_length=longrope.context_length, longrope=None)
        return replace(self, model=model, decoder=facts)

    def verify(self) -> None:
        from edgec.errors import ModelError

        if (self.kind == "decoder") != (self.decoder is not None):
            have = "without" if self.decoder is None else "with"
            raise ModelError(f"`{self.facts.name}` is a {self.kind} model {have} decoder facts")
        opset = self.model.opset_imports.get("", 0)
        if opset < 23:
            raise ModelError(f"`{self.facts.name}` uses ONNX opset {opset}, the pipeline works on 23 and up")
        if self.decoder is not None:
            self._verify_decoder(self.decoder)
        self._verify_parts()

    def _verify_parts(self) -> None:
        from edgec.errors import ModelError

        graph = self.model.graph
        for name, part in self.parts.items():
            inputs, outputs = (*part.inputs, *part.state.values()), (*part.outputs, *part.state)
            for side, names, values in (("input", inputs, graph.inputs), ("output", outputs, graph.outputs)):
                known = {value.name for value in values}
                for missing in [given for given in names if given not in known]:
                    raise ModelError(f"the part `{name}` of `{self.facts.name}` has no {side} `{missing}`")
            if part.follows is not None and part.follows not in self.parts:
                raise ModelError(f"the part `{name}` of `{self.facts.name}` follows `{part.follows}`, which is none")
            before = self.parts[part.follows].inputs if part.follows is not None else ()
            foreign = inputs_of(graph, [value for value in graph.outputs if value.name in outputs]) - {*inputs, *before}
            if foreign:
                raise ModelError(f"the part `{name}` of `{self.facts.name}` also needs the input `{min(foreign)}`")

    def _verify_decoder(self, decoder: DecoderFacts) -> None:
        from edgec.errors import ModelError

        layers = range(decoder.layers)
        parts = ("key", "value")
        wanted = {
            "inputs": ["input_ids", "position_ids", *(f"past_key_values.{i}.{part}" for i in layers for part in parts)],
            "outputs": ["logits", *(f"present.{i}.{part}" for i in layers for part in parts)],
        }
        graph = self.model.graph
        for side, found in (("inputs", graph.inputs), ("outputs", graph.outputs)):
            names = [value.name for value in found]
            if names != wanted[side]:
                raise ModelError(f"`{self.facts.name}` has the {side} {names}, a decoder of its facts {wanted[side]}")
        if len(decoder.windows) not in (0, decoder.layers):
            raise ModelError(f"`{self.facts.name}` has windows of {len(decoder.windows)} layers, not {decoder.layers}")


def inputs_of(graph: onnx_ir.Graph, values: Sequence[onnx_ir.Value]) -> set[str]:
    """Names of the graph inputs that `values` depend on."""
    wanted = list(values)
    seen: set[onnx_ir.Value] = set()
    while wanted:
        value = wanted.pop()
        if value in seen:
            continue
        seen.add(value)
        node = value.producer()
        if node is not None:
            wanted += _read_by(node)
    return {value.name or "" for value in graph.inputs if value in seen}


def _read_by(node: onnx_ir.Node) -> list[onnx_ir.Value]:
    """Inputs of a node, and what the bodies of its control flow read from outside."""
    values = [value for value in node.inputs if value is not None]
    for attribute in node.attributes.values():
        if attribute.type in (onnx_ir.AttributeType.GRAPH, onnx_ir.AttributeType.GRAPHS):
            bodies = attribute.as_graphs() if attribute.type == onnx_ir.AttributeType.GRAPHS else [attribute.as_graph()]
            for body in bodies:
                for inner in body:
                    values += _read_by(inner)
                values += list(body.outputs)
    return values
