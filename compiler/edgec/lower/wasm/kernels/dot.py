"""The integer dot products of both ISAs: exact, so they agree to the bit.

Weights are unsigned codes of 4 to 8 bits in bytes (8-bit ones are at most 254), one vector = 4 rows x 4 features;
activations are signed 8-bit, four of them in one element: `int32` of 4 bytes, or `int64` of 4 halfwords for plain SIMD,
which multiplies the even codes of four and the odd ones by turns. An accumulator is one `int32x4`, a lane per row.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.instructions import in_order
from edgec.lower.wasm.kernels.builder import Buffer, Expr, Registers, bind, splat, window
from edgec.lower.wasm.kernels.codes import CodeFormat
from edgec.lower.wasm.target import Isa


def activation_element(isa: Isa) -> str:
    """dtype of one buffer element, which holds 4 activations."""
    return "int32" if isa.relaxed_dot else "int64"


def sums_in_halfwords(isa: Isa, bits: int) -> bool:
    """Whether products stay halfwords for a group (see `DotAccumulators`), and are not widened one by one."""
    return isa.halfword_sums and bits == 4


def holds_large_tiles(isa: Isa, bits: int) -> bool:
    """Whether the sums of six rows (`epilogue.LARGE_TILE`) fit in registers, beside codes that need no unpacking.

    Eight sums wait for each other where a dot product takes five cycles and two begin in one; twelve do not.
    """
    return isa.relaxed_dot and not isa.halfword_sums and bits == 7


def passes(isa: Isa, bits: int) -> int:
    """Dot products for each code: relaxed ones take 7 bits, so 8-bit codes go in two halves."""
    return 2 if isa.relaxed_dot and bits == 8 else 1


def signed_dot(left: Expr, right: Expr) -> Expr:
    """`int16x8 . int16x8 -> int32x4`, adjacent pairs."""
    return T.call_llvm_pure_intrin("int32x4", "llvm.wasm.dot", left, right)


def lane(vector: Expr, index: int) -> Expr:
    """One lane of an `int32x4` or `float32x4`, repeated in all lanes."""
    return tirx.Shuffle([vector], [tirx.const(index, "int32")] * 4)


def even_odd_sum(first: Expr, second: Expr) -> Expr:
    """Pairwise sums of two vectors of 4: [f0+f1, f2+f3, s0+s1, s2+s3]."""
    even = tirx.Shuffle([first, second], [tirx.const(i, "int32") for i in (0, 2, 4, 6)])
    odd = tirx.Shuffle([first, second], [tirx.const(i, "int32") for i in (1, 3, 5, 7)])
    return even + odd


class DotAccumulators:
    """`count` accumulators of 4 weight rows each, for a group of 32 features between `clear` and `result`; for as many
    groups as there are if `several`, each of them begun with `next_group`.

    In halfwords 16 products of a 4-bit code and a signed byte meet: 16 * 15 * 128 < 2^15; of 7-bit codes only two
    fit, so those are widened at once. In words 2^16 products of an 8-bit code meet.
    """

    def __init__(self, isa: Isa, bits: int, count: int, *, several: bool = False, in_order: bool = False) -> None:
        self.isa = isa
        self._in_order = in_order
        self._bits = bits
        self._halfwords = sums_in_halfwords(isa, bits)
        self._registers = Registers(count, "int16x8" if self._halfwords else "int32x4")
        self._count = count
        self._wide = Registers(count, "int32x4") if self._halfwords and several else None

    def clear(self) -> None:
        """Zero all accumulators."""
        self._registers.fill(self._count, 0)
        if self._wide is not None:
            self._wide.fill(self._count, 0)

    def next_group(self) -> None:
        """What cannot hold another group moves on."""
        if self._wide is not None:
            for index in range(self._count):
                self._wide[index] = self.result(index)
            self._registers.fill(self._count, 0)

    @property
    def factors(self) -> int:
        """Vectors that 16 codes make."""
        return passes(self.isa, self._bits) if self.isa.relaxed_dot else 2

    def repeated(self, activations: Buffer, index: int, factor: int) -> Expr:
        """What one of the `factors` is multiplied with: some of four activations, repeated for all rows of weights."""
        if self.isa.relaxed_dot:
            return T.reinterpret("int8x16", T.Broadcast(activations[index], 4))
        return T.reinterpret("int16x8", T.Broadcast(window(activations, index, "int32")[factor], 4))

    def weights(self, form: CodeFormat, codes: Buffer) -> Callable[[int], list[tuple[Expr, ...]]]:
        """`part -> [half 0, half 1]`, each `factors` vectors for several `add`s; `codes` is a window at the step."""
        if not self.isa.relaxed_dot:
            return form.pairs(codes, 0)
        vectors = form.vectors(codes, 0)
        return lambda part: [self._seven_bits(vector) for vector in vectors(part)]

    def _seven_bits(self, weights: Expr) -> tuple[Expr, ...]:
        if self.factors == 1:
            return (T.reinterpret("int8x16", weights),)
        codes = bind(T.reinterpret("uint8x16", weights))
        half = bind(T.shift_right(codes, T.Broadcast(T.uint8(1), 16)))
        return T.reinterpret("int8x16", half), T.reinterpret("int8x16", codes - half)

    def add(self, index: int, activations: Expr, codes: Expr) -> None:
        """`activations` from `repeated`, `codes` one of `weights`."""
        registers = self._registers
        if self.isa.halfword_sums:
            intrinsic = "llvm.wasm.relaxed.dot.i8x16.i7x16.signed"
            products = T.call_llvm_pure_intrin("int16x8", intrinsic, activations, codes)
            registers[index] = self._sum(registers[index], products if self._halfwords else _widened(products))
        elif not self.isa.relaxed_dot:
            registers[index] = self._sum(registers[index], signed_dot(codes, activations))
        elif self._in_order:
            name = "i32x4.relaxed_dot_i8x16_i7x16_add_s"
            registers[index] = in_order(name, activations, codes, registers[index])
        else:
            intrinsic = "llvm.wasm.relaxed.dot.i8x16.i7x16.add.signed"
            registers[index] = T.call_llvm_pure_intrin("int32x4", intrinsic, activations, codes, registers[index])

    def _sum(self, left: Expr, right: Expr) -> Expr:
        if not self._in_order:
            return left + right
        return in_order("i16x8.add" if self._halfwords else "i32x4.add", left, right)

    def result(self, index: int) -> Expr:
        """`int32x4`, a lane per row."""
        if self._halfwords:
            sums = _widened(self._registers[index])
            return sums if self._wide is None else self._wide[index] + sums
        return self._registers[index]


def _widened(sums: Expr) -> Expr:
    """`int16x8` -> `int32x4`, adjacent pairs added."""
    return signed_dot(sums, splat(1, "int16x8"))
