"""Which relaxed dot products does this engine compute as the kernels need them?

Relaxed SIMD leaves results open for operands that the kernels never use; inside their ranges
(signed 8-bit times 0 ... 127, no overflow) every correct engine agrees. Some released engines do not.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import wasmtime

Bytes = npt.NDArray[np.int8]
Words = npt.NDArray[np.int32]

_WAT = """(module (memory (export "memory") 1)
  (func (export "dot") (param $a i32) (param $b i32) (param $sum i32)
    (v128.store (local.get $sum) (i32x4.relaxed_dot_i8x16_i7x16_add_s
      (v128.load (local.get $a)) (v128.load (local.get $b)) (v128.load (local.get $sum)))))
  (func (export "dot16") (param $a i32) (param $b i32) (param $sum i32)
    (v128.store (local.get $sum) (i16x8.relaxed_dot_i8x16_i7x16_s
      (v128.load (local.get $a)) (v128.load (local.get $b))))))"""


@dataclass(frozen=True)
class RelaxedDots:
    """`int32` and `int16`: the dot product with such sums is there and right.

    `int32_is_slow`: the one is made of the other and more, which is x86 before VNNI.
    """

    int32: bool
    int16: bool
    int32_is_slow: bool


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
def relaxed_dots() -> RelaxedDots:
    """Run both dot products on known operands."""
    engine = wasmtime.Engine(make_config())
    store = wasmtime.Store(engine)
    try:
        module = wasmtime.Module(engine, wasmtime.wat2wasm(_WAT))
    except wasmtime.WasmtimeError:
        return RelaxedDots(False, False, False)
    exports = wasmtime.Instance(store, module, []).exports(store)
    memory: Any = exports["memory"]

    def call(name: str, activations: Bytes, codes: Bytes, start: Words) -> bytes:
        memory.write(store, activations.tobytes() + codes.tobytes() + start.tobytes(), 0)
        function: Any = exports[name]
        function(store, 0, 16, 32)
        return bytes(memory.read(store, 32, 48))

    random = np.random.default_rng(0)
    int32 = int16 = True
    for round_ in range(16):
        activations = random.integers(-128, 128, 16).astype(np.int8)
        codes = random.integers(0, 16, 16).astype(np.int8)
        if round_ < 2:  # the extremes
            activations[:] = -128 if round_ else 127
            codes[:] = 15
        start = random.integers(-(2**20), 2**20, 4).astype("<i4")
        products = activations.astype(np.int32) * codes
        sums = start + products.reshape(4, 4).sum(axis=1, dtype="<i4")
        int32 &= call("dot", activations, codes, start) == sums.tobytes()
        pairs = products.reshape(8, 2).sum(axis=1).astype("<i2")
        int16 &= call("dot16", activations, codes, start) == pairs.tobytes()
    # The standard leaves these operands to the processor; only that of x86 before VNNI saturates pairs.
    lowest = np.full(16, -128, np.int8)
    saturated = call("dot", lowest, np.full(16, -1, np.int8), np.zeros(4, "<i4"))
    return RelaxedDots(int32, int16, saturated == np.full(4, -(2**16), "<i4").tobytes())
