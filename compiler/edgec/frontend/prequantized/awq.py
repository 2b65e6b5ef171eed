"""AWQ checkpoints as AutoAWQ's `WQLinear_GEMM` writes them.

    qweight  int32 [in, out / 8]      codes along the outputs, eight to a word in the order 0 2 4 6 1 3 5 7
    qzeros   int32 [groups, out / 8]  zero points, likewise
    scales   float [groups, out]

The value is `scale * (code - zero)` of the input's group; groups are inputs in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgec.frontend.prequantized.base import (
    Entries,
    Floats,
    Method,
    PackedMatrix,
    by_stem,
    expect_dtype,
    expect_shape,
    group_of,
    part,
    unpack,
)
from edgec.frontend.safetensors_file import FLOAT_DTYPES, SafetensorsEntry
from edgec.ir.compressed import GROUP

_BITS = 4
_PACKED = 32 // _BITS
_PLACES = np.argsort([0, 2, 4, 6, 1, 3, 5, 7])  # of the outputs of a word in it


class _Matrix(PackedMatrix):
    def __init__(self, stem: str, config: Mapping[str, Any], entries: Entries) -> None:
        self._codes, self._zeros, self._scales = (part(entries, f"{stem}.{n}") for n in ("qweight", "qzeros", "scales"))
        for entry in (self._codes, self._zeros):
            expect_dtype(entry, "I32")
        expect_dtype(self._scales, *FLOAT_DTYPES)
        columns, words = self._codes.shape if len(self._codes.shape) == 2 else (0, 0)
        expect_shape(self._codes, columns, words)
        self._group = group_of(config, columns)
        groups = -(-columns // max(1, self._group))
        expect_shape(self._zeros, groups, words)
        expect_shape(self._scales, groups, words * _PACKED)
        self.shape = (words * _PACKED, columns)
        self.parts = (self._codes, self._zeros, self._scales)

    def read(self) -> Floats:
        group = np.arange(self.shape[1]) // self._group
        values = _ordered(self._codes)
        values -= _ordered(self._zeros)[group]
        values *= self._scales.read()[group]
        return np.ascontiguousarray(values.T)

    def grid_bits(self) -> int | None:
        return _BITS if self._group % GROUP == 0 or self._group >= self.shape[1] else None


def _ordered(entry: SafetensorsEntry) -> Floats:
    codes = unpack(entry.integers(np.uint32), _BITS, axis=1)
    places = codes.reshape(codes.shape[0], -1, _PACKED)[:, :, _PLACES]
    return places.reshape(codes.shape).astype(np.float32)


AWQ = Method(
    "awq",
    by_stem(_Matrix),
    allowed={
        "bits": (_BITS,),
        "version": ("gemm",),
        "checkpoint_format": ("gemm",),
        "format": ("gemm",),
        "method": ("awq",),
        "pack_dtype": ("int32",),
        "backend": ("autoawq",),
        "zero_point": (True,),
    },
    harmless=frozenset(
        {"desc_act", "do_fuse", "exllama_config", "fuse_max_seq_len", "lm_head", "meta", "modules_to_fuse",
         "modules_to_not_convert", "sym"}
    ),
)  # fmt: skip

__all__ = ["AWQ"]
