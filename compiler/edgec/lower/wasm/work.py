"""What a kernel call has to do at least, written down where its shapes are known.

A measured time means something only beside this (docs/decisions/0009-timing-single-kernels.md). Amounts are
expressions over the parameters of the entry point, as the operands of the call are.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgec.ir.compressed import GROUP
from edgec.ir.work import Amount, Arithmetic, KernelWork, evaluate
from edgec.lower.wasm.kernels.dot import passes, sums_in_halfwords
from edgec.lower.wasm.target import Isa

_LANES = 4  # floats that a vector instruction multiplies


@dataclass(frozen=True)
class Work:
    """`macs` multiply-adds of the mathematics, padding left out, and bytes of each kind of memory.

    `arithmetic` says what multiplies: `codes` are weights of `bits` bits by 8-bit activations, `int16` the
    products of attention over an integer cache. `weights` None: all weights among the operands, once.
    `padded`, `group_size`, `results` and `functions` are for predictions, see `KernelWork`; `padded` None: `macs`.
    """

    macs: Amount = 0
    arithmetic: Arithmetic | None = None
    bits: int = 4
    weights: Amount | None = None
    cache: Amount = 0
    activations: Amount = 0
    padded: Amount | None = None
    group_size: int = GROUP
    results: Amount = 0
    functions: Amount = 0
    shape: str = ""  # for people: `576x1536`

    def at(self, known: Mapping[str, int]) -> Work:
        """The same with numbers in the place of the names in `known`."""
        weights = None if self.weights is None else _replaced(self.weights, known)
        macs, cache, activations = (_replaced(a, known) for a in (self.macs, self.cache, self.activations))
        return replace(self, macs=macs, weights=weights, cache=cache, activations=activations)

    def to_json(self, isa: Isa) -> dict[str, Any]:
        """For modules of `isa`: `unit` is the limit of `edgec/run/limits.py` that its products have there, `passes`
        how often each of them needs it."""
        codes = isa.name if sums_in_halfwords(isa, self.bits) or not isa.halfword_sums else f"{isa.name}-widened"
        units = {"codes": codes, "int16": "simd128", "float32": "float32", "scalar": "float32", None: None}
        each = {"codes": passes(isa, self.bits), "scalar": _LANES}
        return {
            "macs": self.macs,
            "unit": units[self.arithmetic],
            "passes": each.get(self.arithmetic or "", 1),
            "weights": self.weights or 0,
            "cache": self.cache,
            "activations": self.activations,
            "shape": self.shape,
        }

    def foreseen(self, kernel: str, known: Mapping[str, int]) -> KernelWork:
        """The same as numbers."""

        def number(amount: Amount) -> int:
            return evaluate(amount, known)

        macs = number(self.macs)
        return KernelWork(
            kernel,
            products=number(self.padded) if self.padded is not None else macs,
            arithmetic=self.arithmetic,
            bits=self.bits,
            group_size=self.group_size,
            weights=number(self.weights or 0),
            cache=number(self.cache),
            moved=0 if macs else number(self.activations),
            results=number(self.results),
            functions=number(self.functions),
        )


def _replaced(amount: Amount, known: Mapping[str, int]) -> Amount:
    if isinstance(amount, tuple):
        operator, left, right = amount
        return (operator, _replaced(left, known), _replaced(right, known))
    return known.get(amount, amount) if isinstance(amount, str) else amount


def times(*factors: Amount) -> Amount:
    return functools.reduce(lambda a, b: a * b if isinstance(a, int) and isinstance(b, int) else ("*", a, b), factors)


def plus(*terms: Amount) -> Amount:
    return functools.reduce(lambda a, b: a + b if isinstance(a, int) and isinstance(b, int) else ("+", a, b), terms)


def attended(rows: Amount, position: Amount, window: int | None) -> Amount:
    """Pairs of a query and a key in causal attention of `rows` queries, the first of them at `position`.

    A query sees the keys up to its own, and at most `window` of them.
    """

    def causal(rows: Amount) -> Amount:
        return plus(times(rows, position), ("//", times(rows, plus(rows, 1)), 2))

    if window is None:
        return causal(rows)
    whole: Amount = ("min", rows, ("max", ("-", window, position), 0))  # queries that see everything before them
    return plus(causal(whole), times(("-", rows, whole), window))


def reached(rows: Amount, position: Amount, window: int | None) -> Amount:
    """Keys that at least one of those queries sees."""
    keys = plus(position, rows)
    return keys if window is None else ("min", keys, plus(rows, window - 1))
