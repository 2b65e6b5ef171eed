"""Shape arithmetic out of the graph: targets of Reshape with symbolic dimensions become constants.

`Reshape(x, [batch, sequence, 12, 32])`, computed by Shape, Gather and Concat nodes, is
`Reshape(x, [0, 0, 12, 32])`; one other unknown dimension is -1.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.passes import dims as d
from edgec.passes.base import GraphPass, add_initializer, insert_value, is_initializer, is_op, replace, shape_of
from edgec.passes.dims import Dim
from edgec.passes.infer_shapes import infer


class FoldShapes(GraphPass):
    name = "fold-shapes"

    def rewrite(self, model: ir.Model) -> bool:
        infer(model.graph)
        modified = False
        for node in list(model.graph):
            if not is_op(node, "Reshape", "Flatten", "Squeeze", "Unsqueeze") or not node.inputs[0]:
                continue
            if is_op(node, "Reshape") and is_initializer(node.inputs[1]):
                continue
            before, after = shape_of(node.inputs[0]), shape_of(node.outputs[0])
            if before is None or after is None or node.outputs[0].is_graph_output():
                continue
            target = static_target(before, after)
            if target is None:
                continue
            shape = add_initializer(model.graph, f"{node.outputs[0].name}/shape", np.array(target, np.int64))
            replace(node.outputs[0], insert_value(node, "Reshape", [node.inputs[0], shape], like=node.outputs[0]))
            modified = True
        return modified


def static_target(before: list[Dim], after: list[Dim]) -> list[int] | None:
    """`after` in the words of Reshape (0 copies, -1 is what is left), or `None` if that cannot say it."""
    target: list[int] = []
    for axis, dim in enumerate(after):
        if isinstance(dim, int):
            target.append(dim)
        elif axis < len(before) and d.same(before[axis], dim):
            target.append(0)
        elif -1 in target or not d.known(dim):
            return None
        else:
            target.append(-1)
    return None if 0 in [dim for dim in after if isinstance(dim, int)] else target
