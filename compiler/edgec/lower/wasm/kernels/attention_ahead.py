"""Reading the KV cache before it is needed, for a single row."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.ir.plan import BLOCK_TOKENS
from edgec.lower.wasm.kernels.builder import Buffer, Expr, Registers, bind, load, store, window
from edgec.lower.wasm.kernels.kv_cache import CacheBuffers

_LINE_BYTES = 64  # of most caches
# `(part, parts, steps)` -> what is read meanwhile, step by step: `Ahead.some`.
Reading = Callable[[Expr, int, int], Callable[[int], None]]


class Ahead:
    """Reads a line of memory here and there before it is needed.

    When a single token attends, the cache comes from memory, and a load that waits holds up what stands behind it. So
    the values of a head are read while its keys are multiplied, and the keys of the next one while its values are:
    some lines from each of four places, which the processor recognizes as streams. Only the first keys of a thread are
    read by themselves. WebAssembly has no prefetch; what is read must be used, so `finish` writes it where scores were.
    """

    def __init__(self, cache: CacheBuffers, first_block: Expr, blocks: Expr, wanted: Expr) -> None:
        self._cache, self._wanted = cache, wanted
        self._first, self._blocks = first_block, blocks
        self._read = Registers(1, "int32x4")
        self._read.fill(1, 0)
        self._lines = cache.layout.head_dim * BLOCK_TOKENS * cache.layout.element // _LINE_BYTES
        self._line = _LINE_BYTES // cache.layout.element

    def _touch(self, line: Buffer, number: int) -> None:
        found = load(line, number * self._line, 16 // self._cache.layout.element)
        self._read[0] = self._read[0] + T.reinterpret("int32x4", found)

    def whole(self, codes: Buffer, head: Expr, wanted: Expr) -> None:
        """All of a head at once."""
        with T.If(tirx.all(self._wanted, wanted)), T.Then(), T.serial(0, self._blocks) as b:
            block = window(codes, self._cache.block(self._first + b, head).codes)
            for line in range(self._lines):
                self._touch(block, line)

    def some(self, codes: Buffer, head: Expr, block: Expr, part: Expr, parts: int, steps: int) -> Callable[[int], None]:
        """What is read in `part` of `parts` while a block is multiplied, in `steps` steps."""
        lines = self._lines // parts
        streams = next(count for count in (4, 2, 1) if lines % count == 0)
        each = lines // streams
        apart = bind(tirx.truncdiv(self._blocks + (streams - 1), streams))
        inside = bind((tirx.truncmod(block, streams) * parts + part) * (each * self._line))
        places = []
        for stream in range(streams):
            number = tirx.min(stream * apart + tirx.truncdiv(block, streams), self._blocks - 1)
            start = self._cache.block(bind(self._first + tirx.Select(self._wanted, number, 0)), head).codes
            places += [(window(codes, start + inside), line) for line in range(each)]

        def step(number: int) -> None:
            for place in places[number * lines // steps : (number + 1) * lines // steps]:
                self._touch(*place)

        return step

    def finish(self, scratch: Buffer, place: Expr) -> None:
        with T.If(self._wanted), T.Then():
            store(scratch, place, T.reinterpret("float32x4", self._read[0]))
