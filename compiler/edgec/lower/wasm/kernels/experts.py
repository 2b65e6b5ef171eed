"""Mixtures of experts: which experts a row takes, and the sum of what they say.

The experts' linears are `linear` and `linear_float` with `Pairs`: one output row for each pair of an input row
and a chosen expert. Blocks of weights stand in the outer loop, so that a chunk of tokens reads each chosen
expert from memory once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.kernels import math
from edgec.lower.wasm.kernels.builder import Buffer, Expr, Floats, KernelBuilder, PrimFunc, Registers, bind, load, store
from edgec.lower.wasm.kernels.epilogue import Finish

_TAKEN = -3.0e38


@dataclass(frozen=True)
class Pairs:
    """`blocks` of 8 weight rows belong to one expert, `shared` pairs in a row to one input row."""

    blocks: int
    shared: int


def for_each_pair(
    blocks: int,
    m: Expr,
    finish: Finish,
    dot_blocks: Callable[[Sequence[Expr], Expr, int], Sequence[Registers]],
    chosen: Buffer,
    pairs: Pairs,
) -> None:
    """As `epilogue.for_each_tile`, for `m` pairs whose experts are `chosen` (int32)."""
    gated = finish.epilogue.gated
    zero = bind(T.shift_right(m, T.int32(31)))

    def write(block: Expr, pair: Expr, sums: Registers, up: Registers | None = None) -> None:
        for half in range(2):
            finish(block, pair, half, sums[half], None if up is None else up[half])

    def for_each(count: int, start: int, together: int) -> None:
        """`count` times `together` blocks of weights from `start` on."""
        with T.parallel(0, count) as number, T.serial(0, m) as pair:
            block = bind(start + number * together)
            first = bind(chosen[pair] * pairs.blocks + block)
            row = bind(tirx.truncdiv(pair, pairs.shared))
            sums = dot_blocks([first + i for i in range(together)], row, 1)
            if gated:
                write(number, pair, *sums)
            else:
                for i, some in enumerate(sums):
                    write(block + i, pair, some)

    with math.computed_constants(zero):
        for_each(blocks if gated else blocks // 2, 0, 2)
        if not gated and blocks % 2:
            for_each(1, blocks - 1, 1)


def route(*, experts: int, per_token: int, stride: int, normalized: bool) -> PrimFunc:
    """The `per_token` largest scores of each row, the lower index first among equals.

    Parameters: scores (`stride` floats per row), chosen experts (int32 [m, per_token]), their weights (float32
    [m, per_token]), m. A weight is the expert's part in the softmax over all scores, or, when `normalized`, over
    the chosen ones.
    """
    with KernelBuilder() as k:
        scores = k.buffer("scores", "float32")
        chosen = k.buffer("chosen", "int32")
        weights = k.buffer("weights", "float32")
        m = k.scalar("m")
        with T.parallel(0, m) as row:
            left = Floats(experts)
            state = Registers(3, "float32")  # largest of what is left, of all, sum of exponentials
            place = Registers(1, "int32")
            state[1], state[2] = T.float32(_TAKEN), T.float32(0.0)
            with T.serial(0, experts) as i:
                score = bind(scores[row * stride + i])
                left[i] = score
                state[1] = tirx.max(state[1], score)
            peak = bind(state[1])

            def likelihood(score: Expr) -> Expr:
                return bind(math.exp(score - peak))

            if not normalized:
                with T.serial(0, experts) as i:
                    state[2] = state[2] + likelihood(left[i])
            with T.serial(0, per_token) as slot:
                state[0], place[0] = T.float32(_TAKEN), T.int32(0)
                with T.serial(0, experts) as i, T.If(left[i] > state[0]), T.Then():
                    state[0], place[0] = left[i], i
                weight = likelihood(state[0])
                store(chosen, row * per_token + slot, place[0], 1)
                store(weights, row * per_token + slot, weight, 1)
                left[place[0]] = T.float32(_TAKEN)
                if normalized:
                    state[2] = state[2] + weight
            whole = bind(T.float32(1.0) / state[2])
            with T.serial(0, per_token) as slot:
                at = bind(row * per_token + slot)
                store(weights, at, weights[at] * whole, 1)
    return k.func


def combine(*, per_token: int, stride: int, added: bool) -> PrimFunc:
    """Parameters: outputs of the pairs (`stride` floats each), their weights, target (`stride` floats per row), m.

    The target becomes the weighted sum, or gets it `added`.
    """
    with KernelBuilder() as k:
        outputs = k.buffer("outputs", "float32")
        weights = k.buffer("weights", "float32")
        target = k.buffer("target", "float32")
        m = k.scalar("m")
        with T.parallel(0, m) as row, T.serial(0, stride // 4) as i:
            total = Registers(1, "float32x4")
            total.fill(1, 0.0)
            with T.serial(0, per_token) as slot:
                pair = bind(row * per_token + slot)
                total[0] = total[0] + load(outputs, pair * stride + i * 4) * T.Broadcast(weights[pair], 4)
            at = row * stride + i * 4
            store(target, at, load(target, at) + total[0] if added else total[0])
    return k.func
