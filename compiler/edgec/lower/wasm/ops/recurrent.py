"""RNN, GRU and LSTM: one kernel runs a direction through the whole sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.errors import UnsupportedError
from edgec.lower.wasm.graph_context import GraphContext, activation_bytes, label
from edgec.lower.wasm.graph_dims import to_amount
from edgec.lower.wasm.graph_values import TensorView
from edgec.lower.wasm.kernels.builder import Expr, bind
from edgec.lower.wasm.kernels.elementwise_operators import OPERATORS
from edgec.lower.wasm.kernels.generic import Body, Sum, Tensor, each
from edgec.lower.wasm.work import Work
from edgec.passes import dims as d

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
_ACTIVATIONS = "Elu HardSigmoid LeakyRelu Relu Sigmoid Softplus Softsign Tanh ThresholdedRelu".split()
_INPUTS = {"RNN": 6, "GRU": 6, "LSTM": 8}  # X, W, R, B, sequence_lens, initial_h, initial_c, P
_PRESENT = ("bias", "lengths", "hidden", "cell", "peepholes")


def lower(context: GraphContext, node: ir.Node) -> None:
    kind = node.op_type
    inputs = [*node.inputs, *[None] * (_INPUTS[kind] - len(node.inputs))]
    source, weight, recurrent = inputs[0], inputs[1], inputs[2]
    assert source is not None and weight is not None and recurrent is not None
    batch_first = bool(node.attributes.get_int("layout", 0))
    x = context.view(source)
    if batch_first:
        x = x.transposed([1, 0, 2])
    steps, batch = x.shape[0], x.shape[1]
    directions, hidden = context.shape(recurrent)[0], context.shape(recurrent)[2]
    if not isinstance(directions, int) or x.dtype != "float32":
        raise UnsupportedError(f"{label(node)} works on {x.dtype}, only float32 is supported")
    direction = node.attributes.get_string("direction", "forward")
    activations = _activations(node, directions)
    every = context.allocate("sequence", "float32", [steps, directions, batch, hidden])
    states = [
        context.allocate(name, "float32", [directions, batch, hidden])
        for name in ("hidden", *(["cell"] if kind == "LSTM" else []))
    ]
    gates = context.allocate("gates", "float32", [batch, d.multiply(hidden, _GATES[kind])])
    present = tuple(value is not None for value in inputs[3:])
    operands = [x, context.view(weight), context.view(recurrent)]
    for position, value in enumerate(inputs[3:], start=3):
        if value is None:
            continue
        view = context.view(value)
        if batch_first and position in (5, 6):
            view = view.transposed([1, 0, 2])
        operands.append(view)
    clip = node.attributes.get_float("clip", 0.0)
    gate_rows = d.multiply(hidden, _GATES[kind])
    work = Work(
        macs=to_amount(steps, batch, gate_rows, d.add(x.shape[2], hidden)),
        arithmetic="scalar",
        activations=activation_bytes([x, every]),
        results=to_amount(steps, batch, gate_rows),
        functions=to_amount(steps, batch, d.add(gate_rows, hidden)),
        shape=f"{gate_rows}x{x.shape[2]}+{hidden}",
    )
    for number in range(directions):
        backwards = direction == "reverse" or number == 1
        attributes = (
            *(kind, number, backwards, activations[number], present, clip),
            node.attributes.get_int("linear_before_reset", 0),
            node.attributes.get_int("input_forget", 0),
        )
        context.generic("recurrent", attributes, operands, [every, *states, gates], _recurrent(*attributes), work)
    _define(context, node, every, states, batch_first)


def _define(
    context: GraphContext, node: ir.Node, every: TensorView, states: Sequence[TensorView], batch_first: bool
) -> None:
    outputs = [*node.outputs]
    if outputs[0].name or outputs[0].uses():
        context.define(outputs[0], every.transposed([2, 0, 1, 3]) if batch_first else every)
    for output, state in zip(outputs[1:], states, strict=False):
        if output.name or output.uses():
            context.define(output, state.transposed([1, 0, 2]) if batch_first else state)


def _activations(node: ir.Node, directions: int) -> list[tuple[tuple[str, float | None, float | None], ...]]:
    """Name, alpha and beta of each function, per direction; those that take an alpha or beta get the next one."""
    names = list(node.attributes.get_strings("activations") or _DEFAULTS[node.op_type] * directions)
    alphas = list(node.attributes.get_floats("activation_alpha") or [])
    betas = list(node.attributes.get_floats("activation_beta") or [])
    found = []
    for name in names:
        operator = next((known for known in _ACTIVATIONS if known.lower() == name.lower()), None)
        if operator is None:
            raise UnsupportedError(f"{label(node)} has the activation `{name}`, which is not supported")
        alpha = alphas.pop(0) if alphas and operator in ("Elu", "HardSigmoid", "LeakyRelu", "ThresholdedRelu") else None
        beta = betas.pop(0) if betas and operator == "HardSigmoid" else None
        found.append((operator, alpha, beta))
    count = len(found) // directions
    return [tuple(found[i * count : (i + 1) * count]) for i in range(directions)]


def _recurrent(
    kind: str,
    number: int,
    backwards: bool,
    activations: Sequence[tuple[str, float | None, float | None]],
    present: tuple[bool, ...],
    clip: float,
    linear_before_reset: int,
    input_forget: int,
) -> Body:
    count = _GATES[kind]

    def function(i: int, x: Expr) -> Expr:
        name, alpha, beta = activations[i]
        if clip:
            x = tirx.max(tirx.min(x, tirx.const(clip, "float32")), tirx.const(-clip, "float32"))
        attributes = {key: value for key, value in (("alpha", alpha), ("beta", beta)) if value is not None}
        return bind(OPERATORS[name](attributes, "float32", [bind(x)]))

    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        x, w, r = inputs[:3]
        rest = iter(inputs[3:])
        given = dict(zip(_PRESENT, [next(rest) if there else None for there in present], strict=False))
        bias, lengths, peepholes = given.get("bias"), given.get("lengths"), given.get("peepholes")
        every, state, gates = outputs[0], outputs[1], outputs[-1]
        cell = outputs[2] if kind == "LSTM" else None
        me, zero, one = T.int32(number), tirx.const(0.0, "float32"), tirx.const(1.0, "float32")
        steps, batch, features = x.shape
        hidden = r.shape[2]

        def bias_of(row: Expr) -> Expr:
            return bias[[me, row]] if bias is not None else zero

        def recurrence(b: Expr, row: Expr, reset: Expr | None = None) -> Expr:
            """A row of R by the state, or by the product of state and the gates from `reset` on."""
            total = Sum("float32")
            with T.serial(0, hidden) as k:
                value = state[[me, b, k]] * r[[me, row, k]]
                total.add(value if reset is None else gates[[b, reset + k]] * value)
            return bind(total.value)

        def update_rnn(b: Expr) -> None:
            with T.serial(0, hidden) as j:
                gates[[b, j]] = function(0, gates[[b, j]])
            with T.serial(0, hidden) as j:
                state[[me, b, j]] = gates[[b, j]]

        def update_gru(b: Expr) -> None:
            """Gates z and r, then the candidate; the recurrent bias is the second half of B."""
            with T.serial(0, hidden * 2) as row:
                recurrent = recurrence(b, row) + bias_of(hidden * 3 + row)
                gates[[b, row]] = function(0, gates[[b, row]] + recurrent)
            with T.serial(0, hidden) as j:
                row = hidden * 2 + j
                if linear_before_reset:
                    recurrent = gates[[b, hidden + j]] * (recurrence(b, row) + bias_of(hidden * 3 + row))
                else:
                    recurrent = recurrence(b, row, hidden) + bias_of(hidden * 3 + row)
                gates[[b, row]] = function(1, gates[[b, row]] + recurrent)
            with T.serial(0, hidden) as j:
                z = bind(gates[[b, j]])
                state[[me, b, j]] = (one - z) * gates[[b, hidden * 2 + j]] + z * state[[me, b, j]]

        def peephole(j: Expr, gate: int) -> Expr:
            return peepholes[[me, hidden * gate + j]] if peepholes is not None else zero

        def update_lstm(b: Expr) -> None:
            """Gates in the order i, o, f, c; peepholes i, o, f."""
            assert cell is not None
            with T.serial(0, hidden) as j:
                before = bind(cell[[me, b, j]])
                i = function(0, gates[[b, j]] + peephole(j, 0) * before)
                forget = one - i
                if not input_forget:
                    forget = function(0, gates[[b, hidden * 2 + j]] + peephole(j, 2) * before)
                after = bind(forget * before + i * function(1, gates[[b, hidden * 3 + j]]))
                cell[[me, b, j]] = after
                o = function(0, gates[[b, hidden + j]] + peephole(j, 1) * after)
                state[[me, b, j]] = o * function(2, after)

        update = {"RNN": update_rnn, "GRU": update_gru, "LSTM": update_lstm}[kind]
        with each([batch]) as (b,):
            for target, name in ((state, "hidden"), (cell, "cell")):
                start = given.get(name)
                if target is not None:
                    with T.serial(0, hidden) as j:
                        target[[me, b, j]] = start[[me, b, j]] if start is not None else zero
            length = bind(lengths.get([b], "int32")) if lengths is not None else steps
            with T.serial(0, steps) as step:
                # Backwards, an entry's own end comes first; what lies behind it stays last.
                t = bind(tirx.Select(step < length, length - 1 - step, step)) if backwards else step
                with T.If(step < length):
                    with T.Then():
                        with T.serial(0, hidden * count) as row:
                            total = Sum("float32", bias_of(row))
                            with T.serial(0, features) as k:
                                total.add(x[[t, b, k]] * w[[me, row, k]])
                            if kind != "GRU":
                                total.add(recurrence(b, row) + bias_of(hidden * count + row))
                            gates[[b, row]] = total.value
                        update(b)
                        with T.serial(0, hidden) as j:
                            every[[t, me, b, j]] = state[[me, b, j]]
                    with T.Else(), T.serial(0, hidden) as j:
                        every[[t, me, b, j]] = zero

    return body


OPS: dict[str, Callable[[GraphContext, ir.Node], None]] = dict.fromkeys(_GATES, lower)
