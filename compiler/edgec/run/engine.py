"""A bundle's wasm in wasmtime: memory, weights, threads and entry points of docs/runtime-abi.md."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import ml_dtypes
import numpy as np
import numpy.typing as npt
import wasmtime

from edgec.bundle import Bundle
from edgec.bundle.manifest import FINEST, Computed, Segment, Slot, expanded
from edgec.errors import BundleError, RunError, UsageError
from edgec.ir.narrow import merge_narrow, merge_scaled
from edgec.ir.planes import merge_trits
from edgec.run.doorbell import doorbell_wat
from edgec.run.probe import make_config, relaxed_dots
from edgec.run.shared_memory import SharedMemory

WASM_PAGE = 65536
MEMORY_IMPORT = ("env", "memory")
MARK_IMPORT = ("profile", "mark")
_MERGE_QUANTUM = 64  # source bytes; every cut is a legal segment boundary


def available_threads() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def numpy_dtype(slot: Slot) -> np.dtype[Any]:
    """What numpy has no name for, ml_dtypes has: bfloat16 and everything of less than 16 bits."""
    return np.dtype(getattr(ml_dtypes, slot.dtype, slot.dtype))


def choose_variant(bundle: Bundle, variant: str | None, threads: int | None) -> tuple[str, int]:
    """The module to load and the number of threads. Raises `UsageError` for what the bundle lacks."""
    modules = bundle.manifest.modules
    if variant is not None and variant not in modules:
        known = ", ".join(f"`{name}`" for name in sorted(modules))
        raise UsageError(f"the bundle has no variant `{variant}`", hint=f"it has {known}")
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads are not possible", hint="give 1 or more")
    threaded = variant.endswith("-threads") if variant else None
    if threads is None:
        threads = 1 if threaded is False else available_threads()
    threads = min(threads, bundle.manifest.memory.max_threads)
    if variant is None:
        bases = preferred_bases()
        wanted = [f"{base}-threads" for base in bases] if threads > 1 else []
        variant = next(name for name in [*wanted, *bases] if name in modules)
    elif not _runnable_bases()[variant.removesuffix("-threads")]:
        raise RunError("this engine has no right relaxed dot product", hint="use the variant `simd128`")
    return variant, threads if variant.endswith("-threads") else 1


def preferred_bases() -> list[str]:
    """The instruction sets that compute rightly here, the fastest first."""
    runs = _runnable_bases()
    relaxed = ["relaxed16", "relaxed"] if relaxed_dots().int32_is_slow else ["relaxed", "relaxed16"]
    return [base for base in [*relaxed, "simd128"] if runs[base]]


def _runnable_bases() -> dict[str, bool]:
    dots = relaxed_dots()
    return {"relaxed": dots.int32, "relaxed16": dots.int16, "simd128": True}


def runnable_variants(bundle: Bundle) -> list[str]:
    """The bundle's variants that compute rightly here, in alphabetical order."""
    runs = _runnable_bases()
    return [variant for variant in sorted(bundle.manifest.modules) if runs[variant.removesuffix("-threads")]]


