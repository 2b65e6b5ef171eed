"""Weights of a compressed model as storages in the order that kernels want."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgec.errors import ModelError
from edgec.ir.compressed import ROWS, Coarser, CompressedModel, PackedTensor
from edgec.lower.wasm.kernels.codes import in_turns
from edgec.lower.wasm.kernels.linear_float import pack_float
from edgec.lower.wasm.program import Program, Storage


@dataclass(frozen=True)
class Matrix:
    """A weight matrix in memory. `storages` are kernel operands in order (see `kernels/linear.py`)."""

    rows: int
    columns: int
    bits: int  # of a code in memory: 4, 7, 8 or 32
    storages: tuple[Storage, ...]
    span: int = 1  # groups that share a scale

    @property
    def row_bytes(self) -> int:
        """What one row takes, rounded up."""
        return -(-sum(storage.bytes for storage in self.storages) // self.rows)


def float_array(compressed: CompressedModel, name: str) -> npt.NDArray[np.float32]:
    """An initializer that the plan kept in float32."""
    tensor = compressed.model.model.graph.initializers[name].const_value
    if tensor is None:
        raise ModelError(f"initializer `{name}` has no value")
    return np.asarray(tensor.numpy(), np.float32)


def gather_rows(packed: PackedTensor, order: Sequence[int]) -> PackedTensor:
    """The tensor with rows `order`; -1 makes a row of zeros."""
    index = np.asarray(order, np.int64)
    blocks = -(-len(index) // ROWS)
    index = np.concatenate([index, np.full(blocks * ROWS - len(index), -1)])
    source = np.maximum(index, 0)

    def codes(array: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        groups = array.shape[1]
        tiles = array.reshape(-1, groups, 4, 2, 4, 4)  # block, group, t, half, row, j
        by_row = tiles.transpose(0, 3, 4, 1, 2, 5).reshape(-1, groups, 4, 4)[source]
        back = by_row.reshape(blocks, 2, 4, groups, 4, 4).transpose(0, 3, 4, 1, 2, 5)
        return np.ascontiguousarray(back).reshape(blocks, groups, 128)

    def parameters(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        groups = array.shape[1]
        by_row = array.transpose(0, 2, 1).reshape(-1, groups)[source]
        by_row[index < 0] = 0
        return np.ascontiguousarray(by_row.reshape(blocks, ROWS, groups).transpose(0, 2, 1))

    return PackedTensor(
        name=packed.name,
        rows=len(index),
        columns=packed.columns,
        bits=packed.bits,
        high=codes(packed.high),
        low=codes(packed.low) if packed.low is not None else None,
        scales=parameters(packed.scales).astype(np.float16, copy=False),
        zeros=parameters(packed.zeros).astype(np.uint8, copy=False),
        group_size=packed.group_size,
        coarser=tuple(
            Coarser(
                depth.bits,
                parameters(depth.scales).astype(np.float16, copy=False),
                parameters(depth.zeros).astype(np.uint8, copy=False),
            )
            for depth in packed.coarser
        ),
    )


def byte_codes(tensor: PackedTensor) -> npt.NDArray[np.uint8]:
    """Codes of 7 or 8 bits, a byte each, `[blocks, groups, 256]`.

    In a group: t, part, half, row, j as in `kernels/codes.py`.
    """
    high, low = tensor.high, tensor.low
    assert low is not None
    blocks, groups, _ = high.shape
    parts = [((high >> shift & 15) << 4 | low >> shift & 15) >> (8 - tensor.bits) for shift in (0, 4)]
    tiles = np.stack([part.reshape(blocks, groups, 4, 32) for part in parts], axis=3)
    return np.ascontiguousarray(tiles).reshape(blocks, groups, 256)


def interleaved_order(half: int) -> list[int]:
    """Row order of a gated matrix: 8 gate rows, then their 8 up rows (`half` rows each in the source)."""
    order: list[int] = []
    for start in range(0, half, ROWS):
        rows = range(start, start + ROWS)
        order += [row if row < half else -1 for row in rows]
        order += [half + row if row < half else -1 for row in rows]
    return order


class WeightStore:
    """Adds weights to a program, each once."""

    def __init__(self, program: Program, compressed: CompressedModel) -> None:
        self.program = program
        self.compressed = compressed
        self._matrices: dict[tuple[str, bool], Matrix] = {}
        self._vectors: dict[tuple[str, int | None], Storage] = {}

    def vector(self, name: str, pad: int | None = None) -> Storage:
        """A float32 vector, padded with zeros to `pad` elements."""
        if (name, pad) in self._vectors:
            return self._vectors[name, pad]
        data = float_array(self.compressed, name).reshape(-1)
        if pad is not None and pad > data.size:
            data = np.concatenate([data, np.zeros(pad - data.size, np.float32)])
        return self._vectors.setdefault((name, pad), self.program.weight(name, data))

    def bias(self, name: str, *, gated: bool = False) -> Storage:
        data = float_array(self.compressed, name).reshape(-1)
        rows = -(-data.size // ROWS) * ROWS
        if gated:
            order = np.asarray(interleaved_order(data.size // 2))
            data = np.where(order < 0, 0, data[np.maximum(order, 0)]).astype(np.float32)
            rows = data.size
        return self.program.weight(name, np.concatenate([data, np.zeros(rows - data.size, np.float32)]))

    def matrix(self, name: str, *, transposed: bool, gated: bool = False) -> Matrix:
        """`transposed`: the initializer is `[columns, rows]`, as MatMul has it."""
        key = (name, gated)
        if key not in self._matrices:
            packed = self.compressed.packed.get(name)
            if packed is not None:
                self._matrices[key] = self.packed(packed, gated=gated)
            else:
                array = float_array(self.compressed, name)
                self._matrices[key] = self._floats(name, array.T if transposed else array, gated)
        return self._matrices[key]

    def experts(self, name: str, count: int, *, gated: bool) -> Matrix:
        """The matrices of all experts one after the other, each in whole blocks; `rows` are one expert's."""
        packed = self.compressed.packed.get(name)
        if packed is None:
            array = float_array(self.compressed, name).swapaxes(1, 2)
            rows, columns = array.shape[1:]
        else:
            rows, columns = packed.rows // count, packed.columns
        one = interleaved_order(rows // 2) if gated else [*range(rows), *[-1] * (-rows % ROWS)]
        order = [-1 if row < 0 else expert * rows + row for expert in range(count) for row in one]
        if packed is not None:
            order += [-1] * (-len(order) % (2 * ROWS))  # an even number of blocks
            return dataclasses.replace(self.packed(gather_rows(packed, order)), rows=rows)
        index = np.asarray(order)[:, None]
        floats = np.where(index < 0, 0, array.reshape(-1, columns)[np.maximum(index[:, 0], 0)]).astype(np.float32)
        return Matrix(rows, columns, 32, (self.program.weight(name, pack_float(floats)),))

    def packed(self, tensor: PackedTensor, *, gated: bool = False) -> Matrix:
        rows = tensor.rows
        if gated:
            tensor = gather_rows(tensor, interleaved_order(rows // 2))
        add, coarser = self.program.weight, tuple(depth.bits for depth in tensor.coarser)
        finest = (tensor.bits,) if coarser else ()
        if tensor.low is None:
            codes = add(f"{tensor.name}#codes", in_turns(tensor.high), kind="nibbles", depths=(*finest, *coarser))
        else:
            codes = add(f"{tensor.name}#codes", in_turns(byte_codes(tensor)), kind="bytes")
        scales = add(f"{tensor.name}#scales", in_turns(tensor.scales), depths=finest)
        zeros = add(f"{tensor.name}#zeros", in_turns(tensor.zeros), depths=finest)
        for depth in tensor.coarser:
            self.program.other_depth(scales, in_turns(depth.scales), depth.bits)
            self.program.other_depth(zeros, in_turns(depth.zeros), depth.bits)
        return Matrix(rows, tensor.columns, tensor.bits, (codes, scales, zeros), tensor.span)

    def added(self, name: str, matrix: PackedTensor | npt.NDArray[np.float32]) -> Matrix:
        """A matrix that is no initializer."""
        if isinstance(matrix, PackedTensor):
            return self.packed(matrix)
        return self._floats(name, matrix, False)

    def _floats(self, name: str, array: npt.NDArray[np.float32], gated: bool) -> Matrix:
        rows, columns = array.shape
        if gated:
            order = np.asarray(interleaved_order(rows // 2))
            array = np.where(order[:, None] < 0, 0, array[np.maximum(order, 0)]).astype(np.float32)
        return Matrix(rows, columns, 32, (self.program.weight(name, pack_float(array)),))
