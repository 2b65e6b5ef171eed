"""BitNet b1.58 (Ma et al. 2024): weights -1, 0, 1 times a scale for each matrix, as `transformers` stores them.

    weight        uint8 [out / 4, in]  codes 0, 1, 2 of two bits, the lowest bits those of the first quarter of rows
    weight_scale  float [1]

`linear_class` says whether the outputs are multiplied with the scale ("autobitlinear") or divided by it
("bitlinear"). In `quantization_mode` "online" a checkpoint holds floats, which are rounded to ternary weights when
they are used: by their mean absolute value.

Activations are rounded to 8 bits for each token there. Here they are as in any other model (docs/decisions/0018).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgec.frontend.prequantized.base import Entries, Floats, Method, PackedMatrix, expect_dtype, expect_shape, part
from edgec.frontend.safetensors_file import FLOAT_DTYPES, SafetensorsEntry
from edgec.ir.plan import TERNARY, Bits

_BITS = 2
_PACKED = 4
_LEAST_SCALE = np.float32(1e-5)  # of the weights of a matrix in training
_NOT_CONVERTED = ("lm_head", "embed")


class _Ternary(PackedMatrix):
    def __init__(self, weight: SafetensorsEntry, scale: SafetensorsEntry, *, divided: bool) -> None:
        self._weight, self._scale, self._divided = weight, scale, divided
        rows, columns = weight.shape if len(weight.shape) == 2 else (0, 0)
        expect_dtype(weight, "U8")
        expect_shape(weight, rows, columns)
        expect_dtype(scale, *FLOAT_DTYPES)
        expect_shape(scale, 1)
        self.shape = (rows * _PACKED, columns)
        self.parts = (weight, scale)

    def read(self) -> Floats:
        packed = self._weight.integers(np.uint8)
        values = np.concatenate([packed >> shift & 3 for shift in range(0, 8, _BITS)]).astype(np.float32) - 1
        scale = self._scale.read()
        result: Floats = values / scale if self._divided else values * scale
        return result

    def grid_bits(self) -> Bits:
        return TERNARY


class _Rounded(PackedMatrix):
    """Floats, to be rounded."""

    def __init__(self, weight: SafetensorsEntry) -> None:
        self._weight = weight
        self.shape = (weight.shape[0], weight.shape[1])
        self.parts = (weight,)

    def read(self) -> Floats:
        values = self._weight.read()
        mean = np.maximum(np.float32(np.abs(values).mean(dtype=np.float64)), _LEAST_SCALE)
        scale = np.float32(1) / mean
        result: Floats = np.clip(np.rint(values * scale), -1, 1) / scale
        return result

    def grid_bits(self) -> Bits:
        return TERNARY


def _matrices(config: Mapping[str, Any], entries: Entries) -> dict[str, PackedMatrix]:
    if config.get("quantization_mode") == "online":
        left = (*_NOT_CONVERTED, *(config.get("modules_to_not_convert") or ()))
        return {
            name: _Rounded(entry)
            for name, entry in entries.items()
            if name.endswith(".weight") and len(entry.shape) == 2 and not any(module in name for module in left)
        }
    divided = (config.get("linear_class") or "bitlinear") == "bitlinear"
    stems = [name.removesuffix("_scale") for name in entries if name.endswith(".weight_scale")]
    return {stem: _Ternary(part(entries, stem), entries[f"{stem}_scale"], divided=divided) for stem in stems}


BITNET = Method(
    "bitnet",
    _matrices,
    allowed={
        "linear_class": ("bitlinear", "autobitlinear"),
        "quantization_mode": ("offline", "online"),
        "use_rms_norm": (False,),
    },
    lists=frozenset({"modules_to_not_convert"}),
    harmless=frozenset({"rms_norm_eps"}),  # of the norm that `use_rms_norm` switches on
)

__all__ = ["BITNET"]
