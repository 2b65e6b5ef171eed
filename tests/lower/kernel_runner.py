"""Run single kernels in wasmtime on numpy arrays, with guard bytes around every buffer."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import wasmtime

from edgec.lower.wasm.abi import PrimFunc, compile_kernels
from edgec.lower.wasm.linker import link
from edgec.lower.wasm.target import Isa

_PAGES = 256
_STACK_TOP = 1 << 17
_GUARD = 64
_PATTERN = 0xA5


class KernelRunner:
    """One compiled kernel; `run` copies arrays in, calls it, and copies them back."""

    def __init__(self, func: PrimFunc, isa: Isa) -> None:
        compiled, signatures = compile_kernels({"kernel": func}, isa)
        self.signature = signatures["kernel"]
        module = link([compiled], [], ["kernel"], static_limit=65536, maximum_pages=_PAGES, shared=False)
        config = wasmtime.Config()
        config.wasm_relaxed_simd = True
        engine = wasmtime.Engine(config)
        self._store = wasmtime.Store(engine)
        memory = wasmtime.Memory(self._store, wasmtime.MemoryType(wasmtime.Limits(_PAGES, _PAGES)))
        exports = wasmtime.Instance(self._store, wasmtime.Module(engine, module), [memory]).exports(self._store)
        stack: Any = exports["__stack_pointer"]
        stack.set_value(self._store, _STACK_TOP)
        self._kernel: Any = exports["kernel"]
        address = ctypes.addressof(memory.data_ptr(self._store).contents)
        self._bytes = np.frombuffer((ctypes.c_uint8 * (_PAGES * 65536)).from_address(address), np.uint8)
        self._keep = memory

    def run(self, buffers: Sequence[npt.NDArray[Any]], scalars: Sequence[int] = (), *, threads: int = 1) -> None:
        """Buffers are changed in place; `threads` runs the shares of that many threads one after the other. An array
        that is given twice has one place."""
        self._bytes[_STACK_TOP:] = _PATTERN
        address = _STACK_TOP
        places: list[tuple[int, npt.NDArray[Any]]] = []
        starts: list[int] = []
        for array in buffers:
            known = next((start for start, other in places if other is array), None)
            if known is not None:
                starts.append(known)
                continue
            address += _GUARD
            self._bytes[address : address + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            places.append((address, array))
            starts.append(address)
            address += -(-array.nbytes // _GUARD) * _GUARD + _GUARD
        for thread in range(threads):
            share = (thread, threads) if self.signature.parallel else ()
            assert self._kernel(self._store, *starts, *scalars, *share) == 0
        for start, array in places:
            before, after = start - _GUARD, start + array.nbytes
            for edge in (before, after):
                assert (self._bytes[edge : edge + _GUARD] == _PATTERN).all(), "a kernel wrote outside its buffer"
            content = self._bytes[start : start + array.nbytes].copy().view(array.dtype)
            array[...] = content.reshape(array.shape)
