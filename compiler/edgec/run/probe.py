"""Does this engine compute the relaxed dot product as the kernels need it?

Relaxed SIMD leaves results open for operands that the kernels never use; inside their ranges
(signed 8-bit times 0 ... 127, no overflow) every correct engine agrees. Some released engines do not.
"""

from __future__ import annotations

import functools

import numpy as np
import wasmtime

_WAT = """(module (memory (export "memory") 1)
  (func (export "dot") (param $a i32) (param $b i32) (param $sum i32)
    (v128.store (local.get $sum) (i32x4.relaxed_dot_i8x16_i7x16_add_s
      (v128.load (local.get $a)) (v128.load (local.get $b)) (v128.load (local.get $sum))))))"""


def make_config() -> wasmtime.Config:
    """The settings under which modules are compiled; results do not depend on them."""
    config = wasmtime.Config()
    config.wasm_simd = True
    config.wasm_relaxed_simd = True
    config.wasm_bulk_memory = True
    config.wasm_threads = True
    config.shared_memory = True
    config.memory_may_move = False  # views into the memory stay valid when it grows
    return config


@functools.cache
def relaxed_dot_is_right() -> bool:
    """True if the relaxed dot product gives the known answers here."""
    engine = wasmtime.Engine(make_config())
    store = wasmtime.Store(engine)
    try:
        module = wasmtime.Module(engine, wasmtime.wat2wasm(_WAT))
    except wasmtime.WasmtimeError:
        return False
    exports = wasmtime.Instance(store, module, []).exports(store)
    memory, dot = exports["memory"], exports["dot"]
    random = np.random.default_rng(0)
    for round_ in range(16):
        activations = random.integers(-128, 128, 16).astype(np.int8)
        codes = random.integers(0, 16, 16).astype(np.uint8)
        if round_ < 2:  # the extremes
            activations[:] = -128 if round_ else 127
            codes[:] = 15
        start = random.integers(-(2**20), 2**20, 4).astype(np.int32)
        memory.write(store, activations.tobytes() + codes.tobytes() + start.tobytes(), 0)
        dot(store, 0, 16, 32)
        products = activations.astype(np.int32) * codes.astype(np.int32)
        expected = start + products.reshape(4, 4).sum(axis=1, dtype=np.int32)
        if memory.read(store, 32, 48) != expected.astype("<i4").tobytes():
            return False
    return True
