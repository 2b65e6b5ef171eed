"""onnxruntime's `com.microsoft.MatMulNBits` as the MatMul that it stands for.

    B            uint8 [N, blocks, block_size * bits / 8]  codes along the K inputs, the lowest bits first
    scales       float [N, blocks]
    zero_points  uint8 [N, blocks * bits / 8], packed like B; or float [N, blocks]; without them 2^(bits - 1)
    bias         float [N]

`Y = A @ W (+ bias)` with `W[k, n] = scales[n, b] * (code - zero_point)`. The weights become a lazy initializer
`[K, N]` that is not rounded further; where it fits our grid, it is marked so that its codes are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir

from edgec.errors import ModelError
from edgec.frontend.problems import Problem
from edgec.ir.compressed import GROUP
from edgec.ir.weight_use import mark_grid

DOMAIN, OP = "com.microsoft", "MatMulNBits"
_BITS = (2, 4, 8)
_INPUTS = ("A", "B", "scales", "zero_points", "g_idx", "bias")


def nbits_problems(proto: onnx.ModelProto) -> Iterator[Problem]:
    """What cannot be read of such nodes; reads no weight."""
    constants = {tensor.name for tensor in proto.graph.initializer} | {""}
    for node in proto.graph.node:
        if (node.domain, node.op_type) != (DOMAIN, OP):
            continue
        where = f"{OP} ({node.name or node.output[0]})"
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        for name, other in zip(_INPUTS[1:], node.input[1:], strict=False):
            if other not in constants and name != "g_idx":
                yield Problem(f"{where}.{name}", f"computed (`{other}`)", "weights that the file holds")
        if len(node.input) > _INPUTS.index("g_idx") and node.input[_INPUTS.index("g_idx")]:
            yield Problem(f"{where}.g_idx", "an order of inputs", "inputs in order; `g_idx` is deprecated")
        if attributes.get("bits", 4) not in _BITS:
            yield Problem(f"{where}.bits", str(attributes["bits"]), ", ".join(map(str, _BITS)))
        if attributes.get("weight_prepacked"):
            yield Problem(f"{where}.weight_prepacked", str(attributes["weight_prepacked"]), "0")


def expand_nbits(model: onnx_ir.Model) -> None:
    """Rewrites the graph's nodes in place. Raises `ModelError` for tensors that do not fit together."""
    graph = model.graph
    weights: dict[tuple[str, ...], onnx_ir.Value] = {}
    old: set[onnx_ir.Value] = set()
    for node in list(graph):
        if (node.domain, node.op_type) != (DOMAIN, OP):
            continue
        inputs = dict(zip(_INPUTS, node.inputs, strict=False))
        stored = {name: value for name, value in inputs.items() if value is not None and name not in ("A", "bias")}
        key = tuple(f"{name}={value.name}" for name, value in stored.items())
        if key not in weights:
            weights[key] = _initializer(graph, node, stored)
        old |= set(stored.values())
        _replace(graph, node, inputs["A"], weights[key], inputs.get("bias"))
    for value in old:
        if not value.uses() and value.name is not None:
            graph.initializers.pop(value.name, None)


def _initializer(graph: onnx_ir.Graph, node: onnx_ir.Node, stored: Mapping[str, onnx_ir.Value]) -> onnx_ir.Value:
    blocks = Blocks(node, {name: value.const_value for name, value in stored.items()})
    name = f"{stored['B'].name}.dequantized"
    dtype, shape = blocks.dtype, onnx_ir.Shape(blocks.shape)

    def read() -> onnx_ir.TensorProtocol:
        return onnx_ir.Tensor(blocks.read().astype(dtype.numpy(), copy=False), dtype=dtype, name=name)

    tensor = onnx_ir.LazyTensor(read, dtype, shape, name=name)
    value = onnx_ir.Value(name=name, shape=shape, type=onnx_ir.TensorType(dtype), const_value=tensor)
    mark_grid(value, blocks.grid_bits())
    graph.register_initializer(value)
    return value


