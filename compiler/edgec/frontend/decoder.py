"""The one builder of decoder language models, in the convention of `edgec/ir/model.py`.

A family is data (`families.py`): the shapes in `DecoderFacts` and the set of biased linears.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

import numpy as np
import onnx_ir

from edgec.errors import ModelError, UnsupportedError
from edgec.frontend.graph_writer import Dim, GraphWriter
from edgec.frontend.weights import WeightSource
from edgec.ir.model import DecoderFacts

OPSET = 23
IR_VERSION = 11

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
LM_HEAD = "lm_head.weight"
_MAX_LAYERS = 2048
_MAX_HEAD_DIM = 4096
_HEAD_DIM_STEP = 8  # rotation takes vectors of 4 from each half
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def linear_name(layer: int, linear: str) -> str:
    """`linear` is one of `LINEARS`; the name lacks `.weight` or `.bias`."""
    block = "mlp" if linear in ("gate_proj", "up_proj", "down_proj") else "self_attn"
    return f"model.layers.{layer}.{block}.{linear}"


def check_extents(*, layers: int, heads: int, kv_heads: int, head_dim: int) -> None:
    """Raises `ModelError` for sizes that no decoder has, before anything is made in their size, and
    `UnsupportedError` for a head dimension that no kernel handles."""
    if layers > _MAX_LAYERS or head_dim > _MAX_HEAD_DIM:
        raise ModelError(f"{layers} layers with heads of dimension {head_dim} are beyond any model")
    if heads % kv_heads:
        raise ModelError(f"{heads} attention heads cannot share {kv_heads} key/value heads")
    if head_dim % 2 or not head_dim:
        raise ModelError(f"the head dimension is {head_dim}, rotary embeddings need a positive even one")
    if head_dim % _HEAD_DIM_STEP:
        raise UnsupportedError(f"the head dimension is {head_dim} (supported: multiples of {_HEAD_DIM_STEP})")


def tensor_shapes(facts: DecoderFacts, biases: Collection[str]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor that the model needs; linears are `[out, in]` as in checkpoints."""
    queries, keys = facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim
    linears = {
        "q_proj": (queries, facts.hidden),
        "k_proj": (keys, facts.hidden),
        "v_proj": (keys, facts.hidden),
        "o_proj": (facts.hidden, queries),
        "gate_proj": (facts.intermediate, facts.hidden),
        "up_proj": (facts.intermediate, facts.hidden),
        "down_proj": (facts.hidden, facts.intermediate),
    }
    yield EMBEDDING, (facts.vocabulary, facts.hidden)
    for layer in range(facts.layers):
        yield f"model.layers.{layer}.input_layernorm.weight", (facts.hidden,)
        for linear, shape in linears.items():
            yield f"{linear_name(layer, linear)}.weight", shape
            if linear in biases:
                yield f"{linear_name(layer, linear)}.bias", shape[:1]
        yield f"model.layers.{layer}.post_attention_layernorm.weight", (facts.hidden,)
    yield FINAL_NORM, (facts.hidden,)
    if not facts.tied_embedding:
        yield LM_HEAD, (facts.vocabulary, facts.hidden)


def check_tensors(
    facts: DecoderFacts,
    biases: Collection[str],
    found: Mapping[str, tuple[int, ...]],
    *,
    ignored: Callable[[str], bool] = lambda name: False,
) -> None:
    """Compares the tensors of a checkpoint (`found`: name to shape) with what the model needs.

    Raises `ModelError` for missing or wrongly shaped tensors and `UnsupportedError` for tensors
    that the builder would not use, since leaving one out would compile another model.
    """
    needed = dict(tensor_shapes(facts, biases))
    missing = [name for name in needed if name not in found]
    if missing:
        raise ModelError(
            f"the checkpoint lacks {_some(missing)}",
            hint="download the model again, or check that all its shards are there",
        )
    wrong = [
        f"`{name}` has shape {list(found[name])} instead of {list(shape)}"
        for name, shape in needed.items()
        if found[name] != shape
    ]
    if wrong:
        raise ModelError(
            "; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""),
            hint="the configuration and the weights are of different models",
        )
    unused = [name for name in found if name not in needed and not ignored(name)]
    if unused:
        raise UnsupportedError(
            f"the checkpoint has tensors that no supported decoder uses: {_some(unused)}",
            hint="supported are embedding, RMS norms, q/k/v/o and gate/up/down projections and lm_head",
        )


