"""`LoweredModule`: linked wasm per ISA variant, the memory plan and how weights get into it.

All addresses are absolute byte addresses in the one linear memory that a module imports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

WASM_PAGE = 65536
Dimension = int | str  # a number, or an expression over symbolic dimensions such as "batch" or "2*sequence"


@dataclass(frozen=True)
class Region:
    offset: int
    bytes: int


@dataclass(frozen=True)
class MemoryPlan:
    """Regions in address order; `kv` is last so that memory can grow with the conversation."""

    static: Region  # data segments of the module
    control: Region  # barrier, doorbell and page table, see docs/runtime-abi.md
    stacks: Region  # max_threads stacks of stack_bytes each, growing down
    stack_bytes: int
    max_threads: int
    workspace: Region  # activations, inputs and outputs; also the staging area while loading
    weights: Region
    kv: Region
    maximum_bytes: int  # a multiple of 65536


@dataclass(frozen=True)
class EntryPoint:
    """A wasm export `name(tid, threads, *parameters)`, all i32."""

    name: str
    parameters: tuple[str, ...]
    inputs: tuple[str, ...] = ()  # of a graph: names of the slots that it reads and writes
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class TensorSlot:
    """An input or output in the workspace."""

    name: str
    dtype: str  # one of `bundle.manifest.ITEM_BYTES`
    shape: tuple[Dimension, ...]
    offset: int
    bytes: int  # at the upper bounds of all dimensions


@dataclass(frozen=True)
class ComputedSlot:
    """A number that the module computes and checks while it runs: an int32 at `offset`, 0 to `bound`."""

    name: str
    bound: int
    offset: int


WeightKind = Literal["nibbles", "bytes", "raw"]


@dataclass(frozen=True)
class WeightPlacement:
    """`data` goes to address `offset`.

    `nibbles`: tile-ordered 4-bit codes that the bundle stores as planes of 2, 1 and 1 bits; `bytes`: codes of up
    to 8 bits, stored as planes of one bit; `raw`: stored and copied as it is. Data of different `depths` may have the
    same address.
    """

    name: str
    kind: WeightKind
    offset: int
    data: npt.NDArray[np.uint8]  # one-dimensional
    columns: int = 0  # of `raw` float32 whose columns may have scales of their own, else 0
    depths: tuple[int, ...] = ()  # bits of nested codes with which this is needed, the finest first; empty: always


@dataclass(frozen=True)
class KVLayout:
    bits: int
    page_tokens: int
    page_bytes: int  # one page holds page_tokens tokens of every layer
    pages: int
    table_offset: int  # int32[pages], address of the page table


@dataclass(frozen=True)
class AdapterSlot:
    """Addresses of one linear's low-rank adapter, for the largest rank R: `scales` float32 [R], `down` float16
    [R / 8, columns, 8], `up` float16 [ceil(rows / 8), R, 8]. A smaller rank takes the beginning of each."""

    name: str
    rows: int
    columns: int
    scales: int
    down: int
    up: int


@dataclass(frozen=True)
class AdapterSlots:
    """Room for one adapter. `switch` is the address of an int32: its rank, a multiple of 8, or 0 for none."""

    rank: int  # at most
    switch: int
    linears: tuple[AdapterSlot, ...]


@dataclass(frozen=True)
class ExitSlot:
    """The entry points `exit_<layer>` and `fill_<layer>`, and what was measured; see `ir/exits.py`."""

    layer: int
    threshold: float | None
    agreement: float
    share: float
    tokens: int


@dataclass(frozen=True)
class LoweredModule:
    kind: Literal["decoder", "graph"]
    variants: Mapping[str, bytes]  # "relaxed-threads" -> linked wasm
    memory: MemoryPlan
    entry_points: tuple[EntryPoint, ...]
    inputs: tuple[TensorSlot, ...]
    outputs: tuple[TensorSlot, ...]
    dims: Mapping[str, int]  # upper bounds of symbolic dimensions
    weights: tuple[WeightPlacement, ...]
    computed: tuple[ComputedSlot, ...] = ()
    kv: KVLayout | None = None
    adapters: AdapterSlots | None = None
    exits: tuple[ExitSlot, ...] = ()
    statistics: Mapping[str, Any] = field(default_factory=dict)  # kernels, calls, bytes, seconds
