"""Turn a Q4_0 GGUF model into ONNX with the operators that onnxruntime-genai's model builder chooses.

Usage: make_onnx.py MODEL.gguf OUT.onnx. MatMulNBits has 4 bits, blocks of 32 and accuracy level 4 (activations in 8
bits), with exactly the GGUF's values; the output matrix is requantized to that from 8 bits. Only the last position's
logits are computed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader, ReaderTensor
from gguf.quants import dequantize, quantize
from onnx import TensorProto, helper

from edgec.whole_file import whole_file

BLOCK = 32
CONTRIB = "com.microsoft"
INTERLEAVED = {"llama": 1, "qwen2": 0}  # whether rows of q and k lie in pairs
LONGEST = 4096  # positions that the rotary tables have at most


class Builder:
    """Collects nodes and weights; names of values are the names of the nodes that make them."""

    def __init__(self, reader: GGUFReader) -> None:
        self.fields = {
            field.name: field.contents() for field in reader.fields.values() if "tokenizer" not in field.name
        }
        self.architecture = str(self.fields["general.architecture"])
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def fact(self, name: str) -> Any:
        return self.fields[f"{self.architecture}.{name}"]

    def constant(self, name: str, array: npt.NDArray[Any]) -> str:
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        self.weights.append(helper.make_tensor(name, kind, array.shape, array.tobytes(), raw=True))
        return name

    def vector(self, *names: str) -> str:
        return self.constant(
            names[0], np.concatenate([np.asarray(self.tensors[name].data, np.float32) for name in names])
        )

    def node(
        self,
        operator: str,
        inputs: list[str],
        name: str,
        domain: str = "",
        others: tuple[str, ...] = (),
        **attributes: Any,
    ) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [name, *others], name, domain=domain, **attributes))
        return name

    def linear(self, value: str, name: str, *matrices: str) -> str:
        """`value` times one or several matrices, whose results lie side by side."""
        codes, scales = zip(*(blocks(self.tensors[f"{matrix}.weight"]) for matrix in matrices), strict=True)
        weights = [
            self.constant(f"{name}.codes", np.concatenate(codes)),
            self.constant(f"{name}.scales", np.concatenate(scales).ravel()),
        ]
        rows, columns = sum(map(len, codes)), codes[0].shape[1] * BLOCK
        sizes = {"N": rows, "K": columns, "bits": 4, "block_size": BLOCK, "accuracy_level": 4}
        product = self.node("MatMulNBits", [value, *weights], name, CONTRIB, **sizes)
        if f"{matrices[0]}.bias" not in self.tensors:
            return product
        return self.node("Add", [product, self.vector(*(f"{matrix}.bias" for matrix in matrices))], f"{name}.biased")

    def normed(self, value: str, update: str, name: str) -> tuple[str, str]:
        """The norm of `value + update`, and that sum."""
        sums = ("", "", f"{name}.sum")
        inputs = [value, update, self.vector(f"{name}.weight")]
        epsilon = self.fact("attention.layer_norm_rms_epsilon")
        return self.node("SkipSimplifiedLayerNormalization", inputs, name, CONTRIB, sums, epsilon=epsilon), sums[-1]


def blocks(tensor: ReaderTensor) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Codes `[rows, blocks, 16]`, two neighbours to a byte and 8 for zero, and scales `[rows, blocks]`."""
    data = (
        tensor.data
        if tensor.tensor_type == Type.Q4_0
        else quantize(dequantize(tensor.data, tensor.tensor_type), Type.Q4_0)
    )
    stored = data.reshape(len(data), -1, 2 + BLOCK // 2)
    scales = np.ascontiguousarray(stored[..., :2]).view(np.float16)[..., 0].astype(np.float32)
    halves = stored[..., 2:]  # value i is in the low half of byte i, value 16 + i in the high one
    codes = np.concatenate([halves & 15, halves >> 4], axis=-1)
    return codes[..., 0::2] | codes[..., 1::2] << 4, scales


def rotary_tables(build: Builder, size: int, positions: int) -> list[str]:
    frequencies = build.fact("rope.freq_base") ** (-np.arange(0, size, 2) / size)
    if "rope_freqs.weight" in build.tensors:
        frequencies = frequencies / build.tensors["rope_freqs.weight"].data
    angles = np.outer(np.arange(positions), frequencies)
    return [
        build.constant(name, function(angles).astype(np.float32))
        for name, function in (("cos", np.cos), ("sin", np.sin))
    ]


def convert(source: Path, target: Path) -> None:
    build = Builder(GGUFReader(source))
    hidden, heads, layers = (build.fact(name) for name in ("embedding_length", "attention.head_count", "block_count"))
    kv_heads, size = build.fact("attention.head_count_kv"), hidden // heads
    tables = rotary_tables(build, size, min(LONGEST, build.fact("context_length")))
    embedding = build.tensors["token_embd.weight"]
    # Half the size of float32, and more exact than the codes that it is made from.
    table = build.constant("embedding.table", dequantize(embedding.data, embedding.tensor_type).astype(np.float16))
    value = build.node(
        "Cast", [build.node("Gather", [table, "input_ids"], "embedding")], "embedding.float", to=TensorProto.FLOAT
    )
    update = build.node("Sub", [value, value], "nothing")
    lengths, cache, outputs = ["seqlens_k", "total_sequence_length"], [], []
    for layer in range(layers):
        block = f"blk.{layer}"
        normed, value = build.normed(value, update, f"{block}.attn_norm")
        qkv = build.linear(normed, f"{block}.qkv", f"{block}.attn_q", f"{block}.attn_k", f"{block}.attn_v")
        past, present = ([f"{when}.{layer}.{part}" for part in ("key", "value")] for when in ("past", "present"))
        cache += past
        outputs += present
        rotary = {"do_rotary": 1, "rotary_interleaved": INTERLEAVED[build.architecture]}
        inputs = [qkv, "", "", *past, *lengths, *tables]
        attended = build.node(
            "GroupQueryAttention",
            inputs,
            f"{block}.attention",
            CONTRIB,
            tuple(present),
            num_heads=heads,
            kv_num_heads=kv_heads,
            **rotary,
        )
        update = build.linear(attended, f"{block}.out", f"{block}.attn_output")
        normed, value = build.normed(value, update, f"{block}.ffn_norm")
        gate = build.linear(normed, f"{block}.gate", f"{block}.ffn_gate")
        silu = build.node("Mul", [gate, build.node("Sigmoid", [gate], f"{block}.sigmoid")], f"{block}.silu")
        gated = build.node("Mul", [silu, build.linear(normed, f"{block}.up", f"{block}.ffn_up")], f"{block}.gated")
        update = build.linear(gated, f"{block}.down", f"{block}.ffn_down")
    normed, _ = build.normed(value, update, "output_norm")
    last = build.node("Gather", [normed, build.constant("last.index", np.array([-1]))], "last", axis=1)
    build.linear(last, "logits", "output" if "output.weight" in build.tensors else "token_embd")
    save(build, target, cache, outputs, [1, kv_heads, "past", size], len(embedding.data))


def save(
    build: Builder, target: Path, cache: list[str], outputs: list[str], extents: list[Any], vocabulary: int
) -> None:
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "n"]),
        helper.make_tensor_value_info("seqlens_k", TensorProto.INT32, [1]),
        helper.make_tensor_value_info("total_sequence_length", TensorProto.INT32, []),
        *(helper.make_tensor_value_info(name, TensorProto.FLOAT, extents) for name in cache),
    ]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1, vocabulary])
    presents = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [*extents[:2], "total", extents[3]]) for name in outputs
    ]
    graph = helper.make_graph(build.nodes, "decoder", inputs, [logits, *presents], build.weights)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(CONTRIB, 1)]
    with whole_file(target) as partial:
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), partial)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
