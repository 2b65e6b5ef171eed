"""Activations of convolutional networks with their channels last.

A convolution, pool or resize in ONNX wants channels first, so it is written as
`Transpose -> Conv -> Transpose`, which the lowering reads as one channels-last convolution. All
other transposes are carried through the operators behind them as long as possible, and vanish
where one undoes another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgec.passes import dims as d
from edgec.passes.base import (
    GraphPass,
    add_initializer,
    constant,
    insert,
    insert_value,
    is_initializer,
    is_op,
    only_use,
    replace,
    shape_of,
)
from edgec.passes.fold_shapes import static_target
from edgec.passes.infer_shapes import infer
from edgec.passes.shape_context import axis_of
from edgec.passes.shape_rules import ELEMENTWISE_MANY, ELEMENTWISE_UNARY

_SPATIAL = frozenset("AveragePool Conv ConvTranspose DepthToSpace LpPool MaxPool Resize SpaceToDepth".split())
_AXIS_ATTRIBUTE = frozenset("Concat LogSoftmax Softmax Split".split())
_REDUCTIONS = frozenset(
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
    "ReduceSumSquare".split()
)

Permutation = tuple[int, ...]


class ChannelsLast(GraphPass):
    name = "channels-last"

    def rewrite(self, model: ir.Model) -> bool:
        if not any(is_op(node, "Conv", "ConvTranspose") for node in model.graph):
            return False
        infer(model.graph)
        _Layouts(model.graph).run()
        infer(model.graph)
        return True


def _inverse(permutation: Sequence[int]) -> Permutation:
    return tuple(int(i) for i in np.argsort(permutation))


def _is_transposed(node: ir.Node | None, permutation: Permutation) -> bool:
    if node is None or not is_op(node, "Transpose"):
        return False
    return tuple(node.attributes.get_ints("perm") or ()) == permutation


def _to_last(rank: int) -> Permutation:
    return (0, *range(2, rank), 1)


class _Layouts:
    """For some values v of the old graph, a value w of the new one with v = Transpose(w, permutation)."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._carried: dict[ir.Value, tuple[ir.Value, Permutation]] = {}
        self._transposed: dict[tuple[ir.Value, Permutation], ir.Value] = {}

    def run(self) -> None:
        for node in list(self._graph):
            if not self._rewritten(node):
                for index, value in enumerate(node.inputs):
                    if value in self._carried:
                        node.replace_input_with(index, self._original(node, value))
        for value in list(self._graph.outputs):
            if value in self._carried:
                anchor = value.producer()
                assert anchor is not None
                replace(value, self._original(anchor, value))

    # Values in one layout or the other, made before `anchor`.

    def _original(self, anchor: ir.Node, value: ir.Value) -> ir.Value:
        source, permutation = self._carried[value]
        return self._transpose(anchor, source, permutation)

    def _permuted(self, anchor: ir.Node, value: ir.Value, permutation: Permutation) -> ir.Value:
        """w with value = Transpose(w, permutation)."""
        carried = self._carried.get(value)
        if carried is not None:
            source, own = carried
            if own == permutation:
                return source
            return self._transpose(anchor, source, tuple(own[i] for i in _inverse(permutation)))
        return self._transpose(anchor, value, _inverse(permutation))

    def _transpose(self, anchor: ir.Node, value: ir.Value, permutation: Permutation) -> ir.Value:
        if list(permutation) == sorted(permutation):
            return value
        cached = self._transposed.get((value, permutation))
        if cached is not None:
            return cached
        shape = shape_of(value)
        target = None
        if shape is not None:
            moved = [i for i in permutation if shape[i] != 1]
            if moved == sorted(moved):  # only dimensions of 1 move
                target = static_target(shape, [shape[i] for i in permutation])
        if target is not None:
            result = insert_value(anchor, "Reshape", [value, self._integers(value, target)])
        else:
            result = insert_value(anchor, "Transpose", [value], {"perm": list(permutation)})
        if shape is not None:
            result.shape = ir.Shape([shape[i] for i in permutation])
        result.type = value.type
        self._transposed[value, permutation] = result
        return result

    def _integers(self, value: ir.Value, numbers: Sequence[int]) -> ir.Value:
        return add_initializer(self._graph, f"{value.name}/shape", np.array(numbers, np.int64))

    # Operators.

    def _rewritten(self, node: ir.Node) -> bool:
        """True when every output of `node` is now carried by a new node."""
        if node.domain != "":
            return False
        if node.op_type in _SPATIAL:
            return self._spatial(node)
        first = next((self._carried[value] for value in node.inputs if value in self._carried), None)
        if first is None:
            return False
        rule: Callable[[ir.Node, Permutation], bool] | None = None
        if node.op_type in ELEMENTWISE_UNARY | ELEMENTWISE_MANY | {"Clip"}:
            rule = self._elementwise
        elif node.op_type in _AXIS_ATTRIBUTE:
            rule = self._axis_attribute
        elif node.op_type in _REDUCTIONS:
            rule = self._reduction
        else:
            rule = {
                "Pad": self._pad,
                "Reshape": self._reshape,
                "Slice": self._slice,
                "Transpose": self._transposition,
            }.get(node.op_type)
        return rule is not None and rule(node, first[1])

    def _carry(self, old: ir.Value, new: ir.Value, permutation: Permutation) -> None:
        shape = shape_of(old)
        if shape is not None:
            new.shape = ir.Shape([shape[i] for i in _inverse(permutation)])
        new.type = old.type
        self._carried[old] = (new, permutation)

    def _spatial(self, node: ir.Node) -> bool:
        source, output = node.inputs[0], node.outputs[0]
        shape = shape_of(source)
        if source is None or shape is None or len(shape) not in (3, 4) or len(node.outputs) != 1:
            return False
        if is_op(node, "Conv", "ConvTranspose") and not is_initializer(node.inputs[1]):
            return False
        to_last = _to_last(len(shape))
        to_first = _inverse(to_last)
        if _is_transposed(source.producer(), to_first) and _is_transposed(only_use(output), to_last):
            return False  # it is written that way already
        last = self._permuted(node, source, to_first)
        first = insert_value(node, "Transpose", [last], {"perm": list(to_first)}, like=source)
        result = insert_value(node, node.op_type, [first, *node.inputs[1:]], _attributes(node), like=output)
        transposed = insert_value(node, "Transpose", [result], {"perm": list(to_last)})
        self._carry(output, transposed, to_first)
        return True

    def _elementwise(self, node: ir.Node, permutation: Permutation) -> bool:
        output = shape_of(node.outputs[0])
        rank = len(permutation)
        if output is None or len(output) != rank or len(node.outputs) != 1:
            return False
        shapes = [shape_of(value) for value in node.inputs]
        for value, shape in zip(node.inputs, shapes, strict=True):
            if value is None:
                continue
            if shape is None or (len(shape) not in (0, rank) and constant(value) is None and d.product(shape) != 1):
                return False
        inputs: list[ir.Value | None] = []
        for value, shape in zip(node.inputs, shapes, strict=True):
            if value is None or shape is None or (all(dim == 1 for dim in shape) and value not in self._carried):
                inputs.append(value)
            elif is_initializer(value):
                array = constant(value)
                if array is None:
                    return False
                laid = array.reshape([1] * (rank - array.ndim) + list(array.shape)).transpose(_inverse(permutation))
                inputs.append(add_initializer(self._graph, f"{value.name}/last", np.ascontiguousarray(laid)))
            else:
                inputs.append(self._permuted(node, value, permutation))
        self._carry(node.outputs[0], insert_value(node, node.op_type, inputs, _attributes(node)), permutation)
        return True

    def _axis_attribute(self, node: ir.Node, permutation: Permutation) -> bool:
        default = 0 if is_op(node, "Concat", "Split") else -1
        axis = axis_of(node.attributes.get_int("axis", default), len(permutation))
        data = node.inputs if is_op(node, "Concat") else node.inputs[:1]
        shapes = [shape_of(value) for value in data]
        if any(shape is None or len(shape) != len(permutation) for shape in shapes):
            return False
        inputs = [self._permuted(node, value, permutation) if value is not None else None for value in data]
        attributes = {**_attributes(node), "axis": permutation[axis]}
        made = insert(node, node.op_type, [*inputs, *node.inputs[len(data) :]], attributes, outputs=len(node.outputs))
        for old, new in zip(node.outputs, made.outputs, strict=True):
            self._carry(old, new, permutation)
        return True

    def _reduction(self, node: ir.Node, permutation: Permutation) -> bool:
        rank = len(permutation)
        array = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        if array is None or node.inputs[0] is None or array.size == 0:
            return False
        axes = [axis_of(int(axis), rank) for axis in array.reshape(-1)]
        moved = self._integers(node.outputs[0], sorted(permutation[axis] for axis in axes))
        reduced = insert_value(
            node, node.op_type, [self._permuted(node, node.inputs[0], permutation), moved], _attributes(node)
        )
        if node.attributes.get_int("keepdims", 1):
            self._carry(node.outputs[0], reduced, permutation)
        else:
            left = [permutation[axis] for axis in range(rank) if axis not in axes]
            order = sorted(left)
            self._carry(node.outputs[0], reduced, tuple(order.index(axis) for axis in left))
        return True

    def _slice(self, node: ir.Node, permutation: Permutation) -> bool:
        starts = shape_of(node.inputs[1])
        if starts is None or not isinstance(starts[0], int) or node.inputs[0] is None:
            return False
        axes = list(range(starts[0]))
        if len(node.inputs) > 3 and node.inputs[3] is not None:
            array = constant(node.inputs[3])
            if array is None:
                return False
            axes = [axis_of(int(axis), len(permutation)) for axis in array]
        moved = self._integers(node.outputs[0], [permutation[axis] for axis in axes])
        data = self._permuted(node, node.inputs[0], permutation)
        inputs = [data, node.inputs[1], node.inputs[2], moved, *node.inputs[4:]]
        self._carry(node.outputs[0], insert_value(node, "Slice", inputs), permutation)
        return True

    def _pad(self, node: ir.Node, permutation: Permutation) -> bool:
        amounts = constant(node.inputs[1])
        if amounts is None or node.inputs[0] is None or (len(node.inputs) > 3 and node.inputs[3] is not None):
            return False
        rank = len(permutation)
        order = list(_inverse(permutation))
        moved = self._integers(node.outputs[0], [int(v) for v in [*amounts[:rank][order], *amounts[rank:][order]]])
        inputs = [self._permuted(node, node.inputs[0], permutation), moved, *node.inputs[2:3]]
        self._carry(node.outputs[0], insert_value(node, "Pad", inputs, _attributes(node)), permutation)
        return True

    def _transposition(self, node: ir.Node, permutation: Permutation) -> bool:
        rank = len(permutation)
        order = node.attributes.get_ints("perm") or list(range(rank))[::-1]
        source = node.inputs[0]
        assert source is not None
        carried = self._carried[source][0]
        self._carried[node.outputs[0]] = (carried, tuple(permutation[i] for i in order))
        return True

    def _reshape(self, node: ir.Node, permutation: Permutation) -> bool:
        """Merging neighbours that are neighbours in the carried layout too keeps the layout."""
        source, output = node.inputs[0], node.outputs[0]
        before, after = shape_of(source), shape_of(output)
        if source is None or before is None or after is None:
            return False
        groups = _merged(before, after)
        carried = self._carried[source][0]
        if groups is None:
            return False
        places = [[permutation[axis] for axis in group] for group in groups]
        if any(place != list(range(place[0], place[0] + len(place))) for place in places if place):
            return False
        if any(not place for place in places):
            return False
        order = sorted(range(len(places)), key=lambda i: places[i][0])
        target = static_target(shape_of(carried) or [], [after[i] for i in order])
        if target is None:
            return False
        reshaped = insert_value(node, "Reshape", [carried, self._integers(output, target)])
        self._carry(output, reshaped, tuple(order.index(i) for i in range(len(places))))
        return True


def _merged(before: Sequence[d.Dim], after: Sequence[d.Dim]) -> list[list[int]] | None:
    """Which consecutive axes of `before` make each axis of `after`, if a reshape only merges axes."""
    groups: list[list[int]] = []
    axis = 0
    for dim in after:
        group: list[int] = []
        size: d.Dim = 1
        while axis < len(before) and not (group and d.same(size, dim)):
            size = d.multiply(size, before[axis])
            group.append(axis)
            axis += 1
        if not d.same(size, dim):
            return None
        groups.append(group)
    while axis < len(before) and groups and before[axis] == 1:
        groups[-1].append(axis)
        axis += 1
    return groups if axis == len(before) else None


def _attributes(node: ir.Node) -> dict[str, Any]:
    return {attribute.name: attribute.value for attribute in node.attributes.values()}
