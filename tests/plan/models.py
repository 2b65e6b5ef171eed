"""Models of any size without a single weight: whoever reads a tensor fails."""

from __future__ import annotations

import onnx_ir as ir

from edgec.ir.model import DecoderFacts, ModelFacts, ModelIR, TokenizerAssets


def _unreadable() -> ir.TensorProtocol:
    raise AssertionError("the planner reads a tensor")


def initializer(name: str, *shape: int, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
    tensor = ir.LazyTensor(_unreadable, dtype=dtype, shape=ir.Shape(shape), name=name)
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=tensor)


def input_value(name: str, *shape: int | str, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))


class Builder:
    """Nodes one after the other; shapes are given by hand where a test needs them."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []

    def weight(self, name: str, *shape: int) -> ir.Value:
        value = initializer(name, *shape)
        self.initializers.append(value)
        return value

    def node(
        self, op: str, *inputs: ir.Value, shape: tuple[int | str, ...] | None = None, **attributes: object
    ) -> ir.Value:
        made = ir.node(op, list(inputs), attributes=attributes)
        output = made.outputs[0]
        output.name = f"{op}_{len(self.nodes)}"
        if shape is not None:
            output.shape, output.dtype = ir.Shape(shape), ir.DataType.FLOAT
        self.nodes.append(made)
        return output

    def model(self, inputs: list[ir.Value], outputs: list[ir.Value]) -> ir.Model:
        graph = ir.Graph(
            inputs, outputs, nodes=self.nodes, initializers=self.initializers, opset_imports={"": 23}, name="g"
        )
        return ir.Model(graph, ir_version=10)


def decoder(
    *,
    layers: int = 30,
    hidden: int = 576,
    intermediate: int = 1536,
    heads: int = 9,
    kv_heads: int = 3,
    head_dim: int = 64,
    vocabulary: int = 49152,
    context_length: int = 8192,
    tied: bool = True,
    name: str = "SmolLM2-135M",
) -> ModelIR:
    """A decoder after simplification: joined qkv and gate-up. The default has SmolLM2-135M's shapes."""
    b = Builder()
    ids = input_value("input_ids", 1, "n", dtype=ir.DataType.INT64)
    embed = b.weight("embed", vocabulary, hidden)
    x = b.node("Gather", embed, ids)
    for layer in range(layers):
        normed = b.node("RMSNormalization", x, b.weight(f"layers.{layer}.norm", hidden))
        width = (heads + 2 * kv_heads) * head_dim
        qkv = b.node("MatMul", normed, b.weight(f"layers.{layer}.qkv", hidden, width))
        o = b.node("MatMul", qkv, b.weight(f"layers.{layer}.o", heads * head_dim, hidden))
        gate_up = b.node("MatMul", o, b.weight(f"layers.{layer}.gate_up", hidden, 2 * intermediate))
        x = b.node("MatMul", gate_up, b.weight(f"layers.{layer}.down", intermediate, hidden))
    normed = b.node("RMSNormalization", x, b.weight("norm", hidden))
    head = b.node("Transpose", embed, perm=[1, 0]) if tied else b.weight("lm_head", hidden, vocabulary)
    logits = b.node("MatMul", normed, head)
    parameters = sum(value.const_value.size for value in b.initializers if value.const_value is not None)
    facts = DecoderFacts(
        layers=layers,
        hidden=hidden,
        intermediate=intermediate,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=vocabulary,
        context_length=context_length,
        tied_embedding=tied,
    )
    tokenizer = TokenizerAssets(b"{}" * 1000, (0,))
    source = ModelFacts(name, "llama", "hf", "0" * 64, parameters)
    return ModelIR(b.model([ids], [logits]), "decoder", source, facts, tokenizer)


def llama_1b(kv_heads: int = 8) -> ModelIR:
    """Llama-3.2-1B's shapes."""
    return decoder(
        layers=16,
        hidden=2048,
        intermediate=8192,
        heads=32,
        kv_heads=kv_heads,
        vocabulary=128256,
        context_length=131072,
        name="Llama-3.2-1B",
    )


def encoder() -> ModelIR:
    """MiniLM's shapes: a large word table, small ones, linears with biases."""
    b = Builder()
    ids = input_value("input_ids", "batch_size", "sequence_length", dtype=ir.DataType.INT64)
    mask = input_value("attention_mask", "batch_size", "sequence_length", dtype=ir.DataType.INT64)
    shape = ("batch_size", "sequence_length", 384)
    x = b.node("Gather", b.weight("word", 30522, 384), ids, shape=shape)
    position = b.node("Gather", b.weight("position", 512, 384), ids, shape=shape)
    token_type = b.node("Gather", b.weight("token_type", 2, 384), ids, shape=shape)
    x = b.node("Add", b.node("Add", x, position, shape=shape), token_type, shape=shape)
    for layer in range(6):
        x = b.node("MatMul", x, b.weight(f"layer.{layer}.up", 384, 1536), shape=(*shape[:2], 1536))
        x = b.node("Add", x, b.weight(f"layer.{layer}.bias", 1536), shape=(*shape[:2], 1536))
        x = b.node("MatMul", x, b.weight(f"layer.{layer}.down", 1536, 384), shape=shape)
    model = b.model([ids, mask], [x])
    task = {"type": "embedding", "pooling": "mean", "normalize": True, "max_length": 128}
    facts = ModelFacts("MiniLM", "bert", "optimum", "0" * 64, 22_000_000)
    return ModelIR(model, "graph", facts, task=task)


def convolutional() -> ModelIR:
    """A stem, a depthwise, a narrow and a wide pointwise convolution and a classifier."""
    b = Builder()
    image = input_value("image", "N", 3, "height", "width")
    x = b.node("Conv", image, b.weight("stem", 32, 3, 3, 3), b.weight("stem.bias", 32), shape=(1, 32, 112, 112))
    x = b.node("Conv", x, b.weight("depthwise", 32, 1, 3, 3), shape=(1, 32, 112, 112), group=32)
    x = b.node("Conv", x, b.weight("narrow", 64, 32, 1, 1), shape=(1, 64, 112, 112))
    x = b.node("Conv", x, b.weight("pointwise", 1280, 64, 1, 1), shape=(1, 1280, 112, 112))
    x = b.node("GlobalAveragePool", x, shape=(1, 1280, 1, 1))
    x = b.node("Flatten", x, shape=(1, 1280))
    x = b.node("Gemm", x, b.weight("classifier", 10, 1280), shape=(1, 10), transB=1)
    model = b.model([image], [x])
    task = {"type": "image-classification", "image": {"width": 224, "height": 192}}
    return ModelIR(model, "graph", ModelFacts("Net", "onnx", "onnx", "0" * 64, 54_000), task=task)
