"""How long a step takes on a profile: the sum over its kernel calls, each by what it has to do.

A call multiplies or waits for its weights, whichever takes longer, reads keys and values, makes floats of its sums, or
moves what it has. Rates are the profile's. The constants below are ratios between parts of kernels and have nothing of
a device or a model in them (docs/decisions/0042-predictions-from-kernel-calls.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from edgec.ir.compressed import GROUP
from edgec.ir.model import ModelIR
from edgec.ir.plan import Plan
from edgec.ir.work import KernelWork, Outline
from edgec.profiles import Profile, query

REACHED = 0.75  # of the limits of memory and 4-bit codes, which profiles state
SCALING = 0.45  # what the scales of groups of 32 cost, as a part of their products
HALVES = 2  # products of 16 bits in the time of one of floats: half as many instructions
LANES = 4  # products of floats in the time of one that stands alone
# Operations on floats that take as long as ...
START = 2000  # ... going from one kernel to the next
RESULT = 24  # ... making a float of a sum of products: its scale, its bias, and where it goes
FUNCTION = 28  # ... an exponential, or a function made of one


@dataclass(frozen=True)
class Rates:
    """Of some threads together: bytes, and operations (a multiply-add is two), per second."""

    memory: float
    narrow: float  # codes of 4 bits, in groups of 32
    wide: float  # codes of 7 bits, in groups of 32
    floats: float
    moved: float  # bytes of activations
    call: float  # seconds that a call of the module costs


def rates_of(profile: Profile, threads: int) -> Rates:
    def value(key: str) -> float:
        return float(query(profile, key).value)

    narrow = value("cpu.int8_relaxed" if query(profile, "features.relaxed_simd").value else "cpu.int8_simd128")
    return Rates(
        memory=REACHED * min(value("cpu.bandwidth"), threads * value("cpu.thread_bandwidth")),
        narrow=REACHED * threads * narrow,
        wide=threads * value("cpu.int8_wide"),
        floats=threads * value("cpu.float32"),
        moved=threads * value("cpu.moved"),
        call=value("cpu.call"),
    )


def kernel_seconds(work: KernelWork, rates: Rates) -> float:
    """Of one call."""
    products = operations(work) / _rate(work, rates)
    floats = START + RESULT * work.results + FUNCTION * work.functions
    reading = work.weights / rates.memory
    return max(products, reading) + work.cache / rates.memory + work.moved / rates.moved + floats / rates.floats


def operations(work: KernelWork) -> float:
    """Two for each product, of codes as many as take as long in groups of 32."""
    if work.arithmetic != "codes":
        return 2.0 * work.products
    return 2.0 * work.products * (1 + SCALING * GROUP / work.group_size) / (1 + SCALING)


def _rate(work: KernelWork, rates: Rates) -> float:
    if work.arithmetic == "codes":
        return {4: rates.narrow, 8: rates.wide / 2}.get(work.bits, rates.wide)  # 8-bit codes are two products
    return {"int16": HALVES * rates.floats, "scalar": rates.floats / LANES}.get(work.arithmetic or "", rates.floats)


def step_seconds(works: Iterable[KernelWork], rates: Rates) -> float:
    """Of the kernels of one call of an entry point, and of the call."""
    return rates.call + sum(kernel_seconds(work, rates) for work in works)


def with_limits(rates: Rates, steps: Mapping[str, Sequence[KernelWork]], prompt: float, answer: float) -> Rates:
    """`rates` with the `memory` and `narrow` of a machine on which a chunk of a prompt and a token of an answer take
    these seconds. The inverse of `step_seconds`, for a decoder whose weights decide both."""
    free = replace(rates, memory=math.inf, narrow=math.inf, wide=math.inf)
    read = sum(work.weights + work.cache for work in steps["decode"])
    memory = read / (answer - step_seconds(steps["decode"], free))
    chunk = [*steps["prefill"], *steps["head"]]
    narrow = [work for work in chunk if work.arithmetic == "codes" and work.bits == 4]
    others = [work for work in chunk if work not in narrow]
    left = prompt - rates.call - step_seconds(others, replace(rates, memory=memory)) - step_seconds(narrow, free)
    return replace(rates, memory=memory, narrow=sum(map(operations, narrow)) / (left + rates.call))


def foreseen_steps(model: ModelIR, plan: Plan) -> Mapping[str, Mapping[str, int]]:
    """The entry points whose time is predicted, with their parameters: a chunk of a prompt and a token of an answer
    at half of the context, or all parts of a graph with every dimension at its bound."""
    if model.decoder is None:
        return dict.fromkeys(model.graph_parts(), plan.dims)
    row = {"row": plan.prefill_chunk - 1}
    prompt = {"n": plan.prefill_chunk, "position": 0}
    return {"prefill": prompt, "head": row, "decode": {"position": plan.context_length // 2}}


def foresee(plan: Plan, outline: Outline, profile: Profile) -> Plan:
    """The plan with the memory of `outline` and the speed of its steps, those of `foreseen_steps`."""
    rates = rates_of(profile, plan.max_threads)
    seconds = {name: step_seconds(works, rates) for name, works in outline.steps.items()}
    memory = outline.memory
    prediction = replace(
        plan.prediction,
        weight_bytes=memory.weights.bytes,
        workspace_bytes=memory.workspace.bytes,
        peak_bytes=memory.maximum_bytes,
    )
    if plan.kv is None:
        prediction = replace(prediction, run_seconds=_rounded(sum(seconds.values())))
    else:
        prediction = replace(
            prediction,
            prefill_tokens_per_second=_rounded(plan.prefill_chunk / (seconds["prefill"] + seconds["head"])),
            decode_tokens_per_second=_rounded(1 / seconds["decode"]),
        )
    return replace(plan, prediction=prediction)


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


__all__ = [
    "REACHED",
    "RESULT",
    "START",
    "Rates",
    "foresee",
    "foreseen_steps",
    "kernel_seconds",
    "operations",
    "rates_of",
    "step_seconds",
    "with_limits",
]