def parameter_count(facts: DecoderFacts, biases: Collection[str]) -> int:
    total = 0
    for _, shape in tensor_shapes(facts, biases):
        size = 1
        for extent in shape:
            size *= extent
        total += size
    return total


def build_decoder(facts: DecoderFacts, biases: Collection[str], weights: WeightSource, *, name: str) -> onnx_ir.Model:
    """The graph; `weights` is read only when an initializer is asked for its values."""
    writer = GraphWriter(OPSET)
    build = _Decoder(facts, frozenset(biases), weights, writer)
    graph = writer.graph(name, build.outputs())
    return onnx_ir.Model(graph, ir_version=IR_VERSION, producer_name="edgec")


class _Decoder:
    def __init__(self, facts: DecoderFacts, biases: frozenset[str], weights: WeightSource, writer: GraphWriter) -> None:
        self._facts = facts
        self._biases = biases
        self._weights = weights
        self._writer = writer
        self._shapes = dict(tensor_shapes(facts, biases))

    def outputs(self) -> list[onnx_ir.Value]:
        facts, writer = self._facts, self._writer
        input_ids = writer.input("input_ids", onnx_ir.DataType.INT64, [1, "n"])
        position_ids = writer.input("position_ids", onnx_ir.DataType.INT64, [1, "n"])
        cos, sin = self._rotary_tables(position_ids)
        embedding = self._tensor(EMBEDDING)
        (hidden,) = writer.node("Gather", [embedding, input_ids], [("embedding", [1, "n", facts.hidden])], axis=0)
        present: list[onnx_ir.Value] = []
        for layer in range(facts.layers):
            hidden = self._attention_block(layer, hidden, cos, sin, present)
            hidden = self._mlp_block(layer, hidden)
        hidden = self._norm("final_norm", hidden, FINAL_NORM)
        if facts.tied_embedding:
            (head,) = writer.node(
                "Transpose", [embedding], [("lm_head", [facts.hidden, facts.vocabulary])]
            )  # without `perm` it reverses the axes
        else:
            head = self._tensor(LM_HEAD, transposed=True)
        (logits,) = writer.node("MatMul", [hidden, head], [("logits", [1, "n", facts.vocabulary])])
        return [logits, *present]

    def _rotary_tables(self, position_ids: onnx_ir.Value) -> tuple[onnx_ir.Value, onnx_ir.Value]:
        """cos and sin `[1, n, head_dim / 2]` of the positions."""
        writer, half = self._writer, self._facts.head_dim // 2
        frequencies = writer.constant("rope.inv_freq", np.array(self._facts.rope_inv_freq, dtype=np.float32))
        axes = writer.constant("rope.axes", np.array([2], dtype=np.int64))
        (positions,) = writer.node(
            "Cast", [position_ids], [("rope.positions", [1, "n"])], to=int(onnx_ir.DataType.FLOAT)
        )
        (column,) = writer.node("Unsqueeze", [positions, axes], [("rope.column", [1, "n", 1])])
        shape: list[Dim] = [1, "n", half]
        (angles,) = writer.node("Mul", [column, frequencies], [("rope.angles", shape)])
        (cos,) = writer.node("Cos", [angles], [("rope.cos", shape)])
        (sin,) = writer.node("Sin", [angles], [("rope.sin", shape)])
        if self._facts.rope_scale != 1.0:
            scale = writer.constant("rope.scale", np.array(self._facts.rope_scale, dtype=np.float32))
            (cos,) = writer.node("Mul", [cos, scale], [("rope.cos_scaled", shape)])
            (sin,) = writer.node("Mul", [sin, scale], [("rope.sin_scaled", shape)])
        return cos, sin

    def _attention_block(
        self,
        layer: int,
        hidden: onnx_ir.Value,
        cos: onnx_ir.Value,
        sin: onnx_ir.Value,
        present: list[onnx_ir.Value],
    ) -> onnx_ir.Value:
        facts, writer, prefix = self._facts, self._writer, f"layers.{layer}"
        past = [
            writer.input(
                f"past_key_values.{layer}.{part}",
                onnx_ir.DataType.FLOAT,
                [1, facts.kv_heads, "past", facts.head_dim],
            )
            for part in ("key", "value")
        ]
        normed = self._norm(f"{prefix}.attention_norm", hidden, f"model.layers.{layer}.input_layernorm.weight")
        queries = self._rotate(f"{prefix}.q_rotated", self._linear(layer, "q_proj", normed), cos, sin, facts.heads)
        keys = self._rotate(f"{prefix}.k_rotated", self._linear(layer, "k_proj", normed), cos, sin, facts.kv_heads)
        values = self._linear(layer, "v_proj", normed)
        present_shape: list[Dim] = [1, facts.kv_heads, "past + n", facts.head_dim]
        attended, present_key, present_value = writer.node(
            "Attention",
            [queries, keys, values, None, *past],
            [
                (f"{prefix}.attention", [1, "n", facts.heads * facts.head_dim]),
                (f"present.{layer}.key", present_shape),
                (f"present.{layer}.value", present_shape),
            ],
            is_causal=1,
            q_num_heads=facts.heads,
            kv_num_heads=facts.kv_heads,
        )
        present += [present_key, present_value]
        return self._residual(f"{prefix}.attention_residual", hidden, self._linear(layer, "o_proj", attended))

    def _mlp_block(self, layer: int, hidden: onnx_ir.Value) -> onnx_ir.Value:
        writer, prefix = self._writer, f"layers.{layer}"
        shape: list[Dim] = [1, "n", self._facts.intermediate]
        normed = self._norm(f"{prefix}.mlp_norm", hidden, f"model.layers.{layer}.post_attention_layernorm.weight")
        gate = self._linear(layer, "gate_proj", normed)
        up = self._linear(layer, "up_proj", normed)
        (sigmoid,) = writer.node("Sigmoid", [gate], [(f"{prefix}.gate_sigmoid", shape)])
        (silu,) = writer.node("Mul", [gate, sigmoid], [(f"{prefix}.gate_silu", shape)])
        (gated,) = writer.node("Mul", [silu, up], [(f"{prefix}.gated", shape)])
        return self._residual(f"{prefix}.mlp_residual", hidden, self._linear(layer, "down_proj", gated))

    def _linear(self, layer: int, linear: str, value: onnx_ir.Value) -> onnx_ir.Value:
        name = linear_name(layer, linear)
        output = f"layers.{layer}.{linear}"
        shape: list[Dim] = [1, "n", self._shapes[f"{name}.weight"][0]]
        weight = self._tensor(f"{name}.weight", transposed=True)
        if linear not in self._biases:
            return self._writer.node("MatMul", [value, weight], [(output, shape)])[0]
        (product,) = self._writer.node("MatMul", [value, weight], [(f"{output}.matmul", shape)])
        return self._writer.node("Add", [product, self._tensor(f"{name}.bias")], [(output, shape)])[0]

    def _norm(self, name: str, value: onnx_ir.Value, weight: str) -> onnx_ir.Value:
        return self._writer.node(
            "RMSNormalization",
            [value, self._tensor(weight)],
            [(name, [1, "n", self._facts.hidden])],
            axis=-1,
            epsilon=self._facts.norm_epsilon,
        )[0]

    def _rotate(
        self, name: str, value: onnx_ir.Value, cos: onnx_ir.Value, sin: onnx_ir.Value, heads: int
    ) -> onnx_ir.Value:
        return self._writer.node(
            "RotaryEmbedding",
            [value, cos, sin],
            [(name, [1, "n", heads * self._facts.head_dim])],
            num_heads=heads,
        )[0]

    def _residual(self, name: str, hidden: onnx_ir.Value, update: onnx_ir.Value) -> onnx_ir.Value:
        return self._writer.node("Add", [hidden, update], [(name, [1, "n", self._facts.hidden])])[0]

    def _tensor(self, name: str, *, transposed: bool = False) -> onnx_ir.Value:
        """An initializer in the checkpoint's orientation, or `transposed` to `[in, out]`."""
        weights, shape = self._weights, self._shapes[name]

        def read() -> onnx_ir.TensorProtocol:
            array = weights.read(name)
            return onnx_ir.Tensor(array.T if transposed else array, name=name)

        extents = shape[::-1] if transposed else shape
        return self._writer.initializer(
            onnx_ir.LazyTensor(read, onnx_ir.DataType.FLOAT, onnx_ir.Shape(extents), name=name)
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"
