"""`BatchNormalization` goes into the weights of the convolution before it, or becomes `Mul` and `Add`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgec.passes.base import GraphPass, add_initializer, constant, insert_value, is_op, replace, shape_of
from edgec.passes.fold_affine import convolution_behind, scaled


class FoldBatchNorm(GraphPass):
    name = "fold-batch-norm"

    def rewrite(self, model: ir.Model) -> bool:
        modified = False
        for node in list(model.graph):
            if (
                not is_op(node, "BatchNormalization")
                or len(node.outputs) > 1
                or node.attributes.get_int("training_mode", 0) != 0
            ):
                continue
            factors = _scale_and_shift(node)
            if factors is None:
                continue
            folded = _into_conv(model.graph, node, *factors)
            if folded is None:
                folded = _as_arithmetic(model.graph, node, *factors)
            if folded is not None:
                replace(node.outputs[0], folded)
                modified = True
        return modified


def _scale_and_shift(node: ir.Node) -> tuple[npt.NDArray[Any], npt.NDArray[Any]] | None:
    arrays = [constant(value) for value in node.inputs[1:5]]
    gamma, beta, mean, variance = arrays
    if gamma is None or beta is None or mean is None or variance is None:
        return None
    scale = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + node.attributes.get_float("epsilon", 1e-5))
    return scale, beta - mean * scale


def _into_conv(graph: ir.Graph, node: ir.Node, scale: npt.NDArray[Any], shift: npt.NDArray[Any]) -> ir.Value | None:
    conv = convolution_behind(node.inputs[0])
    return None if conv is None else scaled(graph, node, conv, scale, shift)


def _as_arithmetic(graph: ir.Graph, node: ir.Node, scale: npt.NDArray[Any], shift: npt.NDArray[Any]) -> ir.Value | None:
    shape = shape_of(node.inputs[0])
    if shape is None:
        return None
    per_channel = [-1, *[1] * (len(shape) - 2)]
    factor = add_initializer(graph, f"{node.name}/scale", scale.astype(np.float32).reshape(per_channel))
    offset = add_initializer(graph, f"{node.name}/shift", shift.astype(np.float32).reshape(per_channel))
    product = insert_value(node, "Mul", [node.inputs[0], factor], like=node.outputs[0])
    return insert_value(node, "Add", [product, offset], like=node.outputs[0])
