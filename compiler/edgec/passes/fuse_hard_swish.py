"""x * clip(x + 3, 0, 6) / 6, in any order of the products, and x * HardSigmoid(x), become `HardSwish`."""

from __future__ import annotations

import math

import onnx_ir as ir

from edgec.passes.base import GraphPass, insert_value, is_op, only_use, producer, replace, scalar

_TOLERANCE = 1e-4


class FuseHardSwish(GraphPass):
    name = "fuse-hard-swish"

    def rewrite(self, model: ir.Model) -> bool:
        modified = False
        for node in list(model.graph):
            found = _match(node)
            if found is None:
                continue
            source, result = found
            end = result.producer()
            assert end is not None
            replace(result, insert_value(end, "HardSwish", [source], like=result))
            modified = True
        return modified


def _match(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """(x, result) when `node` is the Clip or HardSigmoid of a HardSwish of x."""
    if is_op(node, "HardSigmoid"):
        alpha, beta = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
        source, left = node.inputs[0], 1.0
        if not (_near(alpha, 1 / 6) and _near(beta, 0.5)):
            return None
    elif is_op(node, "Clip") and len(node.inputs) == 3 and [scalar(value) for value in node.inputs[1:]] == [0.0, 6.0]:
        source, left = _plus_three(node.inputs[0]), 1 / 6
    else:
        return None
    if source is None:
        return None
    value, has_source = node.outputs[0], False
    for _ in range(2):
        product = only_use(value)
        if product is None or not is_op(product, "Mul"):
            return None
        other = product.inputs[1] if product.inputs[0] is value else product.inputs[0]
        number = scalar(other)
        if other is source and not has_source:
            has_source = True
        elif number is not None and number != 0:
            left /= number
        else:
            return None
        value = product.outputs[0]
        if has_source and _near(left, 1.0):
            return source, value
    return None


def _plus_three(value: ir.Value | None) -> ir.Value | None:
    """x of x + 3."""
    total = producer(value, "Add")
    if total is None:
        return None
    first, second = total.inputs
    if scalar(second) == 3.0:
        return first
    return second if scalar(first) == 3.0 else None


def _near(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=_TOLERANCE)
