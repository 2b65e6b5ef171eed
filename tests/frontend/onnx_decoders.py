"""Small decoders as ONNX graphs of onnxruntime's own operators, in the forms of onnxruntime-genai and onnx-community,
with random weights; names of initializers say nothing. onnxruntime is the judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper

HIDDEN, INNER, HEADS, KV, DIM, LAYERS, VOCABULARY, CONTEXT, THETA = 64, 96, 4, 2, 16, 2, 120, 96, 500.0
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV,
    "num_hidden_layers": LAYERS,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
    "rope_theta": THETA,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}


class Contrib:
    """A graph of GroupQueryAttention with rotation, SkipSimplifiedLayerNormalization and, with `bits`, MatMulNBits and
    GatherBlockQuantized. `packed` joins queries, keys and values; `attention` are further attributes."""

    def __init__(
        self,
        *,
        bits: int | None = None,
        packed: bool = False,
        dtype: Any = np.float32,
        theta: float = THETA,
        attention: dict[str, Any] | None = None,
        sink: bool = False,
    ) -> None:
        self.random = np.random.default_rng(7)
        self.bits, self.packed, self.dtype = bits, packed, dtype
        self.attention, self.sink = attention or {}, sink
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        angles = np.arange(CONTEXT)[:, None] * theta ** (-np.arange(0, DIM, 2, dtype=np.float32) / DIM)
        self.cos, self.sin = (self.weight(f(angles).astype(dtype)) for f in (np.cos, np.sin))

    def weight(self, array: npt.NDArray[Any]) -> str:
        self.weights.append(onnx.numpy_helper.from_array(array, f"w{len(self.weights)}"))
        return self.weights[-1].name

    def normal(self, *shape: int, scale: float = 1.0, mean: float = 0.0) -> npt.NDArray[Any]:
        return (mean + scale * self.random.standard_normal(shape)).astype(self.dtype)

    def node(self, op: str, *inputs: str, domain: str = "com.microsoft", **attributes: Any) -> str:
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], f"n{len(self.nodes)}", domain=domain, **attributes))
        return output

    def linear(self, source: str, rows: int, columns: int) -> str:
        if self.bits is None:
            matrix = self.weight(self.normal(columns, rows, scale=columns**-0.5))
            return self.node("MatMul", source, matrix, domain="")
        return self.node(
            "MatMulNBits", source, *self.codes(rows, columns),
            K=columns, N=rows, bits=self.bits, block_size=32, accuracy_level=4,
        )  # fmt: skip

    def codes(self, rows: int, columns: int) -> tuple[str, str]:
        assert self.bits is not None
        blocks = columns // 32
        packed = self.random.integers(0, 256, (rows, blocks, 4 * self.bits), np.uint8)
        scales = (0.5 + self.random.random((rows, blocks))) * columns**-0.5 / (1 << (self.bits - 2))
        return self.weight(packed), self.weight(scales.astype(self.dtype))

    def norm_weight(self) -> str:
        return self.weight(self.normal(HIDDEN, scale=0.2, mean=1.0))

    def table(self) -> str:
        if self.bits is None:
            self.embedding = self.weight(self.normal(VOCABULARY, HIDDEN))
            return self.node("Gather", self.embedding, "input_ids", domain="")
        packed, scales = self.codes(VOCABULARY, HIDDEN)
        shape = self.weight(np.array([VOCABULARY, HIDDEN * self.bits // 8], np.int64))
        rows = self.node("Reshape", packed, shape, domain="")
        self.head = packed, scales
        return self.node("GatherBlockQuantized", rows, "input_ids", scales, bits=self.bits, block_size=32)

    def model(self) -> onnx.ModelProto:
        one = self.weight(np.array([1], np.int64))
        count = self.node("ReduceSum", "attention_mask", one, domain="", keepdims=0)
        last = self.node("Cast", self.node("Sub", count, one, domain=""), domain="", to=TensorProto.INT32)
        shape = self.node("Shape", "attention_mask", domain="")
        index = self.weight(np.array(1, np.int64))
        total = self.node("Cast", self.node("Gather", shape, index, domain=""), domain="", to=TensorProto.INT32)
        hidden = self.table()
        normed = self.node(
            "SimplifiedLayerNormalization", hidden, self.norm_weight(), domain="", epsilon=1e-5, axis=-1, stash_type=1
        )
        for layer in range(LAYERS):
            widths = [HEADS * DIM, KV * DIM, KV * DIM]
            if self.packed:
                joined = [self.linear(normed, sum(widths), HIDDEN), "", ""]
            else:
                joined = [self.linear(normed, width, HIDDEN) for width in widths]
            past = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
            sink = ["", "", self.weight(self.normal(HEADS))] if self.sink else []
            attributes = {
                "num_heads": HEADS, "kv_num_heads": KV, "do_rotary": 1, "scale": DIM**-0.5, "local_window_size": -1,
                **self.attention,
            }  # fmt: skip
            attended = self.node(
                "GroupQueryAttention", *joined, *past, last, total, self.cos, self.sin, *sink, **attributes
            )
            self.nodes[-1].output.extend(f"present.{layer}.{part}" for part in ("key", "value"))
            hidden, normed = self.skip(hidden, self.linear(attended, HIDDEN, HEADS * DIM))
            up = self.linear(normed, INNER, HIDDEN)  # before the gate
            gate = self.linear(normed, INNER, HIDDEN)
            gate = self.node("Mul", gate, self.node("Sigmoid", gate, domain=""), domain="")
            inner = self.node("Mul", gate, up, domain="")
            hidden, normed = self.skip(hidden, self.linear(inner, HIDDEN, INNER))
        if self.bits is None:
            turned = self.node("Transpose", self.embedding, domain="", perm=[1, 0])
            self.node("MatMul", normed, turned, domain="")
        else:
            self.node("MatMulNBits", normed, *self.head, K=HIDDEN, N=VOCABULARY, bits=self.bits, block_size=32)
        self.nodes[-1].output[0] = "logits"
        return self.closed()

    def skip(self, hidden: str, update: str) -> tuple[str, str]:
        normed = self.node("SkipSimplifiedLayerNormalization", hidden, update, self.norm_weight(), epsilon=1e-5)
        self.nodes[-1].output.extend(["", "", f"{normed}.sum"])
        return f"{normed}.sum", normed

    def closed(self) -> onnx.ModelProto:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        value = helper.make_tensor_value_info
        inputs = [value(name, TensorProto.INT64, [1, name]) for name in ("input_ids", "attention_mask")]
        outputs = [value("logits", kind, [1, "n", VOCABULARY])]
        for layer in range(LAYERS):
            for part in ("key", "value"):
                inputs.append(value(f"past_key_values.{layer}.{part}", kind, [1, KV, "past", DIM]))
                outputs.append(value(f"present.{layer}.{part}", kind, [1, KV, "total", DIM]))
        graph = helper.make_graph(self.nodes, "g", inputs, outputs, self.weights)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def write_folder(folder: Path, files: dict[str, Contrib], **fields: Any) -> Path:
    """A model folder with graphs under these names, and `CONFIG` with other `fields`."""
    for name, contrib in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        onnx.save(contrib.model(), folder / name)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **fields}))
    return folder


def graph_logits(path: Path, ids: list[int], *, prefill: int) -> npt.NDArray[np.float32]:
    """Of onnxruntime: a prefill and single steps; products of quantized matrices in float."""
    proto = onnx.load(path)
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = {entry.name: entry for entry in session.get_inputs()}
    floats = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    cache = {
        name: np.zeros((1, entry.shape[1], 0, entry.shape[3]), floats[entry.type])
        for name, entry in inputs.items() if name.startswith("past")
    }  # fmt: skip
    names = [entry.name for entry in session.get_outputs()]
    rows, position = [], 0
    for part in (ids[:prefill], *([token] for token in ids[prefill:])):
        total = position + len(part)
        plain = {
            "input_ids": np.array([part]), "attention_mask": np.ones((1, total), np.int64),
            "position_ids": np.arange(position, total)[None],
        }  # fmt: skip
        found = dict(
            zip(names, session.run(None, {**cache, **{k: v for k, v in plain.items() if k in inputs}}), strict=True)
        )
        rows.append(found["logits"][0].astype(np.float32))
        cache = {name: found[name.replace("past_key_values", "present")] for name in cache}
        position = total
    return np.concatenate(rows)
