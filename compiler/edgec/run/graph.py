"""Graphs: arrays by name in, arrays by name out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from edgec.bundle import dims as dimensions
from edgec.bundle.manifest import Slot
from edgec.errors import RunError, UsageError
from edgec.run.engine import Engine, numpy_dtype

Arrays = Mapping[str, npt.ArrayLike]
_STEPS = re.compile(r"(?:([0-9]+)\*)?([A-Za-z_][A-Za-z0-9_.]*)")  # a dimension that a size tells: `name`, or `32*name`


class Graph:
    """One graph of a bundle: `inputs` in order, upper bounds `dims` of their symbolic dimensions."""

    def __init__(self, engine: Engine, name: str) -> None:
        manifest = engine.manifest
        names = manifest.graphs[name]
        self.name = name
        self.inputs: Sequence[Slot] = [slot for slot in manifest.inputs if slot.name in names.inputs]
        self.outputs: Sequence[Slot] = [slot for slot in manifest.outputs if slot.name in names.outputs]
        self.dims: Mapping[str, int] = {dim: manifest.dims[dim] for dim in manifest.entry_points[name]}
        self._engine = engine

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Run it once.

        Raises `UsageError` for inputs of the wrong name, type or shape, `RunError` for values that make a tensor
        larger than the bundle holds, or that make no sense.
        """
        wanted = {slot.name: slot for slot in self.inputs}
        if inputs.keys() != wanted.keys():
            raise UsageError(f"the inputs are {_listed(inputs)}", hint=f"the model wants {_listed(wanted)}")
        arrays = {name: _converted(wanted[name], np.asarray(value)) for name, value in inputs.items()}
        dims = _bind_dims(self.dims, wanted, arrays)
        for name, array in arrays.items():
            self._engine.view(wanted[name], array.size)[:] = array.reshape(-1)
        self._engine.call(self.name, *(dims[name] for name in self.dims))
        dims |= {number.name: self._engine.computed(number) for number in self._engine.manifest.computed}
        return {slot.name: _output(self._engine, slot, dims) for slot in self.outputs}


def open_graph(engine: Engine, name: str | None = None) -> Graph:
    """The graph of this name, or the only one. Raises `UsageError` when there is none, or more than one."""
    graphs = engine.manifest.graphs
    if name is None and len(graphs) > 1:
        raise UsageError("the model has several graphs", hint=f"name one of {_listed(graphs)}")
    chosen = next(iter(graphs)) if name is None else name
    if chosen not in graphs:
        raise UsageError(f"there is no graph `{chosen}`", hint=f"the model has {_listed(graphs)}")
    return Graph(engine, chosen)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def _converted(slot: Slot, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array in the slot's type, if no value changes by more than rounding."""
    dtype = numpy_dtype(slot)
    if array.dtype == dtype:
        return array
    integer = slot.dtype.removeprefix("u").startswith("int")
    small_float = not integer and dtype.kind == "V"  # bfloat16 and smaller; numpy does not know that they are floats
    if integer and array.dtype.kind in "iu":
        limits = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
        if array.size and not (limits.min <= array.min() and array.max() <= limits.max):
            raise UsageError(f"input `{slot.name}` has values outside {slot.dtype}")
    elif not (small_float and array.dtype.kind == "f") and not np.can_cast(array.dtype, dtype, "same_kind"):
        raise UsageError(f"input `{slot.name}` is {array.dtype}", hint=f"the model wants {slot.dtype}")
    return array.astype(dtype)


def _bind_dims(
    bounds: Mapping[str, int], slots: Mapping[str, Slot], arrays: Mapping[str, npt.NDArray[Any]]
) -> dict[str, int]:
    """The value of every dimension, read off the shapes of the inputs."""
    dims: dict[str, int] = {}
    for name, slot in slots.items():
        shape = arrays[name].shape
        if len(shape) != len(slot.shape):
            raise UsageError(f"input `{name}` has {len(shape)} dimensions", hint=f"the model wants {_shown(slot)}")
        for dimension, size in zip(slot.shape, shape, strict=True):
            steps = _STEPS.fullmatch(dimension) if isinstance(dimension, str) else None
            if steps is not None:
                dims.setdefault(steps[2], size // max(1, int(steps[1] or 1)))
    for name, size in dims.items():
        if not 1 <= size <= bounds[name]:
            hint = "use smaller inputs, or compile the model for larger ones"
            raise UsageError(f"the dimension `{name}` is {size}, the bundle holds 1 to {bounds[name]}", hint=hint)
    for name in bounds:
        if name not in dims:
            raise RunError(f"no input gives the dimension `{name}`")
    for name, slot in slots.items():
        expected = _shape(slot, dims)
        if arrays[name].shape != expected:
            hint = f"the model wants {_shown(slot)}, here {list(expected)}"
            raise UsageError(f"input `{name}` has the shape {list(arrays[name].shape)}", hint=hint)
    return dims


def _shape(slot: Slot, dims: Mapping[str, int]) -> tuple[int, ...]:
    shape = tuple(dimensions.evaluate(dimension, dims) for dimension in slot.shape)
    if min(shape, default=0) < 0 or math.prod(shape) * numpy_dtype(slot).itemsize > slot.bytes:
        raise RunError(f"the shape {list(shape)} of `{slot.name}` is not possible")
    return shape


def _output(engine: Engine, slot: Slot, dims: Mapping[str, int]) -> npt.NDArray[Any]:
    shape = _shape(slot, dims)
    return engine.view(slot, math.prod(shape)).reshape(shape).copy()


def _shown(slot: Slot) -> str:
    return f"{slot.dtype} [{', '.join(str(dimension) for dimension in slot.shape)}]"
