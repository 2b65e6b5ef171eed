"""A small post-norm encoder as the passes leave it: joined projections, Attention, Gelu."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh

from edgec.ir.model import ModelIR
from edgec.passes import simplify
from tests.compress.graphs import FLOAT, INT64, model_ir

BOOL = onnx.TensorProto.BOOL
HIDDEN, HEADS, FEATURES, LAYERS, TOKENS = 64, 4, 96, 3, 50


def encoder(seed: int = 5, *, masked: bool = False) -> ModelIR:
    """Word table, then per layer attention and MLP, each followed by its sum and its norm; `masked` adds an input."""
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}
    nodes = []

    def weight(name: str, *shape: int, width: float = 0.15, center: float = 0.0) -> str:
        weights[name] = (center + width * rng.standard_normal(shape)).astype(np.float32)
        return name

    def linear(source: str, name: str, inputs: int, outputs: int) -> str:
        nodes.append(oh.make_node("MatMul", [source, weight(f"{name}.weight", inputs, outputs)], [f"{name}.product"]))
        nodes.append(oh.make_node("Add", [f"{name}.product", weight(f"{name}.bias", outputs)], [f"{name}.output"]))
        return f"{name}.output"

    def norm(source: str, name: str) -> str:
        parameters = [weight(f"{name}.weight", HIDDEN, center=1.0), weight(f"{name}.bias", HIDDEN)]
        nodes.append(oh.make_node("LayerNormalization", [source, *parameters], [f"{name}.output"], axis=-1))
        return f"{name}.output"

    nodes.append(oh.make_node("Gather", [weight("words", TOKENS, HIDDEN, width=1.0), "input_ids"], ["looked_up"]))
    stream = norm("looked_up", "first_norm")
    weights["sizes"] = np.array([HIDDEN] * 3, np.int64)
    for layer in range(LAYERS):
        name = f"layers.{layer}"
        joined = linear(stream, f"{name}.qkv", HIDDEN, 3 * HIDDEN)
        parts = [f"{name}.{part}" for part in "qkv"]
        nodes.append(oh.make_node("Split", [joined, "sizes"], parts, axis=-1))
        operands = [*parts, "mask"] if masked else parts
        nodes.append(oh.make_node("Attention", operands, [f"{name}.attended"], q_num_heads=HEADS, kv_num_heads=HEADS))
        update = linear(f"{name}.attended", f"{name}.out", HIDDEN, HIDDEN)
        nodes.append(oh.make_node("Add", [stream, update], [f"{name}.sum"]))
        stream = norm(f"{name}.sum", f"{name}.attention_norm")
        nodes.append(oh.make_node("Gelu", [linear(stream, f"{name}.up", HIDDEN, FEATURES)], [f"{name}.active"]))
        update = linear(f"{name}.active", f"{name}.down", FEATURES, HIDDEN)
        nodes.append(oh.make_node("Add", [stream, update], [f"{name}.mlp_sum"]))
        stream = norm(f"{name}.mlp_sum", "last" if layer == LAYERS - 1 else f"{name}.mlp_norm")
    inputs = [oh.make_tensor_value_info("input_ids", INT64, ["batch", "sequence"])]
    if masked:
        inputs.append(oh.make_tensor_value_info("attention_mask", INT64, ["batch", "sequence"]))
        weights["mask_axes"] = np.array([1, 2], np.int64)
        nodes[:0] = [
            oh.make_node("Cast", ["attention_mask"], ["mask_bits"], to=BOOL),
            oh.make_node("Unsqueeze", ["mask_bits", "mask_axes"], ["mask"]),
        ]
    outputs = [oh.make_tensor_value_info(stream, FLOAT, ["batch", "sequence", HIDDEN])]
    return simplify(model_ir(nodes, inputs, outputs, weights))


def samples(count: int = 3) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(8)
    return [{"input_ids": rng.integers(0, TOKENS, (1, length))} for length in range(9, 9 + count)]
