"""The instruction-set variants of a module, as TVM targets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import tvm

_FEATURES = ("+simd128", "+bulk-memory", "+sign-ext", "+nontrapping-fptoint", "+mutable-globals")


@dataclass(frozen=True)
class Isa:
    """What kernels may use. `name` is the first part of a variant's name.

    `halfword_sums`: add products as int16 and widen once per group, for processors on which a dot
    product with int32 sums takes several instructions.
    """

    name: str
    relaxed_dot: bool
    halfword_sums: bool = False

    @property
    def activation_dtype(self) -> str:
        """Element type of quantized activations in memory: plain SIMD wants them widened."""
        return "int8" if self.relaxed_dot else "int16"

    @property
    def activation_order(self) -> tuple[int, int, int, int]:
        """In which four neighbours lie in memory, its own inverse. Plain SIMD multiplies even and odd ones by turns."""
        return (0, 1, 2, 3) if self.relaxed_dot else (0, 2, 1, 3)


SIMD128 = Isa("simd128", relaxed_dot=False)
RELAXED = Isa("relaxed", relaxed_dot=True)
RELAXED16 = Isa("relaxed16", relaxed_dot=True, halfword_sums=True)
ISAS = {isa.name: isa for isa in (SIMD128, RELAXED, RELAXED16)}


@dataclass(frozen=True)
class Variant:
    """One linked module: an ISA, with or without shared memory."""

    isa: Isa
    threads: bool

    @property
    def name(self) -> str:
        return f"{self.isa.name}-threads" if self.threads else self.isa.name

    @classmethod
    def parse(cls, name: str) -> Variant:
        isa, _, threads = name.partition("-")
        return cls(ISAS[isa], threads == "threads")


# LLVM unrolls short loops whole and then orders their loads first. WebAssembly has no end of registers, the machine
# has 16: what does not fit goes through the stack. The kernels unroll where it pays. (-unroll-threshold itself has no
# effect from here, LLVM heeds it on a command line only.)
#
# To TVM each variable that points somewhere is a type of its own, and to LLVM different types do not overlap: it would
# not see that a window reads what another one wrote. Parameters are told apart without types, they are `noalias`.
_LLVM_OPTIONS = [
    "-unroll-threshold-aggressive:uint=120",
    "-unroll-threshold-default:uint=120",
    "-enable-tbaa:bool=0",
]


@cache
def wasm_target(isa: Isa) -> tvm.target.Target:
    """TVM's LLVM target for `isa`. Kernels hold no atomics, so threads need no feature here."""
    features = [*_FEATURES, "+relaxed-simd"] if isa.relaxed_dot else list(_FEATURES)
    return tvm.target.Target(
        {
            "kind": "llvm",
            "mtriple": "wasm32-unknown-unknown",
            "mattr": features,
            "vector-width": 128,
            "cl-opt": _LLVM_OPTIONS,
        }
    )
