"""`CompressedModel`: the graph plus its packed weights, in the order in which kernels read them.

One group is `GROUP = 32` consecutive input features of one output row, a span the `group_size` features that share
a scale and a zero point: one group, several, or the whole row. Codes are unsigned, their value is

    w = scale * (q16 - zero) / 16        q16 = 16 * q for 4-bit codes q, = 2 * q for 7-bit, = q for 8-bit codes

so the zero point has 1/16 of a 4-bit step, and the top four bits of a 7-bit code are the 4-bit
code of the same tensor with the same scale and zero point (nested planes).

Tile order (N rows padded to a multiple of 8, K to a multiple of 32, G = K / 32 groups, S = K / group_size spans, the
last of which may be shorter):

    codes  uint8   [N/8, G, 4, 2, 4, 4]   block, group, t, half, row, j
                   low nibble  = row 8*block + 4*half + row, feature 32*group + 4*t + j
                   high nibble = the same row,               feature 32*group + 16 + 4*t + j
    scales float16 [N/8, S, 8]            row 8*block + i
    zeros  uint8   [N/8, S, 8]

`high` holds the upper nibbles of q16 (the whole code at 4 bits), `low` its lower nibbles. 7 bits are what a dot
product takes in one go (docs/decisions/0011); 8-bit codes are at most 254, so that their halves fit too. A tensor
planned at 2, 3, 5 or 6 bits has 4- or 7-bit codes whose lowest bits are zero: the bundle leaves their planes out.
Codes of 4 bits may be nested: with other scales and zero points, their upper 3 or 2 bits are as good as codes that were
made with so many bits (`compress/quantize/nested.py`), and a device may leave the planes below out.
Padding rows and features have scale 0 (rows) or code q with q16 == zero contribution handled by
zero activations (features): their activations are zero, so any code is right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgec.ir.model import ModelIR
from edgec.ir.plan import Plan

if TYPE_CHECKING:
    from edgec.ir.exits import ExitHead

GROUP = 32
ROWS = 8  # rows interleaved in one tile block
LARGEST_CODE = {2: 3, 3: 7, 4: 15, 5: 31, 6: 63, 7: 127, 8: 254}  # by planned bits


@dataclass(frozen=True)
class Coarser:
    """Scales and zero points of the codes that are the upper `bits` bits of a tensor's."""

    bits: int  # 2 or 3
    scales: npt.NDArray[np.float16]  # [blocks, spans, 8]
    zeros: npt.NDArray[np.uint8]  # [blocks, spans, 8]
    error: Mapping[str, float] = field(default_factory=dict)  # as that of the tensor


@dataclass(frozen=True)
class PackedTensor:
    """A quantized matrix of `rows` outputs (N) by `columns` inputs (K), in tile order."""

    name: str
    rows: int
    columns: int
    bits: int  # 4, 7 or 8
    high: npt.NDArray[np.uint8]  # [blocks, groups, 128]
    low: npt.NDArray[np.uint8] | None  # the same shape, beyond 4 bits
    scales: npt.NDArray[np.float16]  # [blocks, spans, 8]
    zeros: npt.NDArray[np.uint8]  # [blocks, spans, 8]
    error: Mapping[str, float] = field(default_factory=dict)  # "relative_rmse", "max_abs", "relative_output_error"
    group_size: int = GROUP  # features of a span
    coarser: tuple[Coarser, ...] = ()  # of nested codes, the finest first

    @property
    def blocks(self) -> int:
        return -(-self.rows // ROWS)

    @property
    def groups(self) -> int:
        return -(-self.columns // GROUP)

    @property
    def span(self) -> int:
        """Groups of a span."""
        return min(self.groups, self.group_size // GROUP)

    @property
    def spans(self) -> int:
        return -(-self.groups // self.span)

    def depth(self, bits: int) -> Coarser | None:
        return next((depth for depth in self.coarser if depth.bits == bits), None)

    def at_depth(self, bits: int) -> PackedTensor:
        """The tensor as it is with the upper `bits` bits of its codes; itself where it has no such depth."""
        found = self.depth(bits)
        if found is None:
            return self
        upper = np.uint8((0xF << (self.bits - bits) & 0xF) * 0x11)  # of both nibbles
        high, scales, zeros, error = self.high & upper, found.scales, found.zeros, found.error
        return replace(self, high=high, scales=scales, zeros=zeros, error=error, coarser=())

    def verify(self) -> None:
        from edgec.errors import ModelError

        code_shape = (self.blocks, self.groups, 128)
        parameter_shape = (self.blocks, self.spans, ROWS)
        shapes: list[tuple[npt.NDArray[Any], tuple[int, int, int]]] = [
            (self.high, code_shape),
            (self.scales, parameter_shape),
            (self.zeros, parameter_shape),
        ]
        if self.low is not None:
            shapes.append((self.low, code_shape))
        for depth in self.coarser:
            shapes += [(depth.scales, parameter_shape), (depth.zeros, parameter_shape)]
        for array, shape in shapes:
            if array.shape != shape:
                raise ModelError(f"packed tensor `{self.name}` has an array of shape {array.shape}, expected {shape}")
        if (self.bits > 4) != (self.low is not None):
            low = "a" if self.low is not None else "no"
            raise ModelError(f"packed tensor `{self.name}` has {self.bits} bits but {low} low plane")
        if self.coarser and self.bits != 4:
            raise ModelError(f"packed tensor `{self.name}` has coarser depths and {self.bits} bits, expected 4")


@dataclass(frozen=True)
class CompressedModel:
    """`packed` replaces the initializers of the same name in `model`; others stay float32."""

    model: ModelIR
    plan: Plan
    packed: Mapping[str, PackedTensor]
    report: Mapping[str, Any] = field(default_factory=dict)
    exits: tuple[ExitHead, ...] = ()  # of a decoder, in the order of their layers

    def at_depth(self, bits: int) -> CompressedModel:
        """What a device has that takes `bits` of the bits of nested codes."""
        return replace(self, packed={name: tensor.at_depth(bits) for name, tensor in self.packed.items()})

    def verify(self) -> None:
        for tensor in self.packed.values():
            tensor.verify()
