"""Measured kernel times beside what the machine can do: the roofline model, one bound for each thing that may run out.

S. Williams, A. Waterman, D. Patterson: Roofline, an insightful visual performance model for multicore
architectures, CACM 52(4), 2009. A call cannot be faster than its weights and keys and values come from memory, its
activations from cache, and its products from the multipliers; the slowest of these is its bound.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from edgec.errors import BundleError, RunError
from edgec.ir.work import evaluate

PHASES = {
    "prefill": "prefill",
    "head": "prefill",
    "decode": "decode",
    "run": "run",
}  # entry point -> what it belongs to
START = -1  # the mark at the start of an entry point


class Step(Protocol):
    """One call of an entry point, as `edgec.run.timing` and `runtime_wasm/tools/profile.mjs` record it."""

    @property
    def entry(self) -> str: ...
    @property
    def parameters(self) -> Sequence[int]: ...
    @property
    def seconds(self) -> float: ...
    @property
    def marks(self) -> Sequence[int]: ...
    @property
    def times(self) -> Sequence[float]: ...


@dataclass
class Kernel:
    """All calls of one kernel on one shape. Amounts and seconds are sums."""

    kernel: str
    shape: str
    unit: str | None
    calls: int = 0
    seconds: float = 0.0
    operations: int = 0  # a multiply-add is two
    weight_bytes: int = 0
    kv_bytes: int = 0
    activation_bytes: int = 0
    bound_seconds: float = 0.0  # what the machine would need at its limits
    bound_by: dict[str, float] = field(
        default_factory=dict
    )  # "memory", "cache", "arithmetic" -> seconds, were it alone

    @property
    def bytes(self) -> int:
        return self.weight_bytes + self.kv_bytes + self.activation_bytes

    @property
    def bytes_per_second(self) -> float:
        return self.bytes / self.seconds if self.seconds else 0.0

    @property
    def operations_per_second(self) -> float:
        return self.operations / self.seconds if self.seconds else 0.0

    @property
    def limit(self) -> str:
        """What runs out first."""
        return max(self.bound_by, key=lambda name: self.bound_by[name])

    @property
    def share_of_limit(self) -> float:
        """1 is as fast as the machine can; 0 where nothing is known to bound it."""
        return self.bound_seconds / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "bytes_per_second": self.bytes_per_second,
            "operations_per_second": self.operations_per_second,
            "limit": self.limit,
            "share_of_limit": self.share_of_limit,
        }


@dataclass(frozen=True)
class Phase:
    """`tokens` is 0 for graphs; `seconds` is the time of all steps as seen from outside."""

    name: str
    steps: int
    tokens: int
    seconds: float
    kernels: tuple[Kernel, ...]  # slowest first

    @property
    def kernel_seconds(self) -> float:
        return sum(kernel.seconds for kernel in self.kernels)

    @property
    def bound_seconds(self) -> float:
        return sum(kernel.bound_seconds for kernel in self.kernels)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "steps": self.steps,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "kernel_seconds": self.kernel_seconds,
            "bound_seconds": self.bound_seconds,
            "kernels": [kernel.to_json() for kernel in self.kernels],
        }


Phases = tuple[Phase, ...]


@dataclass(frozen=True)
class Roofline:
    """What one engine did with one bundle. `limits`: bytes or operations per second of one core."""

    engine: str
    version: str
    variant: str
    limits: Mapping[str, float]
    phases: Phases

    def to_json(self) -> dict[str, Any]:
        return {
            "engine": self.engine,
            "version": self.version,
            "variant": self.variant,
            "limits": dict(self.limits),
            "phases": [phase.to_json() for phase in self.phases],
        }


def analyse(description: Mapping[str, Any], runs: Sequence[Sequence[Step]], limits: Mapping[str, float]) -> Phases:
    """Add the times of all calls up per kernel and shape.

    A call's time is the lower median of those that it had in `runs` of the same work. The first run does not count if
    there are more: engines optimize while it runs.
    `description` is a module's section `edgec.kernels`. Raises `RunError` when a step reports other calls than
    that has, `BundleError` when it is damaged.
    """
    phases: dict[str, list[_Typical]] = {}
    for same in zip(*(runs[1:] or runs), strict=True):
        phases.setdefault(PHASES[same[0].entry], []).append(_typical(same))
    try:
        return tuple(_phase(name, description["entries"], steps, limits) for name, steps in phases.items())
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise BundleError(
            "the bundle's description of its kernels is damaged", hint="compile the model again"
        ) from error


@dataclass(frozen=True)
class _Typical:
    """A step of several runs: seconds between its marks, and of all that lies outside."""

    entry: str
    parameters: Sequence[int]
    marks: Sequence[int]
    between: Sequence[float]
    outside: float


def _typical(same: Sequence[Step]) -> _Typical:
    first = same[0]
    if any((step.entry, step.parameters, step.marks) != (first.entry, first.parameters, first.marks) for step in same):
        raise RunError("two runs of the same work did not take the same steps", hint="report this as a bug of edgec")
    between = [[b - a for a, b in itertools.pairwise(step.times)] for step in same]
    outside = [step.seconds - sum(times) for step, times in zip(same, between, strict=True)]
    typical = [statistics.median_low(times) for times in zip(*between, strict=True)]
    return _Typical(first.entry, first.parameters, first.marks, typical, max(statistics.median_low(outside), 0.0))


def _phase(name: str, entries: Mapping[str, Any], steps: Sequence[_Typical], limits: Mapping[str, float]) -> Phase:
    kernels: dict[tuple[str, str], Kernel] = {}
    tokens = 0
    for step in steps:
        expected = list(_calls(entries, step.entry, step.parameters))
        if [mark for mark, _ in expected] != list(step.marks):
            hint = "compile the model again"
            raise RunError(f"`{step.entry}` ran other kernels than its bundle describes", hint=hint)
        environment = dict(zip(entries[step.entry]["parameters"], step.parameters, strict=True))
        tokens += environment.get("n", 0) if step.entry == "prefill" else int(step.entry == "decode")
        for (_, amounts), seconds in zip(expected[1:], step.between, strict=True):
            if amounts is not None:
                key = amounts["kernel"], amounts["shape"]
                kernel = kernels.setdefault(key, Kernel(*key, amounts["unit"]))
                _add(kernel, amounts, seconds, limits)
    slowest_first = sorted(kernels.values(), key=lambda kernel: -kernel.seconds)
    seconds = sum(sum(step.between) + step.outside for step in steps)
    return Phase(name, len(steps), tokens, seconds, tuple(slowest_first))


def _calls(
    entries: Mapping[str, Any], name: str, parameters: Sequence[int]
) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """(mark, call with its amounts as numbers) of an entry point and of those that it enters; None at a start."""
    entry = entries[name]
    environment = dict(zip(entry["parameters"], parameters, strict=True))
    yield START, None
    for call in entry["calls"]:
        if "enter" in call:
            yield from _calls(entries, call["enter"], [evaluate(value, environment) for value in call["arguments"]])
            continue
        amounts = {name: evaluate(call[name], environment) for name in ("macs", "weights", "cache", "activations")}
        yield call["mark"], {**call, **amounts}


def _add(kernel: Kernel, call: Mapping[str, Any], seconds: float, limits: Mapping[str, float]) -> None:
    bounds = {
        "memory": (call["weights"] + call["cache"]) / limits["weights"],
        "cache": call["activations"] / limits["cache"],
        "arithmetic": 2 * call["macs"] * call["passes"] / limits[call["unit"]] if call["unit"] else 0.0,
    }
    kernel.calls += 1
    kernel.seconds += seconds
    kernel.operations += 2 * call["macs"]
    kernel.weight_bytes += call["weights"]
    kernel.kv_bytes += call["cache"]
    kernel.activation_bytes += call["activations"]
    kernel.bound_seconds += max(bounds.values())
    for name, bound in bounds.items():
        kernel.bound_by[name] = kernel.bound_by.get(name, 0.0) + bound


def machine(roofline: Roofline) -> list[str]:
    """The limits in words."""
    rates = {name: f"{rate / 1e9:,.0f}" for name, rate in roofline.limits.items()}
    codes = roofline.variant.removesuffix("-threads")
    return [
        f"one core reads {rates['memory']} GB/s from memory, {rates['weights']} over as many bytes as the weights are, "
        f"{rates['cache']} from its cache",
        f"it does {rates[codes]} GOP/s by dot products of {codes}, {rates['simd128']} of int16 (attention), "
        f"{rates['float32']} in float32; a multiply-add is two",
        "limits: memory (weights, keys and values), cache (activations), arithmetic (products)",
    ]


def summary(phase: Phase) -> str:
    """How long it took, and how long it would take at the machine's limits."""
    outside = 1 - phase.kernel_seconds / phase.seconds
    done = f"{1000 * phase.seconds:,.2f} ms"
    if phase.tokens:
        done = f"{phase.tokens} tokens in {done} ({phase.tokens / phase.seconds:,.1f}/s)"
    bound = f"at the limits {1000 * phase.bound_seconds:,.2f} ms ({phase.bound_seconds / phase.seconds:.0%})"
    return f"{done}, {bound}; {outside:.1%} of the time is not in kernels"


NUMBERS = ("calls", "time", "ms", "GB/s", "GOP/s", "of limit")


def numbers(kernel: Kernel, phase: Phase) -> list[str]:
    """The cells of `NUMBERS` in a table."""
    return [
        f"{kernel.calls:,}",
        f"{kernel.seconds / phase.kernel_seconds:.1%}",
        f"{1000 * kernel.seconds:,.2f}",
        f"{kernel.bytes_per_second / 1e9:,.1f}",
        f"{kernel.operations_per_second / 1e9:,.1f}" if kernel.operations else "-",
        f"{kernel.share_of_limit:.0%}",
    ]


__all__ = ["NUMBERS", "Kernel", "Phase", "Roofline", "Step", "analyse", "machine", "numbers", "summary"]
