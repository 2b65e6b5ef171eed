"""What a task needs of a graph, so that the same code drives a bundle and the float model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgec.bundle.manifest import Slot
from edgec.errors import UnsupportedError
from edgec.run.graph import Arrays


class GraphRunner(Protocol):
    """A graph that runs: `inputs` in order, upper bounds `dims` of the symbolic dimensions that have one."""

    @property
    def inputs(self) -> Sequence[Slot]: ...

    @property
    def dims(self) -> Mapping[str, int]: ...

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Outputs by name, in the graph's order."""


FLOATS = ("float32", "float16", "bfloat16", "float64")


def first_float_output(outputs: Mapping[str, npt.NDArray[Any]], rank: int | None = None) -> npt.NDArray[np.float32]:
    """The first floating-point output, of `rank` dimensions if that is given. Raises `UnsupportedError`."""
    for array in outputs.values():
        if array.dtype.name in FLOATS and rank in (None, array.ndim):
            return np.asarray(array, np.float32)
    wanted = f" of {rank} dimensions" if rank else ""
    raise UnsupportedError(f"the model has no floating-point output{wanted}")
