"""`compress`: the plan's decisions applied to the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgec.compress.matrix import pack_matrix
from edgec.errors import ModelError
from edgec.ir.compressed import GROUP, LARGEST_CODE, CompressedModel, PackedTensor
from edgec.ir.model import ModelIR
from edgec.ir.plan import Plan, TensorPlan
from edgec.ir.weight_use import FLOAT_TYPES, WeightUse, weight_uses

Progress = Callable[[str, int, int], None]  # tensor, weights done before it, weights in all


def compress(model: ModelIR, plan: Plan, *, progress: Progress | None = None) -> CompressedModel:
    """Quantize every initializer to which `plan` gives 4, 6, 7 or 8 bits; check that the others are finite.

    One initializer is held as float at a time. `report` has `tensors` (per name: bits, rows,
    columns, bytes, relative_rmse, max_abs) and totals. Raises `ModelError` for a plan that does
    not match the model and for values that are NaN, infinite or too large.
    """
    uses = weight_uses(model.model)
    initializers = model.model.graph.initializers
    for planned in plan.tensors:
        if planned.name not in initializers:
            raise ModelError(
                f"the plan names the tensor `{planned.name}`, which `{model.facts.name}` does not have",
                hint="make the plan again from this model",
            )
    names = [n for n, v in initializers.items() if v.const_value is not None and v.const_value.dtype in FLOAT_TYPES]
    sizes = {name: _size(model, name) for name in names}
    total, done = sum(sizes.values()), 0
    packed: dict[str, PackedTensor] = {}
    for name in names:
        if progress is not None:
            progress(name, done, total)
        tensor_plan = plan.tensor(name)
        if tensor_plan is None or tensor_plan.bits == 32:
            _check_finite(model, name)
        else:
            packed[name] = _pack(model, tensor_plan, uses.get(name))
        done += sizes[name]
    if progress is not None:
        progress("", total, total)
    return CompressedModel(model, plan, packed, _report(packed, sizes, plan))


def _size(model: ModelIR, name: str) -> int:
    tensor = model.model.graph.initializers[name].const_value
    assert tensor is not None
    return int(tensor.size)


def _array(model: ModelIR, name: str) -> np.ndarray[Any, np.dtype[Any]]:
    tensor = model.model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def _pack(model: ModelIR, tensor_plan: TensorPlan, use: WeightUse | None) -> PackedTensor:
    name, bits = tensor_plan.name, tensor_plan.bits
    if use is None:
        raise ModelError(
            f"the plan gives `{name}` {bits} bits, but it is not used as a weight matrix",
            hint="set its `bits` to 32 and its `group_size` to 0",
        )
    if bits not in LARGEST_CODE or tensor_plan.group_size != GROUP or tensor_plan.scheme != "asymmetric":
        raise ModelError(
            f"the plan gives `{name}` {bits} bits, groups of {tensor_plan.group_size} and the scheme "
            f"`{tensor_plan.scheme}`, expected 4, 6, 7 or 8 bits, groups of {GROUP} and `asymmetric`"
        )
    matrix = use.to_matrix(_array(model, name))
    return pack_matrix(name, matrix, bits, lambda row, column: _array_index(use, row, column))


def _array_index(use: WeightUse, row: int, column: int) -> tuple[int, ...]:
    """Where the element `[row, column]` of the matrix is in the initializer's array."""
    if use.layout == "kn":
        return column, row
    if use.layout == "nk":
        return row, column
    if use.layout == "ekn":
        return row // use.shape[2], column, row % use.shape[2]
    *kernel, channel = np.unravel_index(column, (*use.shape[2:], use.shape[1]))
    return (row, int(channel), *(int(k) for k in kernel))


def _check_finite(model: ModelIR, name: str) -> None:
    array = _array(model, name)
    bad = np.flatnonzero(~np.isfinite(array.astype(np.float32, copy=False)))
    if bad.size:
        index = ", ".join(str(int(i)) for i in np.unravel_index(bad[0], array.shape))
        raise ModelError(
            f"tensor `{name}` has the value {array.reshape(-1)[bad[0]]} at [{index}]",
            hint="check the checkpoint for damage or a diverged training run",
        )


def _report(packed: Mapping[str, PackedTensor], sizes: Mapping[str, int], plan: Plan) -> dict[str, Any]:
    tensors: dict[str, dict[str, Any]] = {}
    for name, tensor in packed.items():
        planned = plan.tensor(name)
        assert planned is not None
        tensors[name] = {
            "bits": planned.bits,
            "rows": tensor.rows,
            "columns": tensor.columns,
            "bytes": tensor.high.size * planned.bits // 4 + tensor.scales.nbytes + tensor.zeros.nbytes,  # as stored
            **tensor.error,
        }
    quantized = sum(sizes[name] for name in packed)
    squares = sum(sizes[name] * t["relative_rmse"] ** 2 for name, t in tensors.items())
    return {
        "tensors": tensors,
        "quantized_parameters": quantized,
        "float_parameters": sum(sizes.values()) - quantized,
        "packed_bytes": sum(t["bytes"] for t in tensors.values()),
        # Weighted by size: a large error in a small tensor shows in `worst_tensor` only.
        "relative_rmse": math.sqrt(squares / quantized) if quantized else 0.0,
        "max_abs": max((t["max_abs"] for t in tensors.values()), default=0.0),
        "worst_tensor": max(tensors, key=lambda n: tensors[n]["relative_rmse"], default=None),
    }


__all__ = ["Progress", "compress"]
