"""Packed tensors of earlier compilations, by everything that they depend on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.compress.calibration.samples import Sample
from edgec.compress.calibration.sites import Wave
from edgec.errors import ModelError
from edgec.ir.compressed import Coarser, PackedTensor
from edgec.ir.plan import NESTED_BITS, TensorPlan
from edgec.ir.store import Arrays, Store, key_of
from edgec.ir.weight_use import WeightUse

_ERRORS = ("relative_rmse", "max_abs", "relative_output_error")


class TensorStore:
    """`base` names the model; without a `store` nothing is ever found or kept."""

    def __init__(self, store: Store | None, base: str, uses: Mapping[str, WeightUse]) -> None:
        self._store = store
        self._base = base
        self._uses = uses
        self._keys: dict[str, str] = {}

    def plain(self, planned: Iterable[TensorPlan]) -> None:
        """These tensors depend on nothing but themselves."""
        self._keys |= {tensor.name: key_of("tensor", self._base, _choice(tensor)) for tensor in planned}

    def calibrated(
        self,
        waves: Sequence[Wave],
        plans: Mapping[str, TensorPlan],
        plain: Iterable[TensorPlan],
        samples: Sequence[Sample],
        more: str,
    ) -> None:
        """These are quantized on the samples and on `more`, through what all tensors of earlier waves became."""
        before = key_of("samples", self._base, [dict(sample) for sample in samples], more, [_choice(t) for t in plain])
        for wave in waves:
            choices = [_choice(plans[name]) for name in wave.weights]
            for name, choice in zip(wave.weights, choices, strict=True):
                self._keys[name] = key_of("calibrated tensor", before, choice)
            before = key_of("wave", before, choices)

    def load(self, name: str) -> PackedTensor | None:
        if self._store is None:
            return None
        key, use = self._keys[name], self._uses[name]
        arrays = self._store.load(key)
        if arrays is None:
            return None
        try:
            tensor = _unpack(name, arrays)
            tensor.verify()
        except (KeyError, ValueError, ModelError):
            tensor = None
        if tensor is None or (tensor.rows, tensor.columns) != (use.rows, use.columns):
            self._store.refuse(key)
            return None
        return tensor

    def save(self, tensor: PackedTensor) -> None:
        if self._store is not None:
            self._store.save(self._keys[tensor.name], _pack(tensor))


def _choice(planned: TensorPlan) -> list[str | int]:
    choice: list[str | int] = [planned.name, planned.bits, planned.group_size, planned.scheme, planned.quantizer]
    return [*choice, *planned.coarser]


def _pack(tensor: PackedTensor) -> Arrays:
    arrays: dict[str, npt.NDArray[Any]] = {
        "shape": np.asarray([tensor.rows, tensor.columns, tensor.bits, tensor.group_size], np.int64),
        "high": tensor.high,
        "scales": tensor.scales,
        "zeros": tensor.zeros,
        "error": _errors(tensor.error),
    }
    if tensor.low is not None:
        arrays["low"] = tensor.low
    for depth in tensor.coarser:
        of = depth.bits
        arrays |= {f"scales{of}": depth.scales, f"zeros{of}": depth.zeros, f"error{of}": _errors(depth.error)}
    return arrays


def _errors(error: Mapping[str, float]) -> npt.NDArray[np.float64]:
    return np.asarray([error.get(name, np.nan) for name in _ERRORS], np.float64)


def _named(errors: npt.NDArray[Any]) -> dict[str, float]:
    return {name: float(number) for name, number in zip(_ERRORS, errors, strict=True) if number == number}


def _unpack(name: str, arrays: Arrays) -> PackedTensor:
    rows, columns, bits, size = (int(number) for number in arrays["shape"])
    parts = arrays["high"], arrays.get("low"), arrays["scales"], arrays["zeros"]
    coarser = [
        Coarser(depth, arrays[f"scales{depth}"], arrays[f"zeros{depth}"], _named(arrays[f"error{depth}"]))
        for depth in range(NESTED_BITS - 1, 0, -1)
        if f"scales{depth}" in arrays
    ]
    return PackedTensor(name, rows, columns, bits, *parts, _named(arrays["error"]), size, tuple(coarser))


__all__ = ["TensorStore"]
