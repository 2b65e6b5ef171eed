"""The tensors of a decoder language model that an ONNX graph holds, found by following the graph.

Names of initializers say nothing: exporters rename, transpose, join and quantize them. What a matrix is follows from
what its product depends on. Every value has the set of linears whose products it is made of, as far as the next
linear (`depends`). A linear that depends on the embedding reads the stream of the layers, one that does not ends a
branch: with the queries, keys and values of a layer it is `o`, else `down`. Norms and biases are constant vectors on
the way. Attention, rotation and activation are left to `decoder_check.py`, which compares what the graph computes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgec.errors import ModelError, UnsupportedError
from edgec.frontend.checkpoint import qkv_rows
from edgec.frontend.onnx_nbits import Blocks
from edgec.frontend.spec import DecoderSpec
from edgec.frontend.tensors import EMBEDDING, FINAL_NORM, LM_HEAD, POSITIONS, linear_name, norm_name

Floats = npt.NDArray[np.float32]
_Rows = npt.NDArray[np.int64]
_CONTRIB = "com.microsoft"
_PAST = re.compile(r"past_key_values\.(\d+)\.(key|value)")
_ATTENTION = frozenset({"GroupQueryAttention", "MultiHeadAttention", "Attention"})
_SKIP_NORMS = frozenset({"SkipSimplifiedLayerNormalization", "SkipLayerNormalization"})
_NORMS = frozenset({"SimplifiedLayerNormalization", "RMSNormalization", "LayerNormalization"})
# The values of the first input, in another shape or type, or some of its rows.
_SAME = frozenset({"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Dropout", "Slice", "Gather"})
_EMBEDS = frozenset({"Gather", "GatherBlockQuantized"})
_HINT = "name another file of the model, such as its `model.onnx`, or compile its safetensors"

Source = int | str  # a linear's number, `EMBEDDING` or `POSITIONS`
Sources = frozenset[Source]


@dataclass(frozen=True)
class GraphTensor:
    """A float tensor of the graph; a matrix is `[out, in]`. `constant` is the initializer, if it is not quantized."""

    shape: tuple[int, ...]
    read: Callable[[], Floats]
    grid_bits: Callable[[], int | None] = lambda: None
    constant: ir.Value | None = None


@dataclass(frozen=True)
class _Linear:
    node: ir.Node
    source: ir.Value
    weight: GraphTensor
    bias: GraphTensor | None


def is_decoder(inputs: Iterable[str], outputs: Iterable[str]) -> bool:
    """Whether these are names of a decoder with a cache."""
    names = set(inputs)
    return "input_ids" in names and "logits" in set(outputs) and any(_PAST.fullmatch(name) for name in names)


class DecoderGraph:
    """The graph of `model`, whose layers are as `spec` says. `order` is how checkpoints join queries, keys and values;
    operators that take them joined have them one after the other. Raises `UnsupportedError` for another form."""

    def __init__(self, model: ir.Model, spec: DecoderSpec, order: str) -> None:
        self._graph = model.graph
        self._spec = spec
        self._order = "blocks" if any(node.op_type in _ATTENTION for node in model.graph) else order
        self._linears: list[_Linear] = []
        self._depends: dict[ir.Value, Sources] = {}
        self._regions: dict[Sources, list[ir.Node]] = {}
        self._ids: set[ir.Value] = set()
        self.tensors: dict[str, GraphTensor] = {}
        self._follow()
        self._name()

    # What depends on what

    def _follow(self) -> None:
        for value in self._graph.inputs:
            if value.name == "input_ids":
                self._ids.add(value)
            elif _PAST.fullmatch(value.name or ""):
                self._depends[value] = frozenset()
        for node in self._graph:
            if node.op_type in ("Shape", "Size"):
                continue
            self._visit(node)

    def _visit(self, node: ir.Node) -> None:
        inputs = [value for value in node.inputs if value is not None]
        data = [value for value in inputs if value in self._depends]
        if not data:
            table = self._table(node, inputs)
            if table is not None:
                name, tensor = table
                if name in self.tensors:
                    raise _unknown(node, "a second table of rows that tokens choose")
                self.tensors[name] = tensor
                self._depends[node.outputs[0]] = frozenset({name})
            elif any(value in self._ids for value in inputs):
                self._ids.update(node.outputs)
            return
        linear = self._linear(node)
        if linear is not None:
            self._depends[node.outputs[0]] = frozenset({len(self._linears)})
            self._linears.append(linear)
            return
        for index, output in enumerate(node.outputs):
            found = self._union(self._contributing(node, index))
            self._depends[output] = found
            if index == 0:
                self._regions.setdefault(found, []).append(node)

    def _contributing(self, node: ir.Node, output: int) -> list[ir.Value]:
        """Inputs of a node that this output is made of."""
        inputs = list(node.inputs)
        if node.op_type in _ATTENTION and output and len(inputs) > output:
            chosen = inputs[output] if inputs[output] is not None else inputs[0]  # joined, where there is one alone
            return [] if chosen is None else [chosen]
        return [value for value in inputs if value is not None]

    def _union(self, values: Iterable[ir.Value]) -> Sources:
        return frozenset().union(*(self._depends.get(value, frozenset()) for value in values))

    def _table(self, node: ir.Node, inputs: list[ir.Value]) -> tuple[str, GraphTensor] | None:
        """The embedding that a node looks tokens up in, or the learned positions."""
        if node.op_type not in _EMBEDS or len(inputs) < 2:
            return None
        hidden = self._spec.facts.hidden
        of_tokens = inputs[1] in self._ids
        if node.op_type == "GatherBlockQuantized":
            rows = self._spec.facts.vocabulary if of_tokens else self._spec.positions or 0
            stored = {"B": inputs[0], "scales": inputs[2], **({"zero_points": inputs[3]} if len(inputs) > 3 else {})}
            if node.attributes.get_int("gather_axis", 0) or node.attributes.get_int("quantize_axis", 1) != 1:
                raise _unknown(node, "a quantized table with other axes")
            return EMBEDDING if of_tokens else POSITIONS, _blocks(node, stored, (hidden, rows))
        tensor = _constant(inputs[0])
        if tensor is None or len(tensor.shape) != 2 or tensor.shape[1] != hidden or not of_tokens:
            learned = tensor is not None and self._spec.positions is not None and tensor.shape[1:] == (hidden,)
            return (POSITIONS, tensor) if learned and tensor is not None else None
        return EMBEDDING, tensor

    def _linear(self, node: ir.Node) -> _Linear | None:
        inputs = list(node.inputs)
        source = inputs[0] if inputs else None
        if source is None or source not in self._depends:
            return None
        if (node.domain, node.op_type) == (_CONTRIB, "MatMulNBits"):
            names = ("A", "B", "scales", "zero_points", "g_idx", "bias")
            given = {name: value for name, value in zip(names, inputs, strict=False) if value is not None}
            added = given.pop("bias", None)
            stored = {name: value for name, value in given.items() if name != "A"}
            return _Linear(node, source, _blocks(node, stored, None), None if added is None else _constant(added))
        if node.op_type not in ("MatMul", "Gemm") or len(inputs) < 2 or inputs[1] is None:
            return None
        tensor = _constant(inputs[1])
        if tensor is None or len(tensor.shape) != 2:
            return None
        bias: GraphTensor | None = None
        transposed = False
        if node.op_type == "Gemm":
            attributes = node.attributes
            factors = attributes.get_float("alpha", 1.0), attributes.get_float("beta", 1.0)
            if factors != (1.0, 1.0) or attributes.get_int("transA", 0) != 0:
                raise _unknown(node, "a Gemm with factors or a transposed left side")
            transposed = attributes.get_int("transB", 0) != 0
            third = inputs[2] if len(inputs) > 2 else None
            bias = None if third is None else _constant(third)
        return _Linear(node, source, tensor if transposed else _turned(tensor), bias)

    # Which linear is which

    def _name(self) -> None:
        facts = self._spec.facts
        values = {value.name: value for value in self._graph.outputs}
        ends = [n for n, linear in enumerate(self._linears) if not self._depends[linear.source] & {EMBEDDING}]
        taken: set[Source] = set()
        attention: list[int] = []
        for layer in range(facts.layers):
            key, value = (self._only(values, f"present.{layer}.{part}") for part in ("key", "value"))
            found = [n for n in ends if {key, value} <= self._depends[self._linears[n].source]]
            if len(found) != 1:
                raise UnsupportedError(f"layer {layer} has {len(found)} matrices after its attention", hint=_HINT)
            sources = self._depends[self._linears[found[0]].source] - {key, value}
            queries = [number for number in sources if isinstance(number, int)]
            if len(queries) > 1 or (len(queries) == 1) != (key != value):
                raise UnsupportedError(f"layer {layer} has {len(queries)} matrices of queries", hint=_HINT)
            attention.append(found[0])
            taken |= {found[0], key, value, *queries}
            self._attention(layer, next(iter(queries), key), key, value, found[0])
        downs = [n for n in ends if n not in attention]
        if len(downs) != facts.layers:
            raise UnsupportedError(f"{len(downs)} matrices end an MLP in {facts.layers} layers", hint=_HINT)
        for layer, down in enumerate(downs):
            before = self._depends[self._linears[down].source]
            taken |= {down, *before}
            self._mlp(layer, down, sorted(n for n in before if isinstance(n, int)))
        head = self._only(values, "logits")
        left = [n for n in range(len(self._linears)) if n not in taken | {head}]
        if left:
            raise _unknown(self._linears[left[0]].node, "a matrix of no known part of a decoder")
        self._put(LM_HEAD, self._linears[head].weight)
        self._bias("lm_head", head, facts.vocabulary)
        self._norm_before(FINAL_NORM, head)

    def _only(self, values: Mapping[str | None, ir.Value], name: str) -> int:
        found = self._depends.get(values[name], frozenset()) if name in values else frozenset()
        number = next(iter(found), None)
        if len(found) != 1 or not isinstance(number, int):
            raise UnsupportedError(f"the output `{name}` is not the product of one matrix", hint=_HINT)
        return number

    def _attention(self, layer: int, query: int, key: int, value: int, output: int) -> None:
        facts = self._spec.facts
        for part, number in zip("qkv", (query, key, value), strict=True):
            total, rows = qkv_rows(self._spec, self._order, f"{part}_proj")
            count, chosen = len(rows), rows if query == key else None
            name = linear_name(layer, f"{part}_proj")
            self._put(f"{name}.weight", _rows(self._linears[number].weight, chosen))
            self._bias(name, number, count if chosen is None else total, chosen)
            width = facts.head_dim if self._spec.qk_norm == "head" else count
            if self._spec.qk_norm is not None and part != "v":
                if chosen is not None:
                    raise _unknown(self._linears[number].node, "joined queries and keys that have norms")
                self._norm_after(f"model.layers.{layer}.self_attn.{part}_norm", number, width)
        self._put(f"{linear_name(layer, 'o_proj')}.weight", self._linears[output].weight)
        self._bias(linear_name(layer, "o_proj"), output, facts.hidden)
        if "attention" in self._spec.norms:
            self._norm_before(norm_name(layer, "attention"), key)
        if "attention_output" in self._spec.norms:
            self._norm_after(norm_name(layer, "attention_output"), output, facts.hidden)
        if "attention_inner" in self._spec.norms:
            self._norm_before(norm_name(layer, "attention_inner"), output)

    def _mlp(self, layer: int, down: int, before: list[int]) -> None:
        facts = self._spec.facts
        if len(before) not in ((1, 2) if facts.gated_mlp else (1,)):
            raise _unknown(self._linears[down].node, f"the end of an MLP with {len(before)} matrices before it")
        parts = ["gate_proj", "up_proj"] if facts.gated_mlp else ["up_proj"]
        if len(before) == 2 and not self._active(down, before[0]):
            before = before[::-1]
        for index, part in enumerate(parts):
            name = linear_name(layer, part)
            joined = len(before) < len(parts)
            chosen = np.arange(facts.intermediate) + index * facts.intermediate if joined else None
            number = before[0 if joined else index]
            self._put(f"{name}.weight", _rows(self._linears[number].weight, chosen))
            self._bias(name, number, facts.intermediate * (len(parts) if joined else 1), chosen)
        self._put(f"{linear_name(layer, 'down_proj')}.weight", self._linears[down].weight)
        self._bias(linear_name(layer, "down_proj"), down, facts.hidden)
        if "mlp" in self._spec.norms:
            self._norm_before(norm_name(layer, "mlp"), before[0])
        if "mlp_output" in self._spec.norms:
            self._norm_after(norm_name(layer, "mlp_output"), down, facts.hidden)
        if "mlp_inner" in self._spec.norms:
            self._norm_before(norm_name(layer, "mlp_inner"), down)

    def _active(self, down: int, number: int) -> bool:
        """Whether more than a change of shape happens to this linear's product alone: it is the gate."""
        nodes = self._regions.get(frozenset({number}), [])
        return any(node.op_type not in _SAME and not self._is_bias(node) for node in nodes)

    # Vectors

    def _is_bias(self, node: ir.Node) -> bool:
        return node.op_type == "Add" and any(v is not None and _constant(v) is not None for v in node.inputs)

    def _bias(self, name: str, number: int, size: int, chosen: _Rows | None = None) -> None:
        """The bias of a linear, or its `chosen` rows: its node's own, or a constant vector added to its product."""
        linear = self._linears[number]
        bias = linear.bias
        value, nodes = linear.node.outputs[0], self._regions.get(frozenset({number}), [])
        while bias is None:
            following = [node for node in nodes if value in node.inputs]
            if len(following) != 1 or following[0].op_type not in _SAME | {"Add"}:
                break
            bias = self._vector(following[0], size) if following[0].op_type == "Add" else None
            value = following[0].outputs[0]
        wanted = name.rpartition(".")[2] in self._spec.biases
        if bias is not None and not wanted:
            raise _unknown(linear.node, "a matrix with a bias, which the configuration does not tell of")
        if bias is not None:
            self._put(f"{name}.bias", _rows(bias, chosen))

    def _vector(self, node: ir.Node, size: int) -> GraphTensor | None:
        for value in node.inputs:
            tensor = None if value is None or value in self._depends else _constant(value)
            if tensor is not None and int(np.prod(tensor.shape)) == size > 1:
                return _flat(tensor)
        return None

    def _norm_before(self, name: str, number: int) -> None:
        """The norm that a linear reads."""
        value: ir.Value | None = self._linears[number].source
        bias: GraphTensor | None = None
        size = self._linears[number].weight.shape[1]
        while value is not None and (node := value.producer()) is not None:
            inputs = list(node.inputs)
            if node.op_type in _NORMS or (node.op_type in _SKIP_NORMS and value is node.outputs[0]):
                self._norm_node(name, node, inputs[2:] if node.op_type in _SKIP_NORMS else inputs[1:])
                return
            if node.op_type in _SAME:
                value = inputs[0]
                continue
            vector = self._vector(node, size) if node.op_type in ("Mul", "Add") else None
            if vector is None:
                break
            if node.op_type == "Mul":
                self._put(f"{name}.weight", vector)
                if bias is not None:
                    self._put(f"{name}.bias", bias)
                return
            bias = vector
            value = next(other for other in inputs if other in self._depends)
        raise _unknown(self._linears[number].node, f"a matrix without a norm before it, where `{name}` should be")

    def _norm_after(self, name: str, number: int, size: int) -> None:
        """The norm of a linear's product."""
        for node in self._regions.get(frozenset({number}), []):
            if node.op_type in _NORMS:
                self._norm_node(name, node, list(node.inputs)[1:])
                return
            vector = self._vector(node, size) if node.op_type == "Mul" else None
            if vector is not None:
                self._put(f"{name}.weight", vector)
                return
        raise _unknown(self._linears[number].node, f"a matrix without a norm after it, where `{name}` should be")

    def _norm_node(self, name: str, node: ir.Node, inputs: list[ir.Value | None]) -> None:
        simplified = "Simplified" in node.op_type
        if node.op_type in _SKIP_NORMS and len(inputs) > (1 if simplified else 2):
            raise _unknown(node, "a sum with a bias")
        for kind, value in zip(("weight", "bias"), inputs, strict=False):
            tensor = None if value is None else _constant(value)
            if tensor is not None:
                self._put(f"{name}.{kind}", _flat(tensor))

    def _put(self, name: str, tensor: GraphTensor) -> None:
        self.tensors[name] = tensor


