"""Maxima over growing windows of one tensor (spatial pyramids): each is taken over the maxima of the one before.

With steps of 1 and windows around their pixel, the largest of 9 x 9 is the largest of 5 x 5 maxima of 5 x 5, at borders
too.
"""

from __future__ import annotations

import onnx_ir as ir

from edgec.passes.base import GraphPass, is_op, is_read, shape_of


class ChainPools(GraphPass):
    name = "chain-pools"

    def rewrite(self, model: ir.Model) -> bool:
        modified = False
        smaller: dict[ir.Value, list[tuple[list[int], ir.Value]]] = {}
        for node in model.graph:
            source, kernel = node.inputs[0] if node.inputs else None, _centred(node)
            if source is None or kernel is None:
                continue
            known = smaller.setdefault(source, [])
            fitting = [(own, value) for own, value in known if own != kernel and _fits(own, kernel)]
            if fitting:
                own, value = max(fitting, key=lambda each: sum(each[0]))
                left = [k - o for k, o in zip(kernel, own, strict=True)]
                node.replace_input_with(0, value)
                node.attributes.add(ir.AttrInt64s("kernel_shape", [size + 1 for size in left]))
                node.attributes.add(ir.AttrInt64s("pads", [size // 2 for size in left] * 2))
                modified = True
            known.append((kernel, node.outputs[0]))
        return modified


def _centred(node: ir.Node) -> list[int] | None:
    """The sides of a MaxPool that keeps the size, around each pixel."""
    shape = shape_of(node.inputs[0]) if is_op(node, "MaxPool") else None
    if shape is None or (len(node.outputs) > 1 and is_read(node.outputs[1])) or "auto_pad" in node.attributes:
        return None
    kernel = list(node.attributes.get_ints("kernel_shape") or [])
    ones = [1] * len(kernel)
    strides, dilations = (list(node.attributes.get_ints(name) or ones) for name in ("strides", "dilations"))
    pads = list(node.attributes.get_ints("pads") or [0] * (2 * len(kernel)))
    around = [(size - 1) // 2 for size in kernel] * 2
    return kernel if strides == dilations == ones and pads == around and all(size % 2 for size in kernel) else None


def _fits(inner: list[int], outer: list[int]) -> bool:
    return all(a <= b for a, b in zip(inner, outer, strict=True))
