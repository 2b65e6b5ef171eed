"""`If` with a known condition becomes its branch; `Loop` and `Scan` of a known, small number of steps are unrolled."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgec.errors import UnsupportedError
from edgec.passes.base import (
    GraphPass,
    add_initializer,
    constant,
    insert_value,
    names_in,
    producer,
    replace,
    shape_of,
    unique_name,
)
from edgec.passes.expand_contrib import ExpandContrib
from edgec.passes.expand_functions import ExpandFunctions
from edgec.passes.fold_constants import FoldConstants
from edgec.passes.shape_context import axis_of

MOST_STEPS = 256
_MOST_ROUNDS = 16  # control flow within control flow

Values = Sequence[ir.Value | None]


class InlineControlFlow(GraphPass):
    name = "inline-control-flow"
    graphs_only = True

    def rewrite(self, model: ir.Model) -> bool:
        modified = False
        for _ in range(_MOST_ROUNDS):
            FoldConstants().rewrite(model)
            done = [node for node in list(model.graph) if _INLINERS.get(_key(node), _leave)(model.graph, node)]
            if not done:
                break
            ExpandContrib().rewrite(model)  # those within branches and loops
            ExpandFunctions().rewrite(model)
            modified = True
        return modified


def _key(node: ir.Node) -> str:
    return node.op_type if node.domain == "" else ""


def _leave(graph: ir.Graph, node: ir.Node) -> bool:
    return False


def _if(graph: ir.Graph, node: ir.Node) -> bool:
    condition = constant(node.inputs[0])
    if condition is None:
        return False
    branch = node.attributes["then_branch" if condition.reshape(-1)[0] else "else_branch"].as_graph()
    _finish(node, _spliced(graph, node, branch, []))
    return True


def _loop(graph: ir.Graph, node: ir.Node) -> bool:
    """`Loop` whose number of steps is known, and whose condition never ends it."""
    body = node.attributes["body"].as_graph()
    most, start = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
    first = constant(start) if start is not None else np.array(True)
    steps = constant(most) if most is not None else None
    if steps is None or first is None:
        return False
    count = max(0, int(steps.reshape(-1)[0])) if first.reshape(-1)[0] else 0
    if count and not _keeps_going(body):
        return False
    _check_steps(node, count)
    state: list[ir.Value | None] = list(node.inputs[2:])
    scanned: list[list[ir.Value]] = [[] for _ in body.outputs[1 + len(state) :]]
    if count == 0 and scanned:
        return False
    true = add_initializer(graph, f"{node.name}/true", np.array(True))
    for step in range(count):
        number = add_initializer(graph, f"{node.name}/step", np.array(step, np.int64))
        results = _spliced(graph, node, body.clone(allow_outer_scope_values=True), [number, true, *state])
        state = list(results[1 : 1 + len(state)])
        for collected, value in zip(scanned, results[1 + len(state) :], strict=True):
            collected.append(value)
    _finish(node, [*state, *(_stacked(node, values, 0) for values in scanned)])
    return True


def _keeps_going(body: ir.Graph) -> bool:
    """The condition that the body gives back is the one it got, or the constant true."""
    condition = body.outputs[0]
    while (identity := producer(condition, "Identity")) is not None and identity.inputs[0] is not None:
        condition = identity.inputs[0]
    if condition is body.inputs[1]:
        return True
    known = constant(condition)
    if known is None and (node := producer(condition, "Constant")) is not None:
        tensor = node.attributes.get_tensor("value")
        known = None if tensor is None else tensor.numpy()
    return known is not None and bool(known.reshape(-1)[0])


def _scan(graph: ir.Graph, node: ir.Node) -> bool:
    body = node.attributes["body"].as_graph()
    scan_inputs = node.attributes.get_int("num_scan_inputs", 0)
    states = len(node.inputs) - scan_inputs
    state, sequences = list(node.inputs[:states]), list(node.inputs[states:])
    axes = list(node.attributes.get_ints("scan_input_axes") or [0] * scan_inputs)
    backwards = list(node.attributes.get_ints("scan_input_directions") or [0] * scan_inputs)
    shape = shape_of(sequences[0])
    if shape is None:
        return False
    count = shape[axis_of(axes[0], len(shape))]
    if not isinstance(count, int) or count == 0:
        return False
    _check_steps(node, count)
    outputs = len(body.outputs) - states
    scanned: list[list[ir.Value]] = [[] for _ in range(outputs)]
    for step in range(count):
        parts: list[ir.Value | None] = []
        for value, axis, back in zip(sequences, axes, backwards, strict=True):
            place = add_initializer(graph, f"{node.name}/step", np.array(count - 1 - step if back else step, np.int64))
            parts.append(insert_value(node, "Gather", [value, place], {"axis": axis}, name=f"{node.name}/part"))
        results = _spliced(graph, node, body.clone(allow_outer_scope_values=True), [*state, *parts])
        state = list(results[:states])
        for collected, result in zip(scanned, results[states:], strict=True):
            collected.append(result)
    out_axes = list(node.attributes.get_ints("scan_output_axes") or [0] * outputs)
    out_backwards = list(node.attributes.get_ints("scan_output_directions") or [0] * outputs)
    stacked = [
        _stacked(node, values[::-1] if back else values, axis)
        for values, axis, back in zip(scanned, out_axes, out_backwards, strict=True)
    ]
    _finish(node, [*state, *stacked])
    return True


def _check_steps(node: ir.Node, count: int) -> None:
    if count > MOST_STEPS:
        label = f"`{node.op_type}` ({node.name or node.outputs[0].name})"
        raise UnsupportedError(
            f"{label} has {count} steps, at most {MOST_STEPS} are unrolled",
            hint="export the model for a shorter sequence",
        )


def _spliced(graph: ir.Graph, anchor: ir.Node, body: ir.Graph, inputs: Values) -> list[ir.Value]:
    """The nodes of `body` moved before `anchor`, reading `inputs`; the values that it returns."""
    results = list(body.outputs)
    body.outputs.clear()  # before anything of the outer graph could become one of them
    standing: dict[ir.Value, ir.Value] = {}
    for formal, actual in zip(body.inputs, inputs, strict=False):
        if actual is None:
            raise UnsupportedError(f"`{anchor.op_type}` ({anchor.name}) lacks the input `{formal.name}`")
        standing[formal] = actual
    known = names_in(graph)
    for name, value in list(body.initializers.items()):
        tensor = value.const_value
        assert tensor is not None
        standing[value] = add_initializer(graph, name, tensor, known)
        known.add(standing[value].name)
    for old, new in standing.items():
        old.replace_all_uses_with(new)
    results = [standing.get(value, value) for value in results]
    taken = {value.name for node in graph for value in node.outputs}
    names = {node.name for node in graph}
    nodes = list(body)
    body.remove(nodes)
    for node in nodes:
        if node.name in names:
            node.name = next(name for i in itertools.count() if (name := f"{node.name}_{i}") not in names)
        names.add(node.name)
        for output in node.outputs:
            if output.name in taken:
                output.name = unique_name(graph, output.name or node.op_type.lower())
        graph.insert_before(anchor, node)
    return results


def _stacked(node: ir.Node, values: Sequence[ir.Value], axis: int) -> ir.Value:
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    place = add_initializer(graph, f"{node.name}/axis", np.array([axis], np.int64))
    rows = [insert_value(node, "Unsqueeze", [value, place], name=f"{node.name}/row") for value in values]
    return insert_value(node, "Concat", rows, {"axis": axis}, name=f"{node.name}/rows")


def _finish(node: ir.Node, results: Values) -> None:
    for output, result in zip(node.outputs, results, strict=True):
        assert result is not None
        if output.is_graph_output():
            result = insert_value(node, "Identity", [result])
        replace(output, result)
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    graph.remove(node, safe=True)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            _let_go(attribute.as_graph())


def _let_go(body: ir.Graph) -> None:
    """What is not taken over reads nothing any more, so that the rest can go too."""
    for node in body:
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                _let_go(attribute.as_graph())


_INLINERS = {"If": _if, "Loop": _loop, "Scan": _scan}
CONTROL_FLOW = frozenset(_INLINERS)

__all__ = ["CONTROL_FLOW", "InlineControlFlow"]