class GraphWeights:
    """A `WeightSource` of what `DecoderGraph` found."""

    def __init__(self, tensors: Mapping[str, GraphTensor]) -> None:
        self._tensors = tensors

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self._tensors.items()}

    def read(self, name: str) -> Floats:
        return self._tensors[name].read()

    def grid_bits(self, name: str) -> int | None:
        return self._tensors[name].grid_bits()


# Constants


def _constant(value: ir.Value) -> GraphTensor | None:
    """A tensor that depends on no input, if it is computed in few known steps."""
    folded = _folded(value) if _fixed(value) else None
    if folded is None:
        return None
    shape, read = folded
    return GraphTensor(shape, lambda: np.ascontiguousarray(read(), np.float32), constant=_origin(value))


_FOLDABLE = frozenset({"Identity", "Cast", "Transpose", "Add", "Mul", "Constant"})


def _fixed(value: ir.Value) -> bool:
    """Whether nothing but constants and foldable operators is behind a value."""
    wanted, seen = [value], {value}
    while wanted:
        value = wanted.pop()
        node = value.producer()
        if value.const_value is not None:
            continue
        if node is None or node.op_type not in _FOLDABLE:
            return False
        more = {source for source in node.inputs if source is not None} - seen
        wanted += more
        seen |= more
    return True


