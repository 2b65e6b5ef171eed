"""Model-local functions become ordinary nodes."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from edgec.passes.base import GraphPass


class InlineFunctions(GraphPass):
    name = "inline-functions"

    def rewrite(self, model: ir.Model) -> bool:
        return common.InlinePass()(model).modified

    def ensures(self, model: ir.Model) -> None:
        if model.functions:
            raise ir.passes.PostconditionError(f"{len(model.functions)} functions are left")
