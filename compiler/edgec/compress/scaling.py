"""Scales of AWQ moved from matrices into the norm before them: another graph of the same function.

All that reads the norm's output must be matrices that get the scales; then its weight and its bias are divided by
them. Elsewhere nothing is scaled: what attention and gates give has no vector of its own that could take the scales.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir

from edgec.compress.calibration.samples import Sample
from edgec.compress.calibration.sites import Schedule, schedule
from edgec.compress.calibration.walk import Walk
from edgec.compress.quantize import Grid
from edgec.compress.quantize.awq import Awq, channel_scales
from edgec.ir.model import ModelIR
from edgec.ir.plan import TensorPlan
from edgec.ir.weight_use import WeightUse, weight_uses

Floats = npt.NDArray[np.float32]
_NORMS = ("RMSNormalization", "LayerNormalization")


@dataclasses.dataclass(frozen=True)
class _Place:
    """Matrices with the same input, and the initializers that can divide it."""

    weights: tuple[str, ...]
    before: tuple[str, ...]  # vectors `[features]`


def scaled(model: ModelIR, planned: Sequence[TensorPlan], samples: Sequence[Sample]) -> ModelIR:
    """`model` with scaled columns for the tensors of `planned` whose quantizer is `awq`, of the same function.

    Scales are chosen on `samples` in the float model. The new weights are computed when they are read; while the
    scales are searched, one wave's weights and second moments are in memory.
    """
    plans = {tensor.name: tensor for tensor in planned if tensor.quantizer == Awq.name}
    uses = weight_uses(model.model)
    waves = schedule(model.model.graph, uses, plans)
    places = {place.weights[0]: place for place in _places(waves, uses)}
    if not places:
        return model
    scales: dict[str, Floats] = {}  # of columns, by weight
    divisors: dict[str, Floats] = {}  # one by the scales, by vector
    for wave, statistics in Walk(model, waves, samples, places):
        for name in wave.weights:
            place = places.get(name)
            if place is None:
                continue
            matrices = [
                (uses[weight].to_matrix(_array(model, weight)), _grid(plans[weight])) for weight in place.weights
            ]
            found = channel_scales(matrices, statistics[name])
            scales |= dict.fromkeys(place.weights, found)
            divisors |= dict.fromkeys(place.before, np.reciprocal(found))
    copy = model.model.clone()
    for name, factor in [*scales.items(), *divisors.items()]:
        value = copy.graph.initializers[name]
        tensor = value.const_value
        assert tensor is not None
        shape = onnx_ir.Shape(tensor.shape.numpy())
        value.const_value = onnx_ir.LazyTensor(_reader(tensor, factor), dtype=tensor.dtype, shape=shape, name=name)
    return dataclasses.replace(model, model=copy)


def _reader(tensor: onnx_ir.TensorProtocol, factor: Floats) -> Callable[[], onnx_ir.TensorProtocol]:
    """Rows of a matrix `[in, out]`, or elements of a vector, times `factor` `[in]`."""

    def read() -> onnx_ir.TensorProtocol:
        array = tensor.numpy()
        product = array.astype(np.float32) * (factor[:, None] if array.ndim == 2 else factor)
        return onnx_ir.Tensor(product.astype(array.dtype), dtype=tensor.dtype, name=tensor.name)

    return read


def _grid(planned: TensorPlan) -> Grid:
    return Grid(planned.bits, planned.compact, planned.group_size, ternary=planned.ternary)


def _array(model: ModelIR, name: str) -> npt.NDArray[np.generic]:
    tensor = model.model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def _places(waves: Schedule, uses: Mapping[str, WeightUse]) -> list[_Place]:
    readers: dict[onnx_ir.Value, list[str]] = {}
    for name, sites in waves.sites.items():
        if len(sites) == 1 and sites[0].node.op_type == "MatMul" and uses[name].layout == "kn":
            readers.setdefault(sites[0].value, []).append(name)
    found = []
    for value, weights in readers.items():
        before = _before(value) if len(value.uses()) == len(weights) and not value.is_graph_output() else ()
        if before:
            found.append(_Place(tuple(weights), before))
    return found


def _before(value: onnx_ir.Value) -> tuple[str, ...]:
    """The weight and the bias of the norm that gives `value`; nothing where there is none."""
    node = value.producer()
    return _own(node.inputs[1:]) if node is not None and node.op_type in _NORMS else ()


def _own(values: Sequence[onnx_ir.Value | None]) -> tuple[str, ...]:
    """The names of initializers that have no other use; none where one has."""
    given = [value for value in values if value is not None]
    if all(v.is_initializer() and len(v.uses()) == 1 and v.const_value is not None for v in given):
        return tuple(str(value.name) for value in given)
    return ()


__all__ = ["scaled"]
