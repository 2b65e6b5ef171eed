"""GPTQ checkpoints as AutoGPTQ and GPTQModel write them (`QuantLinear`, formats `gptq` and `gptq_v2`).

    qweight  int32 [in * bits / 32, out]      codes along the inputs, the lowest bits first
    qzeros   int32 [groups, out * bits / 32]  zero points along the outputs; format `gptq` stores them less one
    scales   float [groups, out]
    g_idx    int32 [in]                       the group of each input; without it, inputs in order

The value is `scale * (code - zero)` of the input's group. Format `gptq` is undone as GPTQModel does: one is added to
every zero point of a word by an addition of 32 bits, so that what a zero point of 0 borrowed comes back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.errors import ModelError
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
from edgec.frontend.safetensors_file import FLOAT_DTYPES
from edgec.ir.compressed import GROUP

_BITS = (2, 4, 8)
_STORED_LESS_ONE = "gptq"


class _Matrix(PackedMatrix):
    def __init__(self, stem: str, config: Mapping[str, Any], entries: Entries) -> None:
        self._bits = int(config["bits"])
        self._less_one = (config.get("checkpoint_format") or _STORED_LESS_ONE).lower() == _STORED_LESS_ONE
        self._codes, self._zeros, self._scales = (part(entries, f"{stem}.{n}") for n in ("qweight", "qzeros", "scales"))
        self._index = entries.get(f"{stem}.g_idx")
        for entry in (self._codes, self._zeros):
            expect_dtype(entry, "I32")
        expect_dtype(self._scales, *FLOAT_DTYPES)
        packed = 32 // self._bits
        words, rows = self._codes.shape if len(self._codes.shape) == 2 else (0, 0)
        columns = words * packed
        if self._index is not None:
            expect_dtype(self._index, "I32", "I64")
            columns = self._index.shape[0] if self._index.shape else 0
            expect_shape(self._index, columns)
        expect_shape(self._codes, -(-columns // packed), rows)
        self._group = group_of(config, columns)
        groups = -(-columns // max(1, self._group))
        expect_shape(self._scales, groups, rows)
        expect_shape(self._zeros, groups, -(-rows // packed))
        self.shape = (rows, columns)
        self.parts = tuple(e for e in (self._codes, self._zeros, self._scales, self._index) if e is not None)

    def read(self) -> Floats:
        rows, columns = self.shape
        group = self._groups()
        codes = unpack(self._codes.integers(np.uint32), self._bits, axis=0)[:columns]
        values = codes.astype(np.float32)
        values -= self._zero_points()[group, :rows]
        values *= self._scales.read()[group]
        return np.ascontiguousarray(values.T)

    def grid_bits(self) -> int | None:
        """Codes of up to 4 bits, if 32 inputs in order share a group."""
        in_order = np.array_equal(self._groups(), np.arange(self.shape[1]) // self._group)
        whole = self._group % GROUP == 0 or self._group >= self.shape[1]
        return 4 if self._bits <= 4 and in_order and whole else None

    def _zero_points(self) -> npt.NDArray[np.uint8]:
        words = self._zeros.integers(np.uint32)
        if self._less_one:
            words = words + np.uint32(sum(1 << shift for shift in range(0, 32, self._bits)))
        return unpack(words, self._bits, axis=1)

    def _groups(self) -> npt.NDArray[np.int64]:
        """The group of each input."""
        if self._index is None:
            return np.arange(self.shape[1]) // self._group
        groups = self._index.integers(np.int32 if self._index.dtype == "I32" else np.int64).astype(np.int64)
        count = self._scales.shape[0]
        wrong = np.flatnonzero((groups < 0) | (groups >= count))
        if wrong.size:
            raise ModelError(
                f"`{self._index.name}` names group {groups[wrong[0]]} at [{wrong[0]}], but there are {count}",
                hint="download the model again",
            )
        return groups


GPTQ = Method(
    "gptq",
    by_stem(_Matrix),
    allowed={
        "bits": _BITS,
        "checkpoint_format": ("gptq", "gptq_v2"),
        "format": ("gptq", "gptq_v2"),
        "method": ("gptq",),
        "pack_dtype": ("int32",),
        "is_marlin_format": (False,),
    },
    required=frozenset({"bits"}),
    # How codes were found, or how other software runs them.
    harmless=frozenset(
        {
            "backend", "batch_size", "block_name_to_quantize", "cache_block_outputs", "cache_examples_on_gpu",
            "damp_auto_increment", "damp_percent", "dataset", "desc_act", "disable_exllama", "exllama_config",
            "lm_head", "max_input_length", "meta", "model_file_base_name", "model_name_or_path", "model_seqlen",
            "module_name_preceding_first_block", "modules_in_block_to_quantize", "modules_to_not_convert", "mse",
            "pad_token_id", "static_groups", "sym", "tokenizer", "true_sequential", "use_cuda_fp16", "use_exllama",
        }
    ),
)  # fmt: skip

__all__ = ["GPTQ"]
