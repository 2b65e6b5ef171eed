"""A program: entry points as flat lists of kernel calls over statically placed buffers.

Both lowerings (`decoder.py`, `graph.py`) fill a `Program`; `build` turns it into a
`LoweredModule`: kernels compiled once per ISA, every address fixed, a driver assembled per entry
point, one module linked per variant.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgec.errors import DoesNotFitError
from edgec.ir.lowered import (
    WASM_PAGE,
    AdapterSlots,
    ComputedSlot,
    Dimension,
    EntryPoint,
    KVLayout,
    LoweredModule,
    MemoryPlan,
    Region,
    TensorSlot,
    WeightKind,
    WeightPlacement,
)
from edgec.ir.store import Store
from edgec.ir.work import KernelWork, evaluate
from edgec.lower.wasm.abi import PrimFunc, Signature, compile_kernels
from edgec.lower.wasm.assembler import (
    AssembledFunction,
    barrier,
    i32_const,
    i32_load,
    local_get,
    local_set,
    local_tee,
)
from edgec.lower.wasm.kernels.planes import merge_bit1, merge_bits2, merge_byte1
from edgec.lower.wasm.linker import ImportedFunction, link
from edgec.lower.wasm.memory import Lifetime, align, plan_offsets
from edgec.lower.wasm.target import ISAS, Isa, Variant
from edgec.lower.wasm.work import Work

STATIC_BYTES = 65536
STACK_BYTES = 65536
PAGE_TABLE = 1024  # offset in the control region
STAGING_BYTES = 1 << 20  # smallest workspace, so that weights can be staged in it
ADDRESS_LIMIT = 1 << 32

_LOADER_EXPORTS: dict[str, Callable[[], PrimFunc]] = {
    "merge_bits2": merge_bits2,
    "merge_bit1": merge_bit1,
    "merge_byte1": merge_byte1,
}
_GREATER_UNSIGNED, _IF, _UNLESS, _RETURN = b"\x4b", b"\x04\x40", b"\x45\x04\x40", b"\x0f"
_OPERATORS = {"+": b"\x6a", "-": b"\x6b", "*": b"\x6c", "//": b"\x6e"}

KERNELS_SECTION = "edgec.kernels"
_MARK = ImportedFunction("profile", "mark", parameters=1)
_START = -1  # what an entry point marks first

Scalar = int | str | tuple[str, Any, Any]
"""A number, an entry point's parameter or computed number, or (operator, left, right) with one of + - * //."""


@dataclass(eq=False)
class Storage:
    """A piece of memory; `program.build` gives it its address."""

    name: str
    bytes: int
    region: Literal["workspace", "weights", "kv", "control"]
    persistent: bool = False  # workspace: keeps its content between calls
    offset: int = 0  # absolute after placement (in its region for kv and control)

    def at(self, displacement: int) -> View:
        return View(self, displacement)


@dataclass(frozen=True)
class _Weight:
    """A constant, or what it is at one depth; see `WeightPlacement`."""

    storage: Storage
    data: npt.NDArray[np.uint8]
    kind: WeightKind
    columns: int
    depths: tuple[int, ...]


@dataclass(frozen=True)
class View:
    """An address inside a storage."""

    storage: Storage
    displacement: int


Operand = Storage | View | Scalar


@dataclass(frozen=True)
class Call:
    """`kernel(*operands)`; `(tid, threads)` are added for kernels with a parallel loop."""

    kernel: str
    operands: tuple[Operand, ...]
    work: Work
    numbers: tuple[str, ...] = ()  # what it computes: names that are scalars from then on
    adapter: bool | None = None  # True: only with an adapter, whose rank is the scalar `rank`; False: only without


@dataclass(frozen=True)
class Number:
    """An int32 that a kernel computes, at word `index` of the numbers. A run ends when it is not in 0 ... `bound`."""

    name: str
    index: int
    bound: int | None  # None: any value


