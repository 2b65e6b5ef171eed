"""Shared memory for wasmtime's Python binding, which has the class but cannot import it into a module."""

from __future__ import annotations

from typing import Any

import wasmtime
from wasmtime import _ffi as ffi


class SharedMemory(wasmtime.SharedMemory):  # type: ignore[misc]
    """`wasmtime.SharedMemory`, whose own `_as_extern` passes a pointer too many and raises `TypeError`."""

    def _as_extern(self) -> Any:
        union = ffi.wasmtime_extern_union(sharedmemory=self.ptr())
        return ffi.wasmtime_extern_t(ffi.WASMTIME_EXTERN_SHAREDMEMORY, union)