class Engine:
    """One loaded bundle. Not thread-safe: callers make one call at a time.

    `memory` is a view of the whole linear memory; it dies with `close()`.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        variant: str | None = None,
        threads: int | None = None,
        depth: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Load and check everything. `progress` gets the number of weight bytes since the last call; `depth` is how
        many bits of nested codes are loaded, all by default.

        Raises `BundleError` for damaged files or a module that breaks the ABI.
        """
        started = time.perf_counter()
        self.bundle = bundle
        self.manifest = bundle.manifest.at_depth(depth)
        self.depth = (depth or FINEST) if bundle.manifest.depths else None  # bits of nested codes that are loaded
        self.variant, self.threads = choose_variant(bundle, variant, threads)
        self.shared = self.variant.endswith("-threads")
        self._engine = wasmtime.Engine(make_config())
        self._memory: Any = None
        self._instances: list[Any] = []
        self._stores: list[Any] = []
        self._workers: list[threading.Thread] = []
        self._leave: Callable[[], Any] | None = None
        self._release: Callable[[], Any] | None = None
        self._calling = False
        self._worker_failure: Exception | None = None
        self._entries: dict[str, Callable[..., int]] = {}
        try:
            self._start()
        except wasmtime.WasmtimeError as error:
            self.close()
            raise BundleError(
                f"`{self.manifest.modules[self.variant]}` cannot be loaded ({_first_line(error)})"
            ) from error
        except MemoryError:
            self.close()
            raise RunError("there is not enough memory for the model") from None
        self.seconds_to_compile = time.perf_counter() - started
        try:
            self._load_weights(progress)
            self._start_workers()
        except BaseException:
            self.close()
            raise
        self._reset_page_table()
        self.seconds_to_load = time.perf_counter() - started

    # life

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads and free the memory. May be called twice."""
        if self._leave is not None and self._release is not None:
            self._leave()
            for worker in self._workers:
                while worker.is_alive():
                    worker.join(0.05)
                    self._release()  # after a trap it may wait for a thread that is gone
            self._leave = self._release = None
        self._workers.clear()
        self._entries.clear()
        self._instances.clear()
        self._memory = None
        self._stores.clear()

    @property
    def closed(self) -> bool:
        return not self._stores

    # start

    def _start(self) -> None:
        manifest = self.manifest
        self._module = wasmtime.Module(self._engine, self.bundle.module(self.variant))
        wanted = self._memory_import()
        minimum = max(-(-manifest.memory.weights.end // WASM_PAGE), wanted.limits.min)
        maximum = manifest.memory.maximum_bytes // WASM_PAGE
        memory_type = wasmtime.MemoryType(wasmtime.Limits(minimum, maximum), shared=self.shared)
        self._stores.append(wasmtime.Store(self._engine))
        if self.shared:
            self._memory = SharedMemory(self._engine, memory_type)
        else:
            self._memory = wasmtime.Memory(self._stores[0], memory_type)
        self._instances = [self._instantiate(0)]
        exports = self._instances[0]
        for name in manifest.entry_points:
            self._entries[name] = self._bind(exports, name, 0, 1)
        self._merge_bits2 = self._bind(exports, "merge_bits2")
        self._merge_bit1 = self._bind(exports, "merge_bit1")
        self._merge_byte1 = self._bind(exports, "merge_byte1")

    def _memory_import(self) -> Any:
        self._check_imports([(entry.module, entry.name) for entry in self._module.imports])
        return next(entry.type for entry in self._module.imports if (entry.module, entry.name) == MEMORY_IMPORT)

    def _check_imports(self, imports: Sequence[tuple[str, str]]) -> None:
        if MARK_IMPORT in imports:
            hint = "time them with `edgec bench --roofline`, or compile the model again without it"
            raise BundleError("the bundle was compiled with `--profile-kernels`, to time its kernels only", hint=hint)
        if list(imports) != [MEMORY_IMPORT]:
            raise BundleError(f"the module imports {imports}, allowed is `env.memory` alone")

    def _imports(self, store: Any) -> list[Any]:
        """What the module imports, in order."""
        return [self._memory]

    def _instantiate(self, tid: int) -> Any:
        store = self._stores[tid]
        exports = wasmtime.Instance(store, self._module, self._imports(store)).exports(store)
        memory = self.manifest.memory
        try:
            exports["__stack_pointer"].set_value(store, memory.stacks.offset + (tid + 1) * memory.stack_bytes)
        except (KeyError, TypeError, AttributeError):
            raise BundleError("the module does not export the global `__stack_pointer`") from None
        return exports

    def _bind(self, exports: Any, name: str, *leading: int) -> Callable[..., int]:
        try:
            function = exports[name]
        except KeyError:
            raise BundleError(f"the module does not export `{name}`") from None
        store = self._stores[0]
        return lambda *parameters: function(store, *leading, *parameters)

    def _start_workers(self) -> None:
        if self.threads == 1:
            return
        entry_points, control = self.manifest.entry_points, self.manifest.memory.control.offset
        wat = doorbell_wat(entry_points, control, self.manifest.memory.maximum_bytes // WASM_PAGE)
        helper = wasmtime.Module(self._engine, wasmtime.wat2wasm(wat))
        for tid in range(self.threads):
            if tid:
                self._stores.append(wasmtime.Store(self._engine))
                self._instances.append(self._instantiate(tid))
            store = self._stores[tid]
            imports = [self._instances[tid][name] for name in sorted(entry_points)] + [self._memory]
            bell = wasmtime.Instance(store, helper, imports).exports(store)
            if tid == 0:
                self._entries = {name: self._bind(bell, f"call_{name}", self.threads) for name in entry_points}
                self._leave, self._release = self._bind(bell, "leave"), self._bind(bell, "release")
            else:
                arguments = (bell["work"], bell["release"], store, tid)
                worker = threading.Thread(target=self._work, args=arguments, name=f"edgec-{tid}", daemon=True)
                worker.start()
                self._workers.append(worker)

    def _work(self, work: Any, release: Any, store: Any, tid: int) -> None:
        """A worker's life. If it traps, the other threads must not wait for it at the next barrier."""
        try:
            work(store, tid, self.threads)
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            self._worker_failure = error
            while self._calling:
                release(store)
                time.sleep(0.001)

    # memory

    @property
    def memory(self) -> npt.NDArray[np.uint8]:
        """All of the linear memory as uint8; take it anew after the memory may have grown."""
        if self.closed:
            raise RunError("the model is closed")
        if self.shared:
            pointer, length = self._memory.data_ptr(), self._memory.data_len()
        else:
            pointer, length = self._memory.data_ptr(self._stores[0]), self._memory.data_len(self._stores[0])
        return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_ubyte)), (length,))

    @property
    def memory_bytes(self) -> int:
        return int(self.memory.size)

    def view(self, slot: Slot, count: int) -> npt.NDArray[Any]:
        """The first `count` items of an input or output, in place."""
        dtype = numpy_dtype(slot)
        return self.memory[slot.offset : slot.offset + count * dtype.itemsize].view(dtype)

    def ensure_bytes(self, end: int) -> None:
        """Let the memory reach address `end`. Raises `RunError` if it may not."""
        missing = -(-end // WASM_PAGE) - self.memory_bytes // WASM_PAGE
        if missing <= 0:
            return
        try:
            if self.shared:
                self._memory.grow(missing)
            else:
                self._memory.grow(self._stores[0], missing)
        except wasmtime.WasmtimeError:
            raise RunError(f"the memory cannot grow to {end} bytes", hint="use a shorter context") from None

    def _reset_page_table(self) -> None:
        kv = self.manifest.kv
        if kv is not None:
            table = self.memory[kv.table_offset : kv.table_offset + 4 * kv.pages].view(np.int32)
            table[:] = np.arange(kv.pages, dtype=np.int32)

    def ensure_kv(self, tokens: int) -> None:
        """Let the KV cache hold `tokens` tokens."""
        kv = self.manifest.kv
        assert kv is not None
        self.ensure_bytes(self.manifest.memory.kv.offset + -(-tokens // kv.page_tokens) * kv.page_bytes)

    # weights

    def _load_weights(self, progress: Callable[[int], None] | None) -> None:
        for weight in self.manifest.weights:
            content = np.frombuffer(self.bundle.file_bytes(weight.file), np.uint8)
            start = 0
            for segment in weight.segments:
                self._apply(segment, content[start : start + segment.length])
                start += segment.length
            if progress:
                progress(content.size)

    def _apply(self, segment: Segment, source: npt.NDArray[np.uint8]) -> None:
        memory = self.memory
        if segment.op == "copy":
            memory[segment.target : segment.target + segment.length] = source
            return
        if segment.op == "scaled8":
            wide = memory[segment.target : segment.target + segment.target_bytes]
            merge_scaled(wide, source, segment.columns)
            return
        if segment.op == "upper4" or segment.op == "scale8" or segment.op == "upper16":
            merge_narrow(memory[segment.target : segment.target + segment.target_bytes], source, segment.op)
            return
        if segment.op == "trits":
            merge_trits(memory[segment.target : segment.target + segment.target_bytes], source)
            return
        staging = self.manifest.memory.workspace
        step = staging.bytes // _MERGE_QUANTUM * _MERGE_QUANTUM
        for start in range(0, source.size, step):
            part = source[start : start + step]
            memory[staging.offset : staging.offset + part.size] = part
            target = segment.target + expanded(segment.op, start)
            if segment.op == "bits2":
                self._merge_bits2(target, staging.offset, part.size)
            else:
                merge = self._merge_bit1 if segment.op == "bit1" else self._merge_byte1
                merge(target, staging.offset, part.size, segment.shift)

    # calls

    def call(self, entry: str, *parameters: int) -> None:
        """Run an entry point on all threads.

        Raises `RunError` if it traps, the engine is then closed, and where a number that it computes is out of bounds.
        """
        if self.closed:
            raise RunError("the model is closed")
        self._calling = True
        try:
            result = self._entries[entry](*parameters)
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            raise self._failed(entry, _first_line(error)) from error
        finally:
            self._calling = False
        if self._worker_failure is not None:
            raise self._failed(entry, _first_line(self._worker_failure))
        if 1 <= result <= len(self.manifest.computed):
            raise self._out_of_bounds(self.manifest.computed[result - 1])
        if result != 0:
            raise self._failed(entry, f"code {result}")

    def computed(self, number: Computed) -> int:
        """A number that the last call computed."""
        return int(self.memory[number.offset : number.offset + 4].view(np.int32)[0])

    def _out_of_bounds(self, number: Computed) -> RunError:
        value = self.computed(number)
        if value < 0:
            return RunError(
                f"the inputs' values do not go together: `{number.name}` cannot be computed",
                hint="check the inputs that hold shapes, axes, positions and counts",
            )
        return RunError(
            f"the inputs' values make `{number.name}` {value}, the bundle holds at most {number.bound}",
            hint=f"compile the model with `--max-dim {number.name}={value}`",
        )

    def _failed(self, entry: str, reason: str) -> RunError:
        self.close()
        return RunError(f"`{entry}` failed ({reason})", hint="load the model again")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
