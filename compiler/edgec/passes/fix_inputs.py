"""Inputs that get their value when a model is compiled: shapes, axes and counts that decide how large tensors are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgec.errors import UsageError
from edgec.ir.model import ModelIR


def fix_inputs(model: ModelIR, values: Mapping[str, npt.ArrayLike]) -> ModelIR:
    """The model without the inputs named in `values`, which are constants from now on; `model` is not changed.

    Numbers are brought to the input's element type and declared shape. Raises `UsageError` for names that
    the model does not have and for values that do not fit.
    """
    if not values:
        return model
    result = model.model.clone()
    graph = result.graph
    inputs = {value.name: value for value in graph.inputs}
    for name, given in values.items():
        value = inputs.get(name)
        if value is None:
            known = ", ".join(f"`{known}`" for known in inputs) or "none"
            raise UsageError(f"`{model.facts.name}` has no input `{name}`", hint=f"its inputs are {known}")
        graph.inputs.remove(value)
        value.const_value = ir.tensor(_converted(value, np.asarray(given)), name=name)
        value.shape = ir.Shape(value.const_value.shape.numpy())
        graph.register_initializer(value)
    parts = {
        name: dataclasses.replace(part, inputs=tuple(given for given in part.inputs if given not in values))
        for name, part in model.parts.items()
    }
    return dataclasses.replace(model, model=result, parts=parts)


def _converted(value: ir.Value, array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    if value.dtype is None or value.dtype == ir.DataType.STRING:
        raise UsageError(f"the input `{value.name}` holds no numbers, it cannot be fixed")
    converted = array.astype(value.dtype.numpy())
    if array.dtype.kind in "biuf" and not np.array_equal(converted.astype(np.float64), array.astype(np.float64)):
        raise UsageError(f"the input `{value.name}` is {value.dtype.name}, which does not hold {array.tolist()}")
    dims = [dim if isinstance(dim, int) else -1 for dim in value.shape.dims] if value.shape is not None else None
    if dims is None or list(converted.shape) == dims:
        return converted
    try:
        return converted.reshape(dims)
    except ValueError:
        raise UsageError(
            f"the input `{value.name}` has the shape {[str(dim) for dim in value.shape or ()]}, "
            f"{converted.size} numbers do not fill it"
        ) from None


__all__ = ["fix_inputs"]
