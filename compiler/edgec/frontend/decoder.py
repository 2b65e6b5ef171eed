"""The one builder of decoder language models, in the convention of `edgec/ir/model.py`.

A family is data: a `DecoderSpec` (`spec.py`) and the layout of its checkpoints (`checkpoint.py`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir

from edgec.frontend.graph_writer import Dim, GraphWriter
from edgec.frontend.spec import DecoderSpec, LayerSpec, NormPlace, Rope
from edgec.frontend.tensors import (
    EMBEDDING,
    EXPERTS_DOWN,
    EXPERTS_GATE_UP,
    FINAL_NORM,
    LM_HEAD,
    POSITIONS,
    ROUTER,
    linear_name,
    norm_name,
    tensor_shapes,
)
from edgec.frontend.weights import WeightSource
from edgec.ir.weight_use import mark_grid

OPSET = 23
IR_VERSION = 11
_INT64, _FLOAT, _BOOL = onnx_ir.DataType.INT64, onnx_ir.DataType.FLOAT, onnx_ir.DataType.BOOL


def build_decoder(spec: DecoderSpec, weights: WeightSource, *, name: str) -> onnx_ir.Model:
    """The graph; `weights` is read only when an initializer is asked for its values."""
    writer = GraphWriter(OPSET)
    build = _Decoder(spec, weights, writer)
    graph = writer.graph(name, build.outputs())
    return onnx_ir.Model(graph, ir_version=IR_VERSION, producer_name="edgec")


class _Decoder:
    def __init__(self, spec: DecoderSpec, weights: WeightSource, writer: GraphWriter) -> None:
        self._spec = spec
        self._facts = spec.facts
        self._weights = weights
        self._writer = writer
        self._shapes = dict(tensor_shapes(spec))
        self._tables: dict[Rope, tuple[onnx_ir.Value, onnx_ir.Value]] = {}
        self._masks: dict[int, onnx_ir.Value] = {}

    def outputs(self) -> list[onnx_ir.Value]:
        facts, writer = self._facts, self._writer
        input_ids = writer.input("input_ids", _INT64, [1, "n"])
        self._position_ids = writer.input("position_ids", _INT64, [1, "n"])
        for rope in dict.fromkeys(layer.rope for layer in self._spec.layers if layer.rope is not None):
            self._tables[rope] = self._rotary_tables(rope)
        embedding = self._tensor(EMBEDDING)
        hidden = self._embedded(embedding, input_ids)
        present: list[onnx_ir.Value] = []
        for number, layer in enumerate(self._spec.layers):
            hidden = self._layer(number, layer, hidden, present)
        hidden = self._norm("final_norm", hidden, FINAL_NORM)
        if facts.tied_embedding:
            (head,) = writer.node(
                "Transpose", [embedding], [("lm_head", [facts.hidden, facts.vocabulary])]
            )  # without `perm` it reverses the axes
        else:
            head = self._tensor(LM_HEAD, transposed=True)
        return [self._logits(hidden, head), *present]

    def _embedded(self, embedding: onnx_ir.Value, input_ids: onnx_ir.Value) -> onnx_ir.Value:
        spec, writer = self._spec, self._writer
        shape: list[Dim] = [1, "n", self._facts.hidden]
        (hidden,) = writer.node("Gather", [embedding, input_ids], [("embedding", shape)], axis=0)
        if spec.embedding_scale != 1.0:
            scale = self._number("embedding.scale", spec.embedding_scale)
            (hidden,) = writer.node("Mul", [hidden, scale], [("embedding_scaled", shape)])
        if spec.positions is not None:
            table = self._tensor(POSITIONS)
            (learned,) = writer.node("Gather", [table, self._position_ids], [("positions", shape)], axis=0)
            (hidden,) = writer.node("Add", [hidden, learned], [("embedding_positioned", shape)])
        return hidden

    def _logits(self, hidden: onnx_ir.Value, head: onnx_ir.Value) -> onnx_ir.Value:
        writer, cap = self._writer, self._spec.logit_softcap
        shape: list[Dim] = [1, "n", self._facts.vocabulary]
        biased = "lm_head" in self._spec.biases
        steps = ["matmul", *["biased"] * biased, *["scaled", "tanh", "capped"] * (cap is not None)]
        name = iter([*(f"logits.{step}" for step in steps[:-1]), "logits"])
        (logits,) = writer.node("MatMul", [hidden, head], [(next(name), shape)])
        if biased:
            (logits,) = writer.node("Add", [logits, self._tensor("lm_head.bias")], [(next(name), shape)])
        if cap is not None:
            (logits,) = writer.node("Mul", [logits, self._number("logits.inverse", 1 / cap)], [(next(name), shape)])
            (logits,) = writer.node("Tanh", [logits], [(next(name), shape)])
            (logits,) = writer.node("Mul", [logits, self._number("logits.cap", cap)], [(next(name), shape)])
        return logits

    # Layers

    def _layer(
        self, number: int, layer: LayerSpec, hidden: onnx_ir.Value, present: list[onnx_ir.Value]
    ) -> onnx_ir.Value:
        spec = self._spec
        normed = self._layer_norm(number, "attention", hidden)
        update = self._attention(number, layer, normed, present)
        update = self._layer_norm(number, "attention_output", update)
        after = self._residual(f"layers.{number}.attention_residual", hidden, update)
        source = hidden if spec.parallel else after
        if "mlp" in spec.norms:
            source = self._layer_norm(number, "mlp", source)
        elif spec.parallel:
            source = normed
        update = self._experts(number, source) if layer.experts else self._mlp(number, source)
        update = self._layer_norm(number, "mlp_output", update)
        return self._residual(f"layers.{number}.mlp_residual", after, update)

    def _attention(
        self, number: int, layer: LayerSpec, normed: onnx_ir.Value, present: list[onnx_ir.Value]
    ) -> onnx_ir.Value:
        facts, spec, writer, prefix = self._facts, self._spec, self._writer, f"layers.{number}"
        past = [
            writer.input(f"past_key_values.{number}.{part}", _FLOAT, [1, facts.kv_heads, "past", facts.head_dim])
            for part in ("key", "value")
        ]
        queries, keys, values = (self._linear(number, f"{part}_proj", normed) for part in "qkv")
        if spec.qk_norm is not None:
            queries = self._qk_norm(number, "q", queries, facts.heads)
            keys = self._qk_norm(number, "k", keys, facts.kv_heads)
        if layer.rope is not None:
            queries = self._rotate(f"{prefix}.q_rotated", queries, layer.rope, facts.heads)
            keys = self._rotate(f"{prefix}.k_rotated", keys, layer.rope, facts.kv_heads)
        attributes: dict[str, Any] = {}
        if spec.attention_scale is not None:
            attributes["scale"] = float(spec.attention_scale)
        if spec.attention_softcap is not None:
            attributes["softcap"] = float(spec.attention_softcap)
        present_shape: list[Dim] = [1, facts.kv_heads, "past + n", facts.head_dim]
        attended, present_key, present_value = writer.node(
            "Attention",
            [queries, keys, values, None if layer.window is None else self._mask(layer.window), *past],
            [
                (f"{prefix}.attention", [1, "n", facts.heads * facts.head_dim]),
                (f"present.{number}.key", present_shape),
                (f"present.{number}.value", present_shape),
            ],
            is_causal=1,
            q_num_heads=facts.heads,
            kv_num_heads=facts.kv_heads,
            **attributes,
        )
        present += [present_key, present_value]
        attended = self._layer_norm(number, "attention_inner", attended)
        return self._linear(number, "o_proj", attended)

    def _mlp(self, number: int, source: onnx_ir.Value) -> onnx_ir.Value:
        writer, prefix, spec = self._writer, f"layers.{number}", self._spec
        shape: list[Dim] = [1, "n", self._facts.intermediate]
        if not self._facts.gated_mlp:
            inner = self._activation(f"{prefix}.up", self._linear(number, "up_proj", source), spec.activation, shape)
            return self._linear(number, "down_proj", self._layer_norm(number, "mlp_inner", inner))
        gate = self._linear(number, "gate_proj", source)
        up = self._linear(number, "up_proj", source)
        gate = self._activation(f"{prefix}.gate", gate, spec.activation, shape)
        (gated,) = writer.node("Mul", [gate, up], [(f"{prefix}.gated", shape)])
        return self._linear(number, "down_proj", self._layer_norm(number, "mlp_inner", gated))

    def _experts(self, number: int, source: onnx_ir.Value) -> onnx_ir.Value:
        """Every expert computes, and the weights of those that were not chosen are zero."""
        facts, writer, prefix = self._facts, self._writer, f"layers.{number}.experts"
        weights = self._routed(number, source)
        (column,) = writer.node(
            "Transpose", [weights], [(f"{prefix}.weights", [facts.experts, "n", 1])], perm=[2, 1, 0]
        )
        shape: list[Dim] = [facts.experts, "n", facts.expert_intermediate]
        gate_up = self._tensor(f"model.layers.{number}.{EXPERTS_GATE_UP}.weight", transposed=True)
        (joined,) = writer.node("MatMul", [source, gate_up], [(f"{prefix}.gate_up", [*shape[:2], 2 * shape[2]])])
        sizes = writer.constant(f"{prefix}.sizes", np.array([shape[2]] * 2, np.int64))
        gate, up = writer.node("Split", [joined, sizes], [(f"{prefix}.gate", shape), (f"{prefix}.up", shape)], axis=-1)
        active = self._activation(f"{prefix}.gate", gate, self._spec.activation, shape)
        (gated,) = writer.node("Mul", [active, up], [(f"{prefix}.gated", shape)])
        down = self._tensor(f"model.layers.{number}.{EXPERTS_DOWN}.weight", transposed=True)
        shape = [facts.experts, "n", facts.hidden]
        (output,) = writer.node("MatMul", [gated, down], [(f"{prefix}.down", shape)])
        (weighted,) = writer.node("Mul", [output, column], [(f"{prefix}.weighted", shape)])
        axes = writer.constant(f"{prefix}.axes", np.array([0], np.int64))
        return writer.node("ReduceSum", [weighted, axes], [(f"{prefix}.sum", [1, "n", facts.hidden])], keepdims=1)[0]

    def _routed(self, number: int, source: onnx_ir.Value) -> onnx_ir.Value:
        """The weight of each expert `[1, n, experts]`: the probabilities of the most likely ones, or their shares."""
        facts, writer, prefix = self._facts, self._writer, f"layers.{number}.router"
        every: list[Dim] = [1, "n", facts.experts]
        chosen: list[Dim] = [1, "n", facts.experts_per_token]
        router = self._tensor(f"model.layers.{number}.{ROUTER}.weight", transposed=True)
        (scores,) = writer.node("MatMul", [source, router], [(f"{prefix}.scores", every)])
        (likely,) = writer.node("Softmax", [scores], [(f"{prefix}.probabilities", every)], axis=-1)
        count = writer.constant(f"{prefix}.count", np.array([facts.experts_per_token], np.int64))
        best, places = writer.node(
            "TopK", [likely, count], [(f"{prefix}.best", chosen), (f"{prefix}.places", chosen)], axis=-1
        )
        places.dtype = _INT64
        if self._spec.normalized_experts:
            axes = writer.constant(f"{prefix}.axes", np.array([-1], np.int64))
            (total,) = writer.node("ReduceSum", [best, axes], [(f"{prefix}.total", [1, "n", 1])], keepdims=1)
            (best,) = writer.node("Div", [best, total], [(f"{prefix}.shares", chosen)])
        (nothing,) = writer.node("Mul", [likely, self._number(f"{prefix}.zero", 0.0)], [(f"{prefix}.nothing", every)])
        return writer.node("ScatterElements", [nothing, places, best], [(f"{prefix}.weights", every)], axis=-1)[0]

    # Parts

    def _activation(self, prefix: str, value: onnx_ir.Value, kind: str, shape: list[Dim]) -> onnx_ir.Value:
        writer = self._writer
        match kind:
            case "silu":
                (sigmoid,) = writer.node("Sigmoid", [value], [(f"{prefix}_sigmoid", shape)])
                return writer.node("Mul", [value, sigmoid], [(f"{prefix}_silu", shape)])[0]
            case "gelu" | "gelu_tanh":
                approximate = "tanh" if kind == "gelu_tanh" else "none"
                return writer.node("Gelu", [value], [(f"{prefix}_{kind}", shape)], approximate=approximate)[0]
            case _:
                (positive,) = writer.node("Relu", [value], [(f"{prefix}_relu", shape)])
                if kind == "relu":
                    return positive
                return writer.node("Mul", [positive, positive], [(f"{prefix}_{kind}", shape)])[0]

    def _mask(self, window: int) -> onnx_ir.Value:
        """Bool `[1, 1, n, past + n]`: keys that are not too old. Attention itself hides those to come."""
        if window in self._masks:
            return self._masks[window]
        writer, positions, prefix = self._writer, self._position_ids, f"window.{window}"

        def integers(name: str, *values: int) -> onnx_ir.Value:
            return writer.constant(
                f"{prefix}.{name}", np.array(values, np.int64).reshape(() if len(values) < 2 else -1)
            )

        (last,) = writer.node("ReduceMax", [positions], [(f"{prefix}.last", [])], dtype=_INT64, keepdims=0)
        (count,) = writer.node("Add", [last, integers("one", 1)], [(f"{prefix}.count", [])], dtype=_INT64)
        (keys,) = writer.node(
            "Range",
            [integers("start", 0), count, integers("step", 1)],
            [(f"{prefix}.keys", ["past + n"])],
            dtype=_INT64,
        )
        column: list[Dim] = [1, 1, "n", 1]
        (queries,) = writer.node(
            "Unsqueeze", [positions, integers("axes", 1, 3)], [(f"{prefix}.queries", column)], dtype=_INT64
        )
        (hidden,) = writer.node(
            "Sub", [queries, integers("size", window)], [(f"{prefix}.hidden", column)], dtype=_INT64
        )
        (mask,) = writer.node("Greater", [keys, hidden], [(f"{prefix}.mask", [1, 1, "n", "past + n"])], dtype=_BOOL)
        return self._masks.setdefault(window, mask)

    def _rotary_tables(self, rope: Rope) -> tuple[onnx_ir.Value, onnx_ir.Value]:
        """cos and sin `[1, n, rotated features / 2]` of the positions."""
        writer, half = self._writer, len(rope.inv_freq)
        prefix = f"rope.{len(self._tables)}" if self._tables else "rope"
        frequencies = writer.constant(f"{prefix}.inv_freq", np.array(rope.inv_freq, dtype=np.float32))
        axes = writer.constant(f"{prefix}.axes", np.array([2], dtype=np.int64))
        (positions,) = writer.node("Cast", [self._position_ids], [(f"{prefix}.positions", [1, "n"])], to=int(_FLOAT))
        (column,) = writer.node("Unsqueeze", [positions, axes], [(f"{prefix}.column", [1, "n", 1])])
        shape: list[Dim] = [1, "n", half]
        (angles,) = writer.node("Mul", [column, frequencies], [(f"{prefix}.angles", shape)])
        (cos,) = writer.node("Cos", [angles], [(f"{prefix}.cos", shape)])
        (sin,) = writer.node("Sin", [angles], [(f"{prefix}.sin", shape)])
        if rope.scale != 1.0:
            scale = self._number(f"{prefix}.scale", rope.scale)
            (cos,) = writer.node("Mul", [cos, scale], [(f"{prefix}.cos_scaled", shape)])
            (sin,) = writer.node("Mul", [sin, scale], [(f"{prefix}.sin_scaled", shape)])
        return cos, sin

    def _rotate(self, name: str, value: onnx_ir.Value, rope: Rope, heads: int) -> onnx_ir.Value:
        rotated, dim = 2 * len(rope.inv_freq), self._facts.head_dim
        partial: dict[str, Any] = {} if rotated == dim else {"rotary_embedding_dim": rotated}
        return self._writer.node(
            "RotaryEmbedding",
            [value, *self._tables[rope]],
            [(name, [1, "n", heads * dim])],
            num_heads=heads,
            **partial,
        )[0]

    def _qk_norm(self, number: int, part: str, value: onnx_ir.Value, heads: int) -> onnx_ir.Value:
        writer, dim, name = self._writer, self._facts.head_dim, f"layers.{number}.{part}_norm"
        weight = f"model.layers.{number}.self_attn.{part}_norm"
        if self._spec.qk_norm == "whole":
            return self._norm(name, value, weight)

        def reshape(value: onnx_ir.Value, name: str, *shape: int) -> onnx_ir.Value:
            target = writer.constant(f"{name}.shape", np.array([0, 0, *shape], np.int64))
            return writer.node("Reshape", [value, target], [(name, [1, "n", *shape])])[0]

        normed = self._norm(f"{name}.normed", reshape(value, f"{name}.heads", heads, dim), weight)
        return reshape(normed, name, heads * dim)

    def _linear(self, layer: int, linear: str, value: onnx_ir.Value) -> onnx_ir.Value:
        name = linear_name(layer, linear)
        output = f"layers.{layer}.{linear}"
        shape: list[Dim] = [1, "n", self._shapes[f"{name}.weight"][0]]
        weight = self._tensor(f"{name}.weight", transposed=True)
        if linear not in self._spec.biases:
            return self._writer.node("MatMul", [value, weight], [(output, shape)])[0]
        (product,) = self._writer.node("MatMul", [value, weight], [(f"{output}.matmul", shape)])
        return self._writer.node("Add", [product, self._tensor(f"{name}.bias")], [(output, shape)])[0]

    def _layer_norm(self, number: int, place: NormPlace, value: onnx_ir.Value) -> onnx_ir.Value:
        """`value` itself where the layer has no norm at `place`."""
        if place not in self._spec.norms:
            return value
        return self._norm(f"layers.{number}.{place}_norm", value, norm_name(number, place))

    def _norm(self, name: str, value: onnx_ir.Value, weight: str) -> onnx_ir.Value:
        """Over the last axis."""
        spec = self._spec
        inputs = [value, self._tensor(f"{weight}.weight")]
        if spec.norm_bias and f"{weight}.bias" in self._shapes:
            inputs.append(self._tensor(f"{weight}.bias"))
        assert value.shape is not None
        return self._writer.node(
            "RMSNormalization" if spec.norm == "rms" else "LayerNormalization",
            inputs,
            [(name, [dim if isinstance(dim, int) else str(dim.value) for dim in value.shape])],
            axis=-1,
            epsilon=spec.norm_epsilon,
        )[0]

    def _residual(self, name: str, hidden: onnx_ir.Value, update: onnx_ir.Value) -> onnx_ir.Value:
        return self._writer.node("Add", [hidden, update], [(name, [1, "n", self._facts.hidden])])[0]

    def _number(self, name: str, value: float) -> onnx_ir.Value:
        assert math.isfinite(value)
        return self._writer.constant(name, np.array(value, dtype=np.float32))

    def _tensor(self, name: str, *, transposed: bool = False) -> onnx_ir.Value:
        """An initializer in the checkpoint's orientation, or `transposed` to `[..., in, out]`."""
        weights, shape = self._weights, self._shapes[name]

        def read() -> onnx_ir.TensorProtocol:
            array = weights.read(name)
            return onnx_ir.Tensor(array.swapaxes(-1, -2) if transposed else array, name=name)

        extents = (*shape[:-2], shape[-1], shape[-2]) if transposed else shape
        value = self._writer.initializer(
            onnx_ir.LazyTensor(read, onnx_ir.DataType.FLOAT, onnx_ir.Shape(extents), name=name)
        )
        mark_grid(value, weights.grid_bits(name))
        return value


__all__ = ["IR_VERSION", "OPSET", "build_decoder"]
