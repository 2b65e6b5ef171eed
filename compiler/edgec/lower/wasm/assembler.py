"""Hand-assembled wasm functions: the thread barrier and the step driver.

They are a few straight-line calls, so they are written as bytecode instead of going through LLVM.
"""

from __future__ import annotations

from dataclasses import dataclass, field

I32 = 0x7F


def unsigned_leb(value: int) -> bytes:
    out = bytearray()
    while True:
        byte, value = value & 0x7F, value >> 7
        out.append(byte | (0x80 if value else 0))
        if not value:
            return bytes(out)


def signed_leb(value: int) -> bytes:
    out = bytearray()
    while True:
        byte, value = value & 0x7F, value >> 7
        done = (value == 0 and not byte & 0x40) or (value == -1 and bool(byte & 0x40))
        out.append(byte | (0 if done else 0x80))
        if done:
            return bytes(out)


def i32_const(value: int) -> bytes:
    """Addresses of 2 GiB and above wrap to negative numbers, as wasm wants them."""
    return b"\x41" + signed_leb(value - (1 << 32) if value >= 1 << 31 else value)


def local_get(index: int) -> bytes:
    return b"\x20" + unsigned_leb(index)


def local_set(index: int) -> bytes:
    return b"\x21" + unsigned_leb(index)


def local_tee(index: int) -> bytes:
    return b"\x22" + unsigned_leb(index)


def i32_load() -> bytes:
    return b"\x28" + _memory_argument(0)


@dataclass
class AssembledFunction:
    """`code` mixes bytecode and names of functions to call."""

    name: str
    parameters: int  # all i32
    results: int = 1  # all i32
    locals: int = 0  # all i32
    code: list[bytes | str] = field(default_factory=list)

    def emit(self, *parts: bytes) -> None:
        self.code.extend(parts)

    def call(self, name: str) -> None:
        self.code.append(name)


def _memory_argument(offset: int) -> bytes:
    return b"\x02" + unsigned_leb(offset)  # 4-byte aligned


def barrier(name: str = "edgec_barrier", spins: int = 100_000) -> AssembledFunction:
    """`barrier(control, threads)`: returns when all `threads` have called it.

    Words at `control`: arrived, generation, sleepers. A thread spins a little, then sleeps. A
    sleeper counts itself before it waits and the wait re-checks the generation, so the last
    thread either sees the sleeper and wakes it or the sleeper sees the new generation.
    """
    control, threads, generation, left = 0, 1, 2, 3
    load = lambda offset: b"\xfe\x10" + _memory_argument(offset)  # noqa: E731
    store = lambda offset: b"\xfe\x17" + _memory_argument(offset)  # noqa: E731
    add = lambda offset: b"\xfe\x1e" + _memory_argument(offset)  # noqa: E731
    notify, wait32 = b"\xfe\x00" + _memory_argument(4), b"\xfe\x01" + _memory_argument(4)
    i32_add, i32_sub, i32_eq, i32_ne, drop, end = b"\x6a", b"\x6b", b"\x46", b"\x47", b"\x1a", b"\x0b"
    if_, else_, block, loop = b"\x04\x40", b"\x05", b"\x02\x40", b"\x03\x40"
    br, br_if = (lambda depth: b"\x0c" + unsigned_leb(depth)), (lambda depth: b"\x0d" + unsigned_leb(depth))
    infinite = b"\x42\x7f"  # i64.const -1
    function = AssembledFunction(name, parameters=2, locals=2)
    function.emit(
        local_get(control), load(4), local_set(generation),
        local_get(control), i32_const(1), add(0), i32_const(1), i32_add, local_get(threads), i32_eq,
        if_,
        local_get(control), i32_const(0), store(0),
        local_get(control), i32_const(1), add(4), drop,
        local_get(control), load(8), if_, local_get(control), i32_const(-1), notify, drop, end,
        else_,
        i32_const(spins), local_set(left),
        block, loop,
        local_get(control), load(4), local_get(generation), i32_ne, br_if(1),
        local_get(left), i32_const(1), i32_sub, local_set(left),
        local_get(left), br_if(0),
        local_get(control), i32_const(1), add(8), drop,
        local_get(control), local_get(generation), infinite, wait32, drop,
        local_get(control), i32_const(-1), add(8), drop,
        i32_const(1), local_set(left),
        br(0),
        end, end,
        end,
        i32_const(0),
    )  # fmt: skip
    # `br_if(0)` re-enters the loop while spins are left; after a wake-up the generation has changed.
    return function
