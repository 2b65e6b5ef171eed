"""Quantized matrices in the formats of other tools, packed code by code from the formats' definitions.

Codes are `[out, in]`, scales and zero points `[out, groups]`; the tensors are named by what follows the layer's name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Tensors = dict[str, Array]
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


@dataclass(frozen=True)
class Coded:
    """A matrix rounded to codes: `scale * (code - zero)` of the group of each input."""

    codes: npt.NDArray[np.int64]  # [out, in]
    scales: npt.NDArray[np.float16]  # [out, groups]
    zeros: npt.NDArray[np.int64]  # [out, groups]
    groups: npt.NDArray[np.int64]  # [in]
    bits: int

    def values(self) -> npt.NDArray[np.float32]:
        zeros, scales = self.zeros[:, self.groups], self.scales.astype(np.float64)[:, self.groups]
        return ((self.codes - zeros) * scales).astype(np.float32)


def coded(matrix: Array, bits: int, size: int, *, order: npt.NDArray[np.int64] | None = None) -> Coded:
    """Rounds a matrix `[out, in]` in groups of `size` inputs (-1: all), taken in `order` if there is one."""
    weights = np.asarray(matrix, np.float64)
    columns = weights.shape[1]
    size = columns if size == -1 else size
    groups = np.empty(columns, np.int64)
    groups[np.arange(columns) if order is None else order] = np.arange(columns) // size
    top = 2**bits - 1
    scales = np.empty((weights.shape[0], groups.max() + 1), np.float16)
    zeros = np.empty(scales.shape, np.int64)
    codes = np.empty(weights.shape, np.int64)
    for group in range(scales.shape[1]):
        part = weights[:, groups == group]
        low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
        scales[:, group] = ((high - low) / top).astype(np.float16)
        step = scales[:, group].astype(np.float64)
        zeros[:, group] = np.clip(np.rint(-low / step), 0, top)
        codes[:, groups == group] = np.clip(np.rint(part / step[:, None] + zeros[:, group, None]), 0, top)
    return Coded(codes, scales, zeros, groups, bits)


def words(fields: Sequence[Sequence[int]], bits: int) -> npt.NDArray[np.int32]:
    """Each row of small numbers as words of 32 bits, the first number in the lowest bits."""
    packed = 32 // bits
    rows = []
    for row in fields:
        padded = [*row, *[0] * (-len(row) % packed)]
        words = [padded[start : start + packed] for start in range(0, len(padded), packed)]
        rows.append([sum((code % 2**bits) << (bits * place) for place, code in enumerate(word)) for word in words])
    return np.array(rows, np.uint64).astype(np.uint32).view(np.int32)


def gptq(matrix: Coded, *, version: int = 1, index: bool = True) -> Tensors:
    """`version` 1 subtracts one from each word's zero points, as one number of 32 bits."""
    qweight = np.ascontiguousarray(words(matrix.codes.tolist(), matrix.bits).T)
    qzeros = words(matrix.zeros.T.tolist(), matrix.bits)
    if version == 1:
        ones = sum(1 << shift for shift in range(0, 32, matrix.bits))
        qzeros = ((qzeros.view(np.uint32).astype(np.int64) - ones) % 2**32).astype(np.uint32).view(np.int32)
    tensors: Tensors = {
        "qweight": qweight, "qzeros": qzeros, "scales": np.ascontiguousarray(matrix.scales.T)
    }  # fmt: skip
    return {**tensors, "g_idx": matrix.groups.astype(np.int32)} if index else tensors


def awq(matrix: Coded) -> Tensors:
    """The gemm format: eight outputs to a word, in AWQ's order."""

    def packed(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        eights = rows.reshape(rows.shape[0], -1, 8)[:, :, list(AWQ_ORDER)]
        return words(eights.reshape(rows.shape).tolist(), 4)

    return {
        "qweight": packed(matrix.codes.T), "qzeros": packed(matrix.zeros.T),
        "scales": np.ascontiguousarray(matrix.scales.T),
    }  # fmt: skip


def bitsandbytes(matrix: Array, *, block: int = 64, nested_block: int = 0) -> tuple[Tensors, npt.NDArray[np.float32]]:
    """NF4 and what it means; `nested_block` quantizes the blocks' factors too, by a map of evenly spaced values."""
    levels = np.array(NF4, np.float32)
    flat = np.asarray(matrix, np.float32).reshape(-1)
    blocks = [flat[start : start + block] for start in range(0, flat.size, block)]
    factors = np.array([np.abs(part).max() for part in blocks], np.float32)
    state: dict[str, object] = {"quant_type": "nf4", "blocksize": block, "dtype": "float16", "shape": [*matrix.shape]}
    tensors: Tensors = {"weight.quant_map": levels}
    if nested_block:
        offset = np.float32(factors.mean())
        nested_map = np.linspace(-1, 1, 256, dtype=np.float32)
        nested = [factors[start : start + nested_block] - offset for start in range(0, factors.size, nested_block)]
        outer = np.array([np.abs(part).max() for part in nested], np.float32)
        codes = [np.abs(part[:, None] / size - nested_map).argmin(1) for part, size in zip(nested, outer, strict=True)]
        factors = np.concatenate([nested_map[c] * size for c, size in zip(codes, outer, strict=True)]) + offset
        state |= {"nested_blocksize": nested_block, "nested_dtype": "float32", "nested_offset": float(offset)}
        tensors |= {
            "weight.absmax": np.concatenate(codes).astype(np.uint8),
            "weight.nested_absmax": outer, "weight.nested_quant_map": nested_map,
        }  # fmt: skip
    else:
        tensors["weight.absmax"] = factors
    numbers: list[int] = []
    values: list[np.float32] = []
    for part, factor in zip(blocks, factors, strict=True):
        for value in part:
            code = int(np.abs(levels - value / factor).argmin())
            numbers.append(code)
            values.append(levels[code] * np.float32(factor))
    numbers += [0] * (len(numbers) % 2)
    tensors["weight"] = np.array([[a << 4 | b] for a, b in zip(numbers[::2], numbers[1::2], strict=True)], np.uint8)
    text = json.dumps(state).encode()
    tensors["weight.quant_state.bitsandbytes__nf4"] = np.frombuffer(text, np.uint8).copy()
    return tensors, np.array(values, np.float32).reshape(matrix.shape)


def bitnet(ternary: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """-1, 0, 1 as two bits each: row `r` of quarter `q` of the rows is in bits `2q` of row `r` of the result."""
    quarter = ternary.shape[0] // 4
    packed = np.zeros((quarter, ternary.shape[1]), np.uint8)
    for row in range(quarter):
        for place in range(4):
            packed[row] |= ((ternary[row + place * quarter] + 1) << (2 * place)).astype(np.uint8)
    return packed


def named(layer: str, tensors: Mapping[str, Array]) -> Tensors:
    return {f"{layer}.{name}": array for name, array in tensors.items()}
