"""x * 0.5 * (1 + erf(x / sqrt 2)), in any order of the products, becomes `Gelu`; the tanh form too."""

from __future__ import annotations

import math

import onnx_ir as ir

from edgec.passes.base import GraphPass, insert_value, is_op, only_use, producer, replace, scalar

_TOLERANCE = 1e-4


class FuseGelu(GraphPass):
    name = "fuse-gelu"

    def rewrite(self, model: ir.Model) -> bool:
        modified = False
        for node in list(model.graph):
            if not is_op(node, "Erf", "Tanh"):
                continue
            found = _match(node)
            if found is None:
                continue
            source, result = found
            approximate = "tanh" if node.op_type == "Tanh" else "none"
            end = result.producer()
            assert end is not None
            replace(result, insert_value(end, "Gelu", [source], {"approximate": approximate}, like=result))
            modified = True
        return modified


def _match(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """(x, result) when `node` is the Erf or Tanh of a GELU of x."""
    source = _erf_argument(node.inputs[0]) if node.op_type == "Erf" else _tanh_argument(node.inputs[0])
    if source is None:
        return None
    plus_one = only_use(node.outputs[0])
    if not is_op(plus_one, "Add") or _number_operand(plus_one) != 1.0:
        return None
    assert plus_one is not None
    # Two products are left, by x and by 1/2, which may also come together as (x / 2).
    value, factors, has_source = plus_one.outputs[0], 1.0, False
    for _ in range(2):
        product = only_use(value)
        if not is_op(product, "Mul"):
            return None
        assert product is not None
        other = product.inputs[1] if product.inputs[0] is value else product.inputs[0]
        number = scalar(other)
        if number is not None:
            factors *= number
        elif other is source and not has_source:
            has_source = True
        elif not has_source and _scaled(other, source) is not None:
            has_source = True
            factors *= _scaled(other, source) or 1.0
        else:
            return None
        value = product.outputs[0]
        if has_source and math.isclose(factors, 0.5, rel_tol=_TOLERANCE):
            return source, value
    return None


def _erf_argument(value: ir.Value | None) -> ir.Value | None:
    """x of x / sqrt(2)."""
    node = producer(value, "Mul", "Div")
    if node is None:
        return None
    number = _number_operand(node)
    if number is None or (node.op_type == "Div" and scalar(node.inputs[1]) is None):
        return None
    factor = 1 / number if node.op_type == "Div" else number
    return _other_operand(node) if math.isclose(factor, math.sqrt(0.5), rel_tol=_TOLERANCE) else None


def _tanh_argument(value: ir.Value | None) -> ir.Value | None:
    """x of sqrt(2 / pi) * (x + 0.044715 * x^3)."""
    outer = producer(value, "Mul")
    if outer is None or not math.isclose(_number_operand(outer) or 0, math.sqrt(2 / math.pi), rel_tol=_TOLERANCE):
        return None
    total = producer(_other_operand(outer), "Add")
    if total is None:
        return None
    for source, cubic in (total.inputs, reversed(total.inputs)):
        product = producer(cubic, "Mul")
        if product is None or not math.isclose(_number_operand(product) or 0, 0.044715, rel_tol=_TOLERANCE):
            continue
        if source is not None and _is_cube(_other_operand(product), source):
            return source
    return None


def _is_cube(value: ir.Value | None, source: ir.Value) -> bool:
    power = producer(value, "Pow")
    if power is not None:
        return power.inputs[0] is source and scalar(power.inputs[1]) == 3
    product = producer(value, "Mul")
    if product is None or source not in product.inputs:
        return False
    square = producer(next((v for v in product.inputs if v is not source), None), "Mul")
    return square is not None and all(operand is source for operand in square.inputs)


def _scaled(value: ir.Value | None, source: ir.Value) -> float | None:
    """The number f when `value` is f * source."""
    node = producer(value, "Mul")
    return _number_operand(node) if node is not None and source in node.inputs else None


def _number_operand(node: ir.Node | None) -> float | None:
    if node is None:
        return None
    numbers = [n for n in (scalar(value) for value in node.inputs) if n is not None]
    return numbers[0] if numbers else None


def _other_operand(node: ir.Node) -> ir.Value | None:
    return node.inputs[0] if scalar(node.inputs[0]) is None else node.inputs[1]
