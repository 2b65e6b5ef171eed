"""Timing every kernel call of a bundle that was compiled with `--profile-kernels`, while it does its usual work.

The module calls `profile.mark(number)` at the start of an entry point and after each kernel call
(docs/runtime-abi.md). Here `mark` is a small wasm function that asks the system's clock and appends to a
buffer of its own, so that nothing of Python runs between two kernels.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import wasmtime

from edgec.bundle import Bundle
from edgec.errors import BundleError, UsageError
from edgec.run.decoder import DecoderState
from edgec.run.engine import MARK_IMPORT, Engine
from edgec.run.graph import Arrays, open_graph

SECTION = "edgec.kernels"
START = -1
_RECORD = 16  # bytes: number (int32), padding, time (int64, nanoseconds)
_PAGE = 65536

_WAT = """(module
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (memory (export "memory") {pages})
  (global $next (mut i32) (i32.const 0))
  (func (export "mark") (param $number i32)
    (drop (call $clock (i32.const 1) (i64.const 1) (i32.add (global.get $next) (i32.const 8))))
    (i32.store (global.get $next) (local.get $number))
    (global.set $next (i32.add (global.get $next) (i32.const {record}))))
  (func (export "restart") (result i32)
    (global.get $next)
    (global.set $next (i32.const 0))))"""


@dataclass(frozen=True)
class Step:
    """One call of an entry point: its parameters and the seconds that it took, seen from outside.

    `marks` and `times` (seconds) are what the module reported, in order.
    """

    entry: str
    parameters: Sequence[int]
    seconds: float
    marks: Sequence[int]
    times: Sequence[float]


def read_kernels(module: bytes) -> dict[str, Any] | None:
    """The description of a module's kernel calls (docs/runtime-abi.md); None if it was not compiled with them."""
    for kind, content in _sections(module):
        if kind == 0:
            length, at = _unsigned(content, 0)
            if content[at : at + length] == SECTION.encode():
                try:
                    found: dict[str, Any] = json.loads(content[at + length :])
                except ValueError:
                    raise BundleError(f"the section `{SECTION}` of the module is damaged") from None
                return found
    return None


def _sections(module: bytes) -> Iterator[tuple[int, bytes]]:
    at = 8  # after magic and version
    while at < len(module):
        kind = module[at]
        length, at = _unsigned(module, at + 1)
        yield kind, module[at : at + length]
        at += length


def _unsigned(data: bytes, at: int) -> tuple[int, int]:
    """An LEB128 number and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at


class TimedEngine(Engine):
    """An engine of one thread that keeps every step in `steps`. Raises `UsageError` for other bundles."""

    def __init__(self, bundle: Bundle, *, variant: str | None = None) -> None:
        self.steps: list[Step] = []
        self._clock: Any = None
        super().__init__(bundle, variant=variant, threads=1)

    def _check_imports(self, imports: Sequence[tuple[str, str]]) -> None:
        kernels = read_kernels(self.bundle.module(self.variant))
        if kernels is None or MARK_IMPORT not in imports:
            raise UsageError(
                f"the kernels of `{self.bundle.path}` cannot be timed",
                hint="compile the model with `--profile-kernels`",
            )
        self.kernels = kernels
        super()._check_imports([name for name in imports if name != MARK_IMPORT])

    def _imports(self, store: Any) -> list[Any]:
        # An entry point that enters others marks what they mark, too.
        marks = sum(len(entry["calls"]) + 1 for entry in self.kernels["entries"].values())
        wat = _WAT.format(pages=-(-marks * _RECORD // _PAGE), record=_RECORD)
        store.set_wasi(wasmtime.WasiConfig())
        linker = wasmtime.Linker(self._engine)
        linker.define_wasi()
        clock = linker.instantiate(store, wasmtime.Module(self._engine, wasmtime.wat2wasm(wat))).exports(store)
        self._clock = clock
        return [*super()._imports(store), clock["mark"]]

    def call(self, entry: str, *parameters: int) -> None:
        started = time.perf_counter()
        super().call(entry, *parameters)
        seconds = time.perf_counter() - started
        store = self._stores[0]
        used = self._clock["restart"](store)
        memory = self._clock["memory"]
        records = np.frombuffer(memory.read(store, 0, used), np.dtype([("mark", "<i4"), ("", "<i4"), ("at", "<i8")]))
        marks, times = tuple(records["mark"].tolist()), tuple((records["at"] * 1e-9).tolist())
        self.steps.append(Step(entry, tuple(parameters), seconds, marks, times))


def time_decoder(engine: TimedEngine, prompt: Sequence[int], tokens: int, repeat: int) -> list[list[Step]]:
    """The steps of `prompt` and of an answer of `tokens` ids, chosen greedily, `repeat` times."""
    state = DecoderState(engine)

    def answer() -> None:
        state.reset()
        state.prompt(prompt)
        for _ in range(tokens - 1):  # the prompt gives the first
            state.decode(int(np.argmax(state.logits())))

    return [_steps(engine, answer) for _ in range(repeat)]


def time_graph(engine: TimedEngine, inputs: Arrays, repeat: int, graph: str | None = None) -> list[list[Step]]:
    """The step of a run of the graph of this name, or of the only one, `repeat` times."""
    opened = open_graph(engine, graph)
    return [_steps(engine, lambda: opened.run(inputs)) for _ in range(repeat)]


def _steps(engine: TimedEngine, work: Callable[[], object]) -> list[Step]:
    engine.steps = []
    work()
    return engine.steps


__all__ = ["Step", "TimedEngine", "read_kernels", "time_decoder", "time_graph"]