def _folded(value: ir.Value) -> tuple[tuple[int, ...], Callable[[], npt.NDArray[np.generic]]] | None:
    tensor = value.const_value
    node = value.producer()
    if tensor is None and node is not None and node.op_type == "Constant":
        tensor = next((a.as_tensor() for a in node.attributes.values() if a.type == ir.AttributeType.TENSOR), None)
    if tensor is not None:
        stored = tensor
        return tuple(stored.shape.numpy()), lambda: stored.numpy()
    if node is None:
        return None
    parts = [None if part is None else _folded(part) for part in node.inputs]
    if not parts or any(part is None for part in parts):
        return None
    (shape, read), *others = [part for part in parts if part is not None]
    match node.op_type:
        case "Identity" | "Cast":
            return shape, read
        case "Transpose":
            order = node.attributes.get_ints("perm", list(range(len(shape)))[::-1])
            return tuple(shape[axis] for axis in order), lambda: read().transpose(order)
        case "Add" | "Mul" if len(others) == 1:
            other_shape, other = others[0]
            combine = np.add if node.op_type == "Add" else np.multiply
            together = np.broadcast_shapes(shape, other_shape)
            return together, lambda: combine(read().astype(np.float32), other().astype(np.float32))
    return None


def _origin(value: ir.Value) -> ir.Value:
    """The initializer that a value is, up to its shape and order."""
    node = value.producer()
    while node is not None and node.op_type in ("Identity", "Cast", "Transpose", "Reshape") and node.inputs[0]:
        value, node = node.inputs[0], node.inputs[0].producer()
    return value


