"""What attention of single rows and of rows together have in common."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.ir.plan import BLOCK_TOKENS
from edgec.lower.wasm.kernels import math
from edgec.lower.wasm.kernels.builder import (
    Buffer,
    Expr,
    Registers,
    bind,
    largest_lane,
    load,
    splat,
    store,
    sum_of_lanes,
    tree_sum,
)

MASKED = -1e30
WEIGHT_LEVELS = 32767
VECTORS = BLOCK_TOKENS // 4


@dataclass(frozen=True)
class Visible:
    """The blocks of tokens that some rows see at least a part of: `blocks` from `first_block` on."""

    first_block: Expr
    blocks: Expr
    sliding_window: int | None

    @classmethod
    def of(cls, first_row: Expr, last_row: Expr, sliding_window: int | None) -> Visible:
        """For rows at these positions and all between."""
        first = T.int32(0)
        if sliding_window:
            first = bind(tirx.truncdiv(tirx.max(first_row - (sliding_window - 1), 0), BLOCK_TOKENS))
        return cls(first, bind(tirx.truncdiv(last_row, BLOCK_TOKENS) + 1 - first), sliding_window)

    def first_of(self, last: Expr) -> Expr | None:
        """The first token that the row at position `last` sees, None: of all."""
        return bind(tirx.max(last - (self.sliding_window - 1), 0)) if self.sliding_window else None

    @staticmethod
    def shown(token: Expr, last: Expr, first: Expr | None, scores: Expr) -> Expr:
        """`scores` of four tokens from `token` on, those outside of `first` to `last` hidden."""
        tokens = T.Ramp(token, 1, 4)
        hidden = tokens > splat(last, "int32x4")
        if first is not None:
            hidden = tirx.any(hidden, tokens < splat(first, "int32x4"))
        return tirx.Select(hidden, splat(MASKED, "float32x4"), scores)


def exponentials(scratch: Buffer, scores: Expr, blocks: Expr, largest: Expr) -> Expr:
    """Scores become exp(score - largest); returns 1 / their sum."""
    peak = largest_lane(largest)
    sums = Registers(VECTORS, "float32x4")
    sums.fill(VECTORS, 0.0)
    with T.serial(0, blocks) as b:
        for j in range(VECTORS):
            at = scores + b * BLOCK_TOKENS + 4 * j
            weight = bind(math.exp_below_zero(bind(load(scratch, at) - splat(peak, "float32x4"))))
            store(scratch, at, weight)
            sums[j] = sums[j] + weight
    return bind(T.float32(1.0) / sum_of_lanes(tree_sum([sums[j] for j in range(VECTORS)])))


def weighted(weight: Expr, value: Expr) -> Expr:
    """`weight * value`, but 0 where the weight is: a hidden token's place may hold anything, an older text's NaN."""
    zero = splat(0.0, "float32x4")
    return tirx.Select(tirx.EQ(weight, zero), zero, weight * value)
