"""A checkpoint whose packed matrices are read as plain ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from edgec.errors import ModelError
from edgec.frontend.prequantized.base import Floats, Method
from edgec.frontend.safetensors_file import FLOAT_DTYPES, SafetensorsWeights
from edgec.ir.plan import Bits


class PrequantizedWeights:
    """`stored` with each packed matrix under the name of its floats, `[out, in]`, or `transposed`."""

    def __init__(
        self, stored: SafetensorsWeights, method: Method, config: Mapping[str, Any], *, transposed: bool = False
    ) -> None:
        self._stored, self._transposed = stored, transposed
        self._matrices = method.matrices(config, stored.entries)
        parts = {entry.name for matrix in self._matrices.values() for entry in matrix.parts}
        self._plain = [name for name in stored.entries if name not in parts]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = {name: self._stored.entries[name].shape for name in self._plain}
        for name, matrix in self._matrices.items():
            shapes[name] = matrix.shape[::-1] if self._transposed else matrix.shape
        return shapes

    def foreign_dtypes(self) -> set[str]:
        """Dtypes of tensors that are neither floats nor of a matrix."""
        return {self._stored.entries[name].dtype for name in self._plain} - FLOAT_DTYPES

    def rename(self, old: str, new: str) -> None:
        if old in self._matrices:
            self._matrices[new] = self._matrices.pop(old)
        else:
            self._stored.rename(old, new)
            self._plain[self._plain.index(old)] = new

    def read(self, name: str) -> Floats:
        matrix = self._matrices.get(name)
        if matrix is None:
            return self._stored.read(name)
        values = matrix.read()
        return values.T if self._transposed else values

    def grid_bits(self, name: str) -> Bits | None:
        matrix = self._matrices.get(name)
        return None if matrix is None else matrix.grid_bits()

    def leave_out_empty_biases(self, needed: Collection[str]) -> None:
        """AutoGPTQ gives every linear a bias: those that the model has none of have to be zero."""
        for matrix in self._matrices:
            bias = matrix.removesuffix(".weight") + ".bias"
            if bias not in self._plain or bias in needed:
                continue
            if np.any(self._stored.read(bias)):
                raise ModelError(
                    f"the checkpoint has a bias `{bias}`, which the model's family does not have",
                    hint="the configuration and the weights are of different models",
                )
            self._plain.remove(bias)


__all__ = ["PrequantizedWeights"]
