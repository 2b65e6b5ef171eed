"""What one core of this machine can do at most, through the engine that runs the kernels.

Loops in WebAssembly that do one thing only: read memory strictly forward, or multiply. Each is run often, and the
fastest time counts. The same modules are measured in browsers and Node by `runtime_wasm/tools/profile.mjs`.

A multiplying loop has 8 accumulators in registers, enough to hide the latency of its instructions. A factor of
every product is loaded anew in each turn, or an optimizer would compute the products once; that takes nothing from
the units that multiply and add.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import wasmtime

from edgec.errors import RunError
from edgec.run.probe import make_config

CACHE_BYTES = 128 << 10  # more than a first-level cache, less than a second-level one
MEMORY_BYTES = 256 << 20  # more than any cache
READ_BYTES = 64 << 20  # that a reading loop covers in one call, at least
TURNS = 200_000  # of a multiplying loop in one call
REPEATS = 50  # compilers of WebAssembly need some calls before they optimize

_ACCUMULATORS = 8
_PAGE = 65536


@dataclass(frozen=True)
class Probe:
    """`export(*arguments)` of `module` does `work` bytes or multiply-adds."""

    name: str
    module: Literal["plain", "relaxed"]
    export: str
    arguments: tuple[int, ...]
    work: float


def probes(weight_bytes: int) -> list[Probe]:
    """What to measure for a bundle that reads `weight_bytes` of weights in a step."""

    def read(name: str, size: int) -> Probe:
        size = max(size // 128 * 128, CACHE_BYTES)
        times = -(-READ_BYTES // size)
        return Probe(name, "plain", "read", (size, times), size * times)

    def multiply(name: str, module: Literal["plain", "relaxed"], products: int) -> Probe:
        return Probe(name, module, name, (TURNS,), TURNS * _ACCUMULATORS * products)

    return [
        read("memory", MEMORY_BYTES),
        read("weights", weight_bytes),
        read("cache", CACHE_BYTES),
        multiply("float32", "plain", 4),
        multiply("simd128", "plain", 8),
        multiply("relaxed", "relaxed", 16),
        multiply("relaxed16", "relaxed", 16),
        multiply("relaxed16-widened", "relaxed", 16),
    ]


def modules(weight_bytes: int) -> dict[str, bytes]:
    """The modules of `probes`; not every engine has relaxed SIMD."""
    loops = {name: _multiplying(name, product) for name, product in _PRODUCTS.items()}
    plain = [_reading(max(MEMORY_BYTES, weight_bytes)), loops["float32"], loops["simd128"]]
    relaxed = ["(memory 1)", *(text for name, text in loops.items() if name.startswith("relaxed"))]
    texts = {"plain": plain, "relaxed": relaxed}
    return {name: bytes(wasmtime.wat2wasm(f"(module {' '.join(parts)})")) for name, parts in texts.items()}


def limits(probes: Sequence[Probe], seconds: Mapping[str, float]) -> dict[str, float]:
    """Bytes, or operations (a multiply-add is two), per second."""
    rates = {probe.name: probe.work / seconds[probe.name] for probe in probes if probe.name in seconds}
    reads = {probe.name for probe in probes if probe.export == "read"}
    return {name: rate if name in reads else 2 * rate for name, rate in rates.items()}


def measure(weight_bytes: int) -> dict[str, float]:
    """`limits` of this machine in wasmtime."""
    engine = wasmtime.Engine(make_config())
    store = wasmtime.Store(engine)
    wanted = probes(weight_bytes)
    seconds: dict[str, float] = {}
    exports: dict[str, Any] = {}
    try:
        for name, content in modules(weight_bytes).items():
            exports[name] = wasmtime.Instance(store, wasmtime.Module(engine, content), []).exports(store)
        for probe in wanted:
            function = exports[probe.module][probe.export]
            for _ in range(REPEATS):
                started = time.perf_counter()
                function(store, *probe.arguments)
                taken = time.perf_counter() - started
                seconds[probe.name] = min(seconds.get(probe.name, taken), taken)
    except (wasmtime.WasmtimeError, wasmtime.Trap) as error:
        raise RunError(f"the machine's limits cannot be measured ({str(error).splitlines()[0]})") from None
    return limits(wanted, seconds)


_DOT = "i32x4.relaxed_dot_i8x16_i7x16_add_s (local.get {x}) (local.get {y}) (local.get {acc})"
_DOT16 = "i16x8.add (local.get {acc}) (i16x8.relaxed_dot_i8x16_i7x16_s (local.get {x}) (local.get {y}))"
_WIDENED = (
    "i32x4.add (local.get {acc}) (i32x4.dot_i16x8_s (v128.const i16x8 1 1 1 1 1 1 1 1) "
    "(i16x8.relaxed_dot_i8x16_i7x16_s (local.get {x}) (local.get {y})))"
)
_WIDE = "i32x4.add (local.get {acc}) (i32x4.dot_i16x8_s (local.get {x}) (local.get {y}))"
_FLOAT = "f32x4.add (local.get {acc}) (f32x4.mul (local.get {x}) (local.get {y}))"
_PRODUCTS = {
    "relaxed": _DOT,
    "relaxed16": _DOT16,
    "relaxed16-widened": _WIDENED,
    "simd128": _WIDE,
    "float32": _FLOAT,
}
_FACTORS = 1024  # bytes of zeros at the start of memory: as fast as other factors, and never denormal


def _reading(size: int) -> str:
    """`read(bytes, times)`: memory is written first, since pages that never were are all the same one."""
    loads = " ".join(
        f"(local.set $a{i} (v128.xor (local.get $a{i}) (v128.load offset={16 * i} (local.get $at))))"
        for i in range(_ACCUMULATORS)
    )
    accumulators = " ".join(f"(local $a{i} v128)" for i in range(_ACCUMULATORS))
    return f"""(memory {-(-size // _PAGE)})
    (func $fill
      (memory.fill (i32.const 0) (i32.const 1) (i32.const {-(-size // _PAGE) * _PAGE}))
      (memory.fill (i32.const 0) (i32.const 0) (i32.const {_FACTORS})))
    (start $fill)
    (func (export "read") (param $bytes i32) (param $times i32) (result i32) (local $at i32) {accumulators}
      (loop $again
        (local.set $at (i32.const 0))
        (loop $forward
          {loads}
          (local.set $at (i32.add (local.get $at) (i32.const {16 * _ACCUMULATORS})))
          (br_if $forward (i32.lt_u (local.get $at) (local.get $bytes))))
        (local.set $times (i32.sub (local.get $times) (i32.const 1)))
        (br_if $again (local.get $times)))
      (i32x4.extract_lane 0 {_combined()}))"""


def _multiplying(name: str, product: str) -> str:
    """`name(turns)`: 8 accumulators meet 8 different products of four vectors, three of which are loaded in each turn.

    No more vectors, so that no engine has to keep one of them on the stack.
    """
    pairs = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3), (2, 2)]
    steps = " ".join(
        f"(local.set $a{i} ({product.format(acc=f'$a{i}', x=f'$v{x}', y=f'$v{y}')}))" for i, (x, y) in enumerate(pairs)
    )
    accumulators = " ".join(f"(local $a{i} v128)" for i in range(_ACCUMULATORS))
    vectors = " ".join(f"(local $v{i} v128)" for i in range(4))
    loads = " ".join(f"(local.set $v{i} (v128.load offset={16 * i} (local.get $at)))" for i in range(3))
    return f"""(func (export "{name}") (param $turns i32) (result i32) (local $at i32) {accumulators} {vectors}
      (loop $again
        (local.set $at (i32.and (i32.shl (local.get $turns) (i32.const 4)) (i32.const {_FACTORS // 2 - 1})))
        {loads}
        {steps}
        (local.set $turns (i32.sub (local.get $turns) (i32.const 1)))
        (br_if $again (local.get $turns)))
      (i32x4.extract_lane 0 {_combined()}))"""


def _combined() -> str:
    text = "(local.get $a0)"
    for i in range(1, _ACCUMULATORS):
        text = f"(v128.xor {text} (local.get $a{i}))"
    return text