def _replace(
    graph: onnx_ir.Graph,
    node: onnx_ir.Node,
    source: onnx_ir.Value | None,
    weight: onnx_ir.Value,
    bias: onnx_ir.Value | None,
) -> None:
    """`node` as a MatMul, and an Add where it has a bias; its output stays the value that it was."""
    output = node.outputs[0]
    name = output.name
    made = onnx_ir.Node("", "MatMul", [source, weight], name=node.name)
    nodes = [made]
    if bias is not None:
        made.outputs[0].name = f"{name}.product"
        made.outputs[0].type, made.outputs[0].shape = output.type, output.shape
        nodes.append(onnx_ir.Node("", "Add", [made.outputs[0], bias], name=f"{node.name or name}.bias"))
    last = nodes[-1].outputs[0]
    last.type, last.shape = output.type, output.shape
    onnx_ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [output], [last])
    last.name = name


class Blocks:
    """The packed weights of a node, checked against its attributes: `rows` outputs of `columns` inputs, if it has no
    attributes that say how many."""

    def __init__(
        self,
        node: onnx_ir.Node,
        stored: Mapping[str, onnx_ir.TensorProtocol | None],
        *,
        extents: tuple[int, int] | None = None,
    ) -> None:
        self._where = f"`{node.op_type}` ({node.name or node.outputs[0].name})"
        self._columns, self._rows = extents or (self._size(node, "K"), self._size(node, "N"))
        self._bits = node.attributes.get_int("bits", 4)
        self._block = self._size(node, "block_size")
        self._count = -(-self._columns // self._block)
        tensors = {name: tensor for name, tensor in stored.items() if tensor is not None}
        if not {"B", "scales"} <= tensors.keys():
            raise ModelError(f"{self._where} lacks its weights")
        self._codes, self._scales = tensors["B"], tensors["scales"]
        self._zeros = tensors.get("zero_points")
        self.dtype = self._scales.dtype
        self.shape = (self._columns, self._rows)
        self._expect("B", self._codes, self._rows * self._count * self._block * self._bits // 8)
        self._expect("scales", self._scales, self._rows * self._count)
        if self._zeros is not None:
            packed = -(-self._count * self._bits // 8) if self._zeros.dtype == onnx_ir.DataType.UINT8 else self._count
            self._expect("zero_points", self._zeros, self._rows * packed)

    def _size(self, node: onnx_ir.Node, name: str) -> int:
        size = node.attributes.get_int(name, 0)
        if size < 1:
            raise ModelError(f"{self._where} has the attribute `{name}` {size}, expected a positive number")
        return size

    def _expect(self, name: str, tensor: onnx_ir.TensorProtocol, count: int) -> None:
        if tensor.size != count:
            raise ModelError(
                f"{self._where} has {tensor.size} numbers in `{name}`, its attributes say {count}",
                hint="export the model again",
            )

    def read(self) -> npt.NDArray[np.float32]:
        """`[K, N]`"""
        codes = _unpacked(self._codes.numpy().reshape(self._rows, -1), self._bits)[:, : self._columns]
        block = np.arange(self._columns) // self._block
        scales = self._scales.numpy().astype(np.float32).reshape(self._rows, self._count)
        values = codes.astype(np.float32)
        values -= self._zero_points()[:, block]
        values *= scales[:, block]
        return np.ascontiguousarray(values.T)

    def grid_bits(self) -> int | None:
        """See `mark_grid`: each 32 inputs in a block, and zero points that are codes."""
        whole = self._block % GROUP == 0 or self._count == 1
        if self._bits > 4 or not whole:
            return None
        zeros = self._zero_points()
        codes = np.all((zeros == np.rint(zeros)) & (zeros >= 0) & (zeros < 16))
        return 4 if codes else None

    def _zero_points(self) -> npt.NDArray[np.float32]:
        """`[N, blocks]`"""
        if self._zeros is None:
            return np.full((self._rows, self._count), 1 << (self._bits - 1), np.float32)
        stored = self._zeros.numpy().reshape(self._rows, -1)
        if self._zeros.dtype == onnx_ir.DataType.UINT8:
            stored = _unpacked(stored, self._bits)
        return np.ascontiguousarray(stored[:, : self._count], np.float32)


def _unpacked(packed: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Codes of a row of bytes, side by side."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = packed[:, :, None] >> shifts & np.uint8((1 << bits) - 1)
    return codes.reshape(packed.shape[0], -1)


__all__ = ["DOMAIN", "OP", "Blocks", "expand_nbits", "nbits_problems"]
