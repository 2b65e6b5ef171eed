"""`Constant` nodes become initializers; initializers are no longer optional inputs."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from edgec.passes.base import GraphPass, is_op


class LiftConstants(GraphPass):
    name = "lift-constants"

    def rewrite(self, model: ir.Model) -> bool:
        inputs = common.RemoveInitializersFromInputsPass()(model)
        constants = common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        return inputs.modified or constants.modified

    def ensures(self, model: ir.Model) -> None:
        left = [n.name for n in model.graph if is_op(n, "Constant") and not n.outputs[0].is_graph_output()]
        if left:
            raise ir.passes.PostconditionError(f"constants are left: {left}")
