"""4-bit checkpoints of bitsandbytes (`QuantState.as_dict(packed=True)`): NF4 of QLoRA (Dettmers et al. 2023), FP4.

    weight            two codes to a byte, the first one in the high bits, of the values of `[out, in]` in order;
                      `uint8 [bytes, 1]`, or the same bytes as floats (`bnb_4bit_quant_storage`)
    weight.quant_map  float [16]        what codes mean
    weight.absmax     float [blocks]    what each block of values is multiplied with
    weight.quant_state.bitsandbytes__*  uint8, JSON: `shape`, `blocksize`

With double quantization `absmax` is `uint8`, and a block's factor is `nested_quant_map[absmax] * nested_absmax`
of its own block, plus `nested_offset`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgec.errors import CorruptFileError, ModelError
from edgec.frontend.prequantized.base import Entries, Floats, Method, PackedMatrix, expect_dtype, expect_shape, part
from edgec.frontend.safetensors_file import SafetensorsEntry

_STATE = ".quant_state.bitsandbytes__"


class _Matrix(PackedMatrix):
    def __init__(self, name: str, state: SafetensorsEntry, entries: Entries) -> None:
        self._codes = part(entries, name)
        self._map = part(entries, f"{name}.quant_map")
        self._factors = part(entries, f"{name}.absmax")
        self._state = _Json(state)
        out, inputs = self._state.shape()
        self._block = self._state.size("blocksize")
        blocks = -(-out * inputs // self._block)
        if self._codes.bytes != -(-out * inputs // 2):
            raise ModelError(
                f"`{name}` has {self._codes.bytes} bytes, but {out} x {inputs} codes take {-(-out * inputs // 2)}",
                hint="the checkpoint is damaged, or not of bitsandbytes",
            )
        expect_dtype(self._map, "F32")
        expect_shape(self._map, 16)
        expect_shape(self._factors, blocks)
        self.shape = (out, inputs)
        nested = [entries.get(f"{name}.nested_{kind}") for kind in ("absmax", "quant_map")]
        self._nested = [entry for entry in nested if entry is not None]
        if self._nested:
            factors, quant_map = (part(entries, f"{name}.nested_{kind}") for kind in ("absmax", "quant_map"))
            self._nested_block = self._state.size("nested_blocksize")
            expect_dtype(self._factors, "U8")
            expect_shape(factors, -(-blocks // self._nested_block))
            expect_shape(quant_map, 256)
        else:
            expect_dtype(self._factors, "F32")
        self.parts = (self._codes, self._map, self._factors, state, *self._nested)

    def read(self) -> Floats:
        packed = self._codes.raw()
        codes = np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)[: math.prod(self.shape)]
        return _times(self._map.read()[codes], self._absmax(), self._block).reshape(self.shape)

    def _absmax(self) -> Floats:
        if not self._nested:
            return self._factors.read()
        factors, quant_map = (entry.read() for entry in self._nested)
        values = _times(quant_map[self._factors.raw()], factors, self._nested_block)
        return values + np.float32(self._state.number("nested_offset"))


def _times(values: Floats, factors: Floats, block: int) -> Floats:
    """Each block of `values` times its factor."""
    result: Floats = values * np.repeat(factors, block)[: values.size]
    return result


class _Json:
    """The part of a quantization's state that is no tensor."""

    def __init__(self, entry: SafetensorsEntry) -> None:
        self._entry = entry
        try:
            self._fields = json.loads(entry.raw().tobytes().decode("utf-8"))
        except (ValueError, RecursionError):
            raise self._damaged("it is not JSON") from None
        if not isinstance(self._fields, dict):
            raise self._damaged("it is not an object")

    def shape(self) -> tuple[int, int]:
        shape = self._fields.get("shape")
        sizes = isinstance(shape, list) and all(type(size) is int and size > 0 for size in shape)
        if not sizes or len(shape) != 2:
            raise self._damaged(f"`shape` is {shape!r}, expected two sizes")
        return shape[0], shape[1]

    def size(self, name: str) -> int:
        value = self._fields.get(name)
        if type(value) is not int or value < 1:
            raise self._damaged(f"`{name}` is {value!r}, expected a positive integer")
        return value

    def number(self, name: str) -> float:
        value = self._fields.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._damaged(f"`{name}` is {value!r}, expected a number")
        return float(value)

    def _damaged(self, reason: str) -> CorruptFileError:
        return CorruptFileError(f"`{self._entry.name}` is damaged: {reason}", hint="download the model again")


def _matrices(config: Mapping[str, Any], entries: Entries) -> dict[str, PackedMatrix]:
    states = {name.partition(_STATE)[0]: entry for name, entry in entries.items() if _STATE in name}
    return {name: _Matrix(name, state, entries) for name, state in states.items()}


BITSANDBYTES = Method(
    "bitsandbytes",
    _matrices,
    allowed={
        "load_in_4bit": (True,),
        "load_in_8bit": (False,),
        "bnb_4bit_quant_type": ("nf4", "fp4"),
    },
    required=frozenset({"load_in_4bit"}),
    # How other software stores, loads or multiplies; each tensor tells how it is packed.
    harmless=frozenset(
        {
            "bnb_4bit_compute_dtype", "bnb_4bit_quant_storage", "bnb_4bit_use_double_quant",
            "llm_int8_enable_fp32_cpu_offload", "llm_int8_has_fp16_weight", "llm_int8_skip_modules",
            "llm_int8_threshold", "modules_to_not_convert",
        }
    ),
)  # fmt: skip

__all__ = ["BITSANDBYTES"]
