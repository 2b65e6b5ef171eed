"""A `Pad` with zeros before a `Conv` becomes the `pads` of the `Conv`; `auto_pad` becomes `pads` too."""

from __future__ import annotations

import onnx_ir as ir

from edgec.passes.base import GraphPass, constant, is_op, producer, scalar, shape_of
from edgec.passes.infer_shapes import content_of, infer
from edgec.passes.shape_context import Context, Unknown
from edgec.passes.shape_windows import spatial_pads


class FoldPad(GraphPass):
    name = "fold-pad"

    def rewrite(self, model: ir.Model) -> bool:
        infer(model.graph)
        modified = False
        for node in list(model.graph):
            if is_op(node, "Conv", "MaxPool", "AveragePool") and "auto_pad" in node.attributes:
                modified |= _explicit(node)
            if is_op(node, "Conv"):
                modified |= _absorb(node)
        return modified


def _explicit(node: ir.Node) -> bool:
    """Replaces `auto_pad` where the sizes are numbers."""
    shapes = [shape_of(value) for value in node.inputs]
    weight = shapes[1] if len(shapes) > 1 else None
    kernel = [dim for dim in (weight or [])[2:] if isinstance(dim, int)]
    context = Context(node, shapes, [content_of(value) for value in node.inputs])
    try:
        pads = list(zip(*spatial_pads(context, context.integers("kernel_shape", kernel)), strict=True))
    except Unknown:
        return False
    node.attributes.pop("auto_pad")
    node.attributes.add(ir.AttrInt64s("pads", [dim for part in pads for dim in part if isinstance(dim, int)]))
    return True


def _absorb(conv: ir.Node) -> bool:
    pad = producer(conv.inputs[0], "Pad")
    if pad is None or "auto_pad" in conv.attributes or pad.attributes.get_string("mode", "constant") != "constant":
        return False
    if len(pad.inputs) > 3 and pad.inputs[3] is not None:
        return False
    if len(pad.inputs) > 2 and pad.inputs[2] is not None and scalar(pad.inputs[2]) != 0:
        return False
    amounts = constant(pad.inputs[1])
    if amounts is None or amounts.min() < 0:
        return False
    rank = len(amounts) // 2
    if any(amounts[[0, 1, rank, rank + 1]]):
        return False
    old = conv.attributes.get_ints("pads") or [0] * (2 * (rank - 2))
    added = [*amounts[2:rank], *amounts[rank + 2 :]]
    conv.attributes.add(ir.AttrInt64s("pads", [int(a + b) for a, b in zip(old, added, strict=True)]))
    conv.replace_input_with(0, pad.inputs[0])
    return True
