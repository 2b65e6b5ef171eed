"""A decoder whose stream is turned by an orthogonal matrix, so that no feature stands out: the same function.

Ashkboos et al. 2024, "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs" (arXiv 2404.00456); Liu et al. 2024,
"SpinQuant: LLM Quantization with Learned Rotations" (arXiv 2405.16406). Gains of norms go into the linears that read
them; what is left of an RMS norm does not care how its input is turned. Then every matrix that reads the stream is
turned on its input side, every one that writes to it on its output side, and nothing remains to be done at run time.
What attention sums up is turned likewise, head by head, between the linears `v` and `o`.

A table that is embedding and lm_head in one cannot take the gains of the last norm. It stays as it is, and two products
are added: one after the embedding, one (with the gains) before the lm_head. Within 32 columns their weights are all of
the same size where the width is a multiple of 32, so that codes of few bits hold them without loss.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgec.errors import UnsupportedError, UsageError
from edgec.ir.model import TURN, TURN_BACK, ModelIR
from edgec.ir.weight_use import grid_bits
from edgec.passes.base import add_initializer, constant, insert_value, is_initializer, is_op, scalar

Floats = npt.NDArray[np.float32]
_Change = Callable[[Floats], Floats]

_EMBEDDING, _FINAL_NORM, _LM_HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
_READ = (".input_layernorm.weight", ".post_attention_layernorm.weight")  # norms of the stream within layers
_WRITING = ("self_attn.o_proj", "mlp.down_proj", "mlp.experts.down_proj")
_BRANCH_NORMS = (".attention_output_layernorm.weight", ".mlp_output_layernorm.weight")
_HINT = "compile it without `--rotate`"
_VECTORS = 4096  # turned in one go


class Turn:
    """An orthogonal matrix of one width: `D (Q x H) D`, `H` the Hadamard matrix of the largest power of two that
    divides the width, `Q` the discrete cosine transform (type IV) of what is left, `D` signs that look random.

    It is symmetric, so its own inverse. The same bits on every number of threads: no BLAS is asked.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self._power = width & -width
        odd = width // self._power
        place = np.arange(odd) + 0.5
        cosines = np.cos(np.pi / odd * np.outer(place, place)) * np.sqrt(2 / odd / self._power)
        self._cosines: Floats = cosines.astype(np.float32)
        bits = np.unpackbits(np.frombuffer(hashlib.shake_256(b"turn").digest(-(-width // 8)), np.uint8))[:width]
        self._signs: Floats = np.where(bits, np.float32(-1), np.float32(1))[:, None]

    def apply(self, array: Floats, axis: int) -> Floats:
        """`array` with all vectors along `axis` turned."""
        moved = np.moveaxis(array, axis, 0)
        vectors = moved.reshape(self.width, -1)
        turned = np.empty(vectors.shape, np.float32)
        for start in range(0, vectors.shape[1], _VECTORS):
            turned[:, start : start + _VECTORS] = self._turned(vectors[:, start : start + _VECTORS])
        return np.ascontiguousarray(np.moveaxis(turned.reshape(moved.shape), 0, axis))

    def _turned(self, columns: Floats) -> Floats:
        work = columns * self._signs
        half = 1
        while half < self._power:
            pairs = work.reshape(-1, 2, half, work.shape[-1])
            work = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1)
            half *= 2
        parts = work.reshape(self._cosines.shape[0], self._power, -1)
        result = np.zeros_like(parts)
        for to, of in np.ndindex(*self._cosines.shape):
            result[to] += self._cosines[to, of] * parts[of]
        turned: Floats = result.reshape(columns.shape) * self._signs
        return turned


def rotate(model: ModelIR) -> ModelIR:
    """`model`, as its frontend made it, with a turned stream; `model` itself is not changed.

    The new weights are computed when they are read. Raises `UsageError` for a graph that is no decoder and
    `UnsupportedError` for a decoder whose stream cannot be turned, or whose weights would lose the codes that they were
    stored in.
    """
    if model.decoder is None:
        raise UsageError(f"`{model.facts.name}` is no language model, and only their streams are rotated", hint=_HINT)
    copy = model.model.clone()
    _Rotation(model.facts.name, copy.graph, Turn(model.decoder.hidden), Turn(model.decoder.head_dim)).run()
    return dataclasses.replace(model, model=copy)


class _Rotation:
    def __init__(self, name: str, graph: ir.Graph, stream: Turn, head: Turn) -> None:
        self.name, self.graph, self.stream, self.head = name, graph, stream, head
        self.changes: dict[str, list[_Change]] = {}  # by initializer, one after the other

    def run(self) -> None:
        for node in list(self.graph):
            if is_op(node, "RMSNormalization", "LayerNormalization"):
                self._norm(node)
        for name in list(self.graph.initializers):
            if name == "model.embed_positions.weight":
                raise self._refusal("it has learned positions")
            if name.rpartition(".")[0].endswith(_WRITING):
                self._change(name, lambda array: self.stream.apply(array, -1))
            if name.endswith("self_attn.v_proj.weight"):
                self._values(name.removesuffix("v_proj.weight"))
        self._table()
        for name, changes in self.changes.items():
            self._apply(name, changes)

    def _refusal(self, what: str) -> UnsupportedError:
        return UnsupportedError(f"`{self.name}` cannot be rotated: {what}", hint=_HINT)

    def _change(self, name: str, change: _Change) -> None:
        self.changes.setdefault(name, []).append(change)

    def _norm(self, node: ir.Node) -> None:
        """The gains of a norm of the stream go into what reads it."""
        weight, output = node.inputs[1], node.outputs[0]
        name = "" if weight is None else weight.name or ""
        if name.endswith(_BRANCH_NORMS):
            raise self._refusal("what its branches add has norms of its own")
        if not name.endswith((*_READ, _FINAL_NORM)):
            return  # of heads, or before a branch's last linear
        gains = constant(weight)
        if node.op_type != "RMSNormalization" or weight is None or gains is None:
            raise self._refusal("its norms subtract the mean")
        column = gains.astype(np.float32)[:, None]
        readers = [reader.inputs[1] for reader, slot in output.uses() if is_op(reader, "MatMul") and slot == 0]
        if name == _FINAL_NORM and _LM_HEAD not in self.graph.initializers:
            self._turn_back(node, column)
        elif len(readers) != len(output.uses()) or not all(is_initializer(reader) for reader in readers):
            raise self._refusal(f"not only linears read the norm `{name}`")
        else:
            for reader in readers:
                assert reader is not None
                self._change(reader.name or "", lambda array: self.stream.apply(array * column, -2))
        weight.const_value = ir.tensor(np.ones(gains.shape, np.float32), name=name)

    def _values(self, prefix: str) -> None:
        """Values of attention, and the columns that meet them, unless a norm of all heads is between."""
        if f"{prefix}attn_sub_norm.weight" in self.graph.initializers:
            return
        width = self.head.width

        def turned(array: Floats) -> Floats:  # the last axis is of heads
            return self.head.apply(array.reshape(*array.shape[:-1], -1, width), -1).reshape(array.shape)

        for name in (f"{prefix}v_proj.weight", f"{prefix}v_proj.bias"):
            if name in self.graph.initializers:
                self._change(name, turned)
        self._change(
            f"{prefix}o_proj.weight",
            lambda array: self.head.apply(array.reshape(-1, width, array.shape[-1]), 1).reshape(array.shape),
        )

    def _table(self) -> None:
        if _LM_HEAD in self.graph.initializers:
            self._change(_EMBEDDING, lambda array: self.stream.apply(array, -1))
            return
        table = self.graph.initializers[_EMBEDDING]
        gather = next(node for node, _ in table.uses() if is_op(node, "Gather"))
        stream = gather.outputs[0]
        for node, _ in stream.uses():
            if is_op(node, "Mul") and any(scalar(value) is not None for value in node.inputs):
                stream = node.outputs[0]
        self._insert(stream, TURN, self.stream.apply(np.eye(self.stream.width, dtype=np.float32), 0))

    def _turn_back(self, norm: ir.Node, gains: Floats) -> None:
        back = self.stream.apply(np.eye(self.stream.width, dtype=np.float32), 0) * gains.T
        self._insert(norm.outputs[0], TURN_BACK, back)

    def _insert(self, value: ir.Value, name: str, matrix: Floats) -> None:
        """All that read `value` read its product with `matrix`."""
        readers = list(value.uses())
        weight = add_initializer(self.graph, name, matrix)
        first = next(node for node in self.graph if any(node is reader for reader, _ in readers))
        product = insert_value(first, "MatMul", [value, weight], name=name.removesuffix(".weight"), like=value)
        for reader, slot in readers:
            reader.replace_input_with(slot, product)

    def _apply(self, name: str, changes: list[_Change]) -> None:
        value = self.graph.initializers[name]
        tensor = value.const_value
        assert tensor is not None
        if grid_bits(value) is not None:
            raise self._refusal("its weights were quantized before, and would lose their codes")

        def read() -> ir.TensorProtocol:
            array = tensor.numpy().astype(np.float32)
            for change in changes:
                array = change(array)
            return ir.Tensor(array.astype(tensor.dtype.numpy()), dtype=tensor.dtype, name=name)

        shape = ir.Shape(tensor.shape.numpy())
        value.const_value = ir.LazyTensor(read, dtype=tensor.dtype, shape=shape, name=name)


__all__ = ["Turn", "rotate"]
