"""A helper module for wasmtime that plays the JavaScript worker's part of docs/runtime-abi.md.

It is made for the entry points of one bundle and imports them from the thread's own instance:

    work(tid, threads)      wait at the doorbell and call what it says, until the entry is -1
    call_NAME(threads, ...) write entry and parameters, ring, run NAME as thread 0; its result
    leave()                 ring with entry -1
    release()               open the barrier that the module's threads may be waiting at; after a trap only

Waiting and ringing happen inside wasm, so no thread needs Python's interpreter lock for them.
"""

from __future__ import annotations

from collections.abc import Mapping

_GENERATION, _BELL, _ENTRY, _PARAMETERS = 4, 64, 68, 72
MAX_PARAMETERS = 14  # what fits bytes 72 ... 127


def doorbell_wat(entry_points: Mapping[str, tuple[str, ...]], control: int, maximum_pages: int) -> str:
    """WebAssembly text of the helper. `control` is the address of the control region."""
    names = sorted(entry_points)
    imports = "\n".join(
        f'(import "module" "{name}" (func ${name} (param {"i32 " * (2 + len(entry_points[name]))}) (result i32)))'
        for name in names
    )
    calls = "\n".join(_worker_call(index, name, len(entry_points[name]), control) for index, name in enumerate(names))
    callers = "\n".join(_caller(index, name, len(entry_points[name]), control) for index, name in enumerate(names))
    return f"""(module
{imports}
(import "env" "memory" (memory 1 {maximum_pages} shared))
(func $ring
  (drop (i32.atomic.rmw.add (i32.const {control + _BELL}) (i32.const 1)))
  (drop (memory.atomic.notify (i32.const {control + _BELL}) (i32.const -1))))
(func (export "work") (param $tid i32) (param $threads i32) (local $seen i32) (local $entry i32)
  (loop $next
    (loop $wait
      (drop (memory.atomic.wait32 (i32.const {control + _BELL}) (local.get $seen) (i64.const -1)))
      (br_if $wait (i32.eq (i32.atomic.load (i32.const {control + _BELL})) (local.get $seen))))
    (local.set $seen (i32.add (local.get $seen) (i32.const 1)))
    (local.set $entry (i32.atomic.load (i32.const {control + _ENTRY})))
    (if (i32.eq (local.get $entry) (i32.const -1)) (then return))
    {calls}
    (br $next)))
(func (export "release")
  (drop (i32.atomic.rmw.add (i32.const {control + _GENERATION}) (i32.const 1)))
  (drop (memory.atomic.notify (i32.const {control + _GENERATION}) (i32.const -1))))
(func (export "leave")
  (i32.atomic.store (i32.const {control + _ENTRY}) (i32.const -1))
  (call $ring))
{callers}
)"""


def _worker_call(index: int, name: str, parameters: int, control: int) -> str:
    loads = " ".join(f"(i32.load (i32.const {control + _PARAMETERS + 4 * i}))" for i in range(parameters))
    call = f"(drop (call ${name} (local.get $tid) (local.get $threads) {loads}))"
    return f"(if (i32.eq (local.get $entry) (i32.const {index})) (then {call}))"


def _caller(index: int, name: str, parameters: int, control: int) -> str:
    values = [f"(local.get {1 + i})" for i in range(parameters)]
    stores = " ".join(
        f"(i32.store (i32.const {control + _PARAMETERS + 4 * i}) {value})" for i, value in enumerate(values)
    )
    return f"""(func (export "call_{name}") (param {"i32 " * (1 + parameters)}) (result i32)
  {stores}
  (i32.atomic.store (i32.const {control + _ENTRY}) (i32.const {index}))
  (call $ring)
  (call ${name} (i32.const 0) (local.get 0) {" ".join(values)}))"""