def _blocks(node: ir.Node, stored: Mapping[str, ir.Value], extents: tuple[int, int] | None) -> GraphTensor:
    tensors = {name: _origin(value).const_value for name, value in stored.items()}
    if any(tensor is None for tensor in tensors.values()):
        raise _unknown(node, "a quantized matrix that is computed")
    blocks = Blocks(node, tensors, extents=extents)
    columns, rows = blocks.shape
    return GraphTensor(
        (rows, columns), lambda: np.ascontiguousarray(blocks.read().T), blocks.grid_bits, _origin(stored["B"])
    )


def _turned(tensor: GraphTensor) -> GraphTensor:
    read = tensor.read
    return GraphTensor(tensor.shape[::-1], lambda: np.ascontiguousarray(read().T), constant=tensor.constant)


def _flat(tensor: GraphTensor) -> GraphTensor:
    read = tensor.read
    return GraphTensor((int(np.prod(tensor.shape)),), lambda: read().reshape(-1))


def _rows(tensor: GraphTensor, chosen: _Rows | None) -> GraphTensor:
    if chosen is None:
        return tensor
    read = tensor.read
    if int(chosen.max()) >= tensor.shape[0]:
        raise ModelError(f"a joined matrix has {tensor.shape[0]} rows, its parts need {int(chosen.max()) + 1}")
    return GraphTensor((len(chosen), *tensor.shape[1:]), lambda: read()[chosen], tensor.grid_bits)


def _unknown(node: ir.Node, what: str) -> UnsupportedError:
    name = node.name or next((value.name for value in node.outputs if value.name), "?")
    return UnsupportedError(f"`{node.op_type}` ({name}) is {what}", hint=_HINT)


def cache_names(layers: int) -> Iterator[str]:
    """Inputs of a decoder of so many layers that hold what came before."""
    for layer in range(layers):
        yield from (f"past_key_values.{layer}.{part}" for part in ("key", "value"))


__all__ = ["DecoderGraph", "GraphTensor", "GraphWeights", "cache_names", "is_decoder"]