@dataclass
class Entry:
    name: str
    parameters: tuple[str, ...]
    calls: list[Call | str] = field(default_factory=list)  # a string calls another entry with `arguments`
    arguments: dict[str, tuple[Scalar, ...]] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()  # of a graph: names of what the program declares as `input` and `output`
    outputs: tuple[str, ...] = ()

    def call(
        self, kernel: str, *operands: Operand, work: Work, numbers: tuple[str, ...] = (), adapter: bool | None = None
    ) -> None:
        if work.weights is None:
            work = replace(work, weights=_weight_bytes(operands))
        self.calls.append(Call(kernel, operands, work, numbers, adapter))

    def enter(self, entry: str, *arguments: Scalar) -> None:
        """Call another entry point of the same program (once per entry)."""
        self.calls.append(entry)
        self.arguments[entry] = arguments


@dataclass
class Program:
    """Everything `build` needs; filled by a lowering."""

    kind: Literal["decoder", "graph"]
    max_threads: int
    entries: list[Entry] = field(default_factory=list)
    kv: KVLayout | None = None  # table_offset is set by build
    _factories: dict[Hashable, tuple[str, Callable[[Isa], PrimFunc]]] = field(default_factory=dict)
    _storages: list[Storage] = field(default_factory=list)
    _weights: list[_Weight] = field(default_factory=list)
    _inputs: list[tuple[str, Any, tuple[Dimension, ...], Storage]] = field(default_factory=list)
    _outputs: list[tuple[str, Any, tuple[Dimension, ...], Storage]] = field(default_factory=list)
    dims: dict[str, int] = field(default_factory=dict)
    numbers: dict[str, Number] = field(default_factory=dict)
    switch: Storage | None = None  # the rank of the adapter that is there, or 0
    adapters: Callable[[], AdapterSlots] | None = None  # asked when all is placed
    _reserved: list[Storage] = field(default_factory=list)

    def __post_init__(self) -> None:
        pages = self.kv.pages if self.kv else 0
        self.kv_storage = Storage("kv", self.kv.page_bytes * pages if self.kv else 0, "kv")
        self.page_table = Storage("page_table", 4 * pages, "control", offset=PAGE_TABLE)
        self._number_storage = Storage("numbers", 0, "workspace", persistent=True)

    def kernel(self, key: tuple[Hashable, ...], make: Callable[[Isa], PrimFunc]) -> str:
        """The kernel made by `make`; equal keys share one. `key[0]` is the readable part of its name."""
        if key not in self._factories:
            self._factories[key] = (f"{key[0]}_{len(self._factories)}", make)
        return self._factories[key][0]

    def entry(self, name: str, *parameters: str) -> Entry:
        entry = Entry(name, parameters)
        self.entries.append(entry)
        return entry

    def workspace(self, name: str, size: int, *, persistent: bool = False) -> Storage:
        storage = Storage(name, size, "workspace", persistent)
        self._storages.append(storage)
        return storage

    def weight(
        self,
        name: str,
        data: npt.NDArray[Any],
        *,
        kind: WeightKind = "raw",
        columns: int = 0,
        depths: tuple[int, ...] = (),
    ) -> Storage:
        """A constant; `columns` and `depths` are those of `WeightPlacement`."""
        content = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        storage = Storage(name, content.nbytes, "weights")
        self._weights.append(_Weight(storage, content, kind, columns, depths))
        return storage

    def other_depth(self, storage: Storage, data: npt.NDArray[Any], depth: int) -> None:
        """What the constant `storage` is at another depth of nested codes, in as many bytes."""
        content = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        assert content.nbytes == storage.bytes
        self._weights.append(_Weight(storage, content, "raw", 0, (depth,)))

    def reserve(self, name: str, size: int) -> Storage:
        """Zeros behind the weights, which whoever loads the program may change between calls."""
        storage = Storage(name, size, "weights")
        self._reserved.append(storage)
        return storage

    def input(self, name: str, dtype: str, shape: tuple[Dimension, ...], storage: Storage) -> None:
        self._inputs.append((name, dtype, shape, storage))

    def output(self, name: str, dtype: str, shape: tuple[Dimension, ...], storage: Storage) -> None:
        self._outputs.append((name, dtype, shape, storage))

    def number_words(self, bounds: Mapping[str, int | None]) -> View:
        """Memory of new computed numbers, one int32 after the other in the order of `bounds`."""
        storage = self._number_storage
        if not storage.bytes:
            self._storages.append(storage)
        for name, bound in bounds.items():  # another entry point may compute the same ones
            self.numbers.setdefault(name, Number(name, len(self.numbers), bound))
        places = [self.numbers[name].index for name in bounds]
        if places != list(range(places[0], places[0] + len(places))):
            raise ValueError(f"{list(bounds)} are computed twice")
        storage.bytes = 4 * len(self.numbers)
        return storage.at(4 * places[0])

    # Placement

    def place(self) -> MemoryPlan:
        """Give every storage its address. Raises `DoesNotFitError` past 4 GiB."""
        lifetimes: dict[Storage, list[int]] = {}
        step = 0
        for entry in self.entries:
            for call in entry.calls:
                step += 1
                if isinstance(call, str):
                    continue
                for operand in call.operands:
                    storage = operand.storage if isinstance(operand, View) else operand
                    if isinstance(storage, Storage) and storage.region == "workspace":
                        lifetimes.setdefault(storage, []).append(step)
        workspace = [s for s in self._storages if s.persistent or s in lifetimes]
        spans = [
            Lifetime(s.bytes, 0, step + 1) if s.persistent else Lifetime(s.bytes, min(lifetimes[s]), max(lifetimes[s]))
            for s in workspace
        ]
        offsets, workspace_bytes = plan_offsets(spans)
        static = Region(0, STATIC_BYTES)
        control = Region(STATIC_BYTES, align(PAGE_TABLE + self.page_table.bytes))
        stacks = Region(control.offset + control.bytes, STACK_BYTES * self.max_threads)
        space = Region(stacks.offset + stacks.bytes, align(max(workspace_bytes, STAGING_BYTES)))
        for storage, offset in zip(workspace, offsets, strict=True):
            storage.offset = space.offset + offset
        position = space.offset + space.bytes
        weights_start = position
        for storage in [*dict.fromkeys(weight.storage for weight in self._weights), *self._reserved]:
            storage.offset = position
            position = align(position + storage.bytes)
        weights = Region(weights_start, position - weights_start)
        kv = Region(position, self.kv_storage.bytes)
        self.kv_storage.offset = kv.offset
        self.page_table.offset = control.offset + PAGE_TABLE
        maximum = align(kv.offset + kv.bytes, WASM_PAGE)
        if maximum > ADDRESS_LIMIT:
            raise DoesNotFitError(
                f"the model needs {maximum / 2**30:.2f} GiB of memory, WebAssembly has 4",
                hint="compile with fewer bits or a shorter context",
            )
        return MemoryPlan(static, control, stacks, STACK_BYTES, self.max_threads, space, weights, kv, maximum)

    # Drivers

    def _numbers(self, entry: Entry) -> Iterator[tuple[int, Call | str]]:
        """The calls of an entry point, each with its number in the program."""
        before = itertools.takewhile(lambda other: other is not entry, self.entries)
        return enumerate(entry.calls, start=sum(len(other.calls) for other in before))

    def _driver(
        self, entry: Entry, signatures: Mapping[str, Signature], control: int, *, threads: bool, marks: bool
    ) -> AssembledFunction:
        """`marks`: thread 0 reports the start of the entry point, and the number of each call that has ended."""
        calls = [call for call in entry.calls if isinstance(call, Call)]
        names = [*entry.parameters, *(name for call in calls for name in call.numbers)]
        switched = any(call.adapter is not None for call in calls)
        if switched:
            names.append("rank")
        local = {name: index + 2 for index, name in enumerate(names)}  # after tid, threads
        parameters = len(entry.parameters)
        function = AssembledFunction(entry.name, parameters=2 + parameters, locals=len(names) - parameters)

        def scalar(value: Scalar) -> None:
            if isinstance(value, int):
                function.emit(i32_const(value))
            elif isinstance(value, str):
                function.emit(local_get(local[value]))
            else:
                operator, left, right = value
                scalar(left)
                scalar(right)
                function.emit(_OPERATORS[operator])

        def push(operand: Operand) -> None:
            if isinstance(operand, Storage):
                function.emit(i32_const(operand.offset))
            elif isinstance(operand, View):
                function.emit(i32_const(operand.storage.offset + operand.displacement))
            else:
                scalar(operand)

        drop, if_first, end = b"\x1a", local_get(0) + b"\x45\x04\x40", b"\x0b"

        def mark(number: int) -> None:
            if not marks:
                return
            function.emit(if_first, i32_const(number))
            function.call(_MARK.name)
            function.emit(end)

        def wait() -> None:
            if threads:
                function.emit(i32_const(control), local_get(1))
                function.call("edgec_barrier")
                function.emit(drop)

        checked = [number for number in self.numbers.values() if number.bound is not None]

        def read(number: Number) -> None:
            """Every thread reads it after the barrier; if it is out of bounds, all of them leave together."""
            function.emit(i32_const(self._number_storage.offset + 4 * number.index), i32_load())
            if number.bound is None:
                function.emit(local_set(local[number.name]))
                return
            function.emit(local_tee(local[number.name]), i32_const(number.bound), _GREATER_UNSIGNED, _IF)
            wait()
            function.emit(i32_const(1 + checked.index(number)), _RETURN, end)

        mark(_START)
        if switched and self.switch is not None:
            function.emit(i32_const(self.switch.offset), i32_load(), local_set(local["rank"]))
        inside: bool | None = None
        for number, call in self._numbers(entry):
            wanted = call.adapter if isinstance(call, Call) else None
            if wanted is not inside:
                if inside is not None:
                    function.emit(end)
                if wanted is not None:
                    function.emit(local_get(local["rank"]), _IF if wanted else _UNLESS)
                inside = wanted
            if isinstance(call, str):
                function.emit(local_get(0), local_get(1))
                for argument in entry.arguments[call]:
                    scalar(argument)
                function.call(call)
                function.emit(drop)
                continue
            signature = signatures[call.kernel]
            if len(call.operands) != len(signature.parameters):
                raise ValueError(f"`{call.kernel}` takes {signature.parameters}, got {len(call.operands)} operands")
            alone = not signature.parallel and threads
            if alone:
                function.emit(if_first)
            for operand in call.operands:
                push(operand)
            if signature.parallel:
                function.emit(local_get(0), local_get(1))
            function.call(call.kernel)
            function.emit(drop)
            if alone:
                function.emit(end)
            wait()
            mark(number)
            for name in call.numbers:
                read(self.numbers[name])
        if inside is not None:
            function.emit(end)
        function.emit(i32_const(0))
        return function

    def _kernels(self, isa: Isa) -> bytes:
        """The section that says what the marks of a module of `isa` are; docs/runtime-abi.md has the format."""

        def described(entry: Entry, number: int, call: Call | str) -> dict[str, Any]:
            if isinstance(call, str):
                return {"enter": call, "arguments": entry.arguments[call]}
            return {"mark": number, "kernel": call.kernel, **call.work.at(self._most).to_json(isa)}

        entries = {
            entry.name: {
                "parameters": entry.parameters,
                "calls": [described(entry, *numbered) for numbered in self._numbers(entry)],
            }
            for entry in self.entries
        }
        return json.dumps({"entries": entries}, sort_keys=True, separators=(",", ":")).encode()

    def foreseen(self, name: str, parameters: Mapping[str, int]) -> tuple[KernelWork, ...]:
        """What the calls of an entry point do, and those of the entry points that it enters; without adapters."""
        entry = next(entry for entry in self.entries if entry.name == name)
        works: list[KernelWork] = []
        for call in entry.calls:
            if isinstance(call, str):
                inner = next(other for other in self.entries if other.name == call)
                values = [evaluate(value, parameters) for value in entry.arguments[call]]
                works += self.foreseen(call, dict(zip(inner.parameters, values, strict=True)))
            elif not call.adapter:
                works.append(call.work.foreseen(call.kernel.rpartition("_")[0], {**self._most, **parameters}))
        return tuple(works)

    @property
    def _most(self) -> dict[str, int]:
        """Computed numbers as amounts of work: their bounds."""
        return {number.name: number.bound or 0 for number in self.numbers.values()}

    def build(
        self,
        variants: Sequence[str],
        *,
        profile_kernels: bool = False,
        store: Store | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> LoweredModule:
        """Place, compile and link; `progress(what, done, total)` is called per step.

        `profile_kernels` makes modules that import `profile.mark` and tell it where they are.
        """
        started = time.monotonic()
        memory = self.place()
        parsed = [Variant.parse(name) for name in variants]
        isas = [isa for isa in ISAS.values() if any(variant.isa is isa for variant in parsed)]
        modules: dict[str, bytes] = {}
        exports = [entry.name for entry in self.entries] + list(_LOADER_EXPORTS)
        done, total = 0, len(isas) + len(parsed)
        calls = sum(len(entry.calls) for entry in self.entries)
        for isa in isas:
            if progress:
                progress(f"compiling {len(self._factories)} kernels for {isa.name}", done, total)
            kernels = {name: make(isa) for name, make in self._factories.values()}
            kernels |= {name: make() for name, make in _LOADER_EXPORTS.items()}
            compiled, signatures = compile_kernels(kernels, isa, store)
            done += 1
            for variant in parsed:
                if variant.isa is not isa:
                    continue
                if progress:
                    progress(f"linking {variant.name}", done, total)
                threads, control = variant.threads, memory.control.offset
                drivers = [
                    self._driver(entry, signatures, control, threads=threads, marks=profile_kernels)
                    for entry in self.entries
                ]
                modules[variant.name] = link(
                    [compiled],
                    [*drivers, barrier()],
                    exports,
                    static_limit=STATIC_BYTES,
                    maximum_pages=memory.maximum_bytes // WASM_PAGE,
                    shared=threads,
                    imports=[_MARK] if profile_kernels else [],
                    sections={KERNELS_SECTION: self._kernels(isa)} if profile_kernels else {},
                )
                done += 1
        if progress:
            progress("lowered", total, total)
        kv = self.kv
        if kv is not None:
            kv = KVLayout(kv.bits, kv.page_tokens, kv.page_bytes, kv.pages, self.page_table.offset)
        return LoweredModule(
            kind=self.kind,
            variants=modules,
            memory=memory,
            entry_points=tuple(EntryPoint(e.name, e.parameters, e.inputs, e.outputs) for e in self.entries),
            inputs=tuple(_slot(*item) for item in self._inputs),
            outputs=tuple(_slot(*item) for item in self._outputs),
            dims=dict(self.dims),
            computed=tuple(
                ComputedSlot(number.name, number.bound, self._number_storage.offset + 4 * number.index)
                for number in self.numbers.values()
                if number.bound is not None
            ),
            weights=tuple(
                WeightPlacement(w.storage.name, w.kind, w.storage.offset, w.data, w.columns, w.depths)
                for w in self._weights
            ),
            kv=kv,
            adapters=self.adapters() if self.adapters is not None else None,
            statistics={
                "kernels": len(self._factories),
                "calls": calls,
                "module_bytes": {name: len(module) for name, module in modules.items()},
                "seconds": round(time.monotonic() - started, 3),
            },
        )


def _weight_bytes(operands: Sequence[Operand]) -> int:
    storages = {operand.storage if isinstance(operand, View) else operand for operand in operands}
    return sum(s.bytes for s in storages if isinstance(s, Storage) and s.region == "weights")


def _slot(name: str, dtype: Any, shape: tuple[Dimension, ...], storage: Storage) -> TensorSlot:
    return TensorSlot(name, dtype, shape, storage.offset, storage.bytes)
