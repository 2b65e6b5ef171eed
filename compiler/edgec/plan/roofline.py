"""How fast a decoder can be on a profile: the slower of arithmetic and memory, and what is around its matrices.

The first are bounds that good kernels come close to: `REACHED` is the share that ours do where they
were measured (cold weights at 23-26 of 33 GB/s, GEMM at 103-107 GOP/s with everything around it).
The costs of the rest were fitted to decoders of 0.3 M to 1.2 G weights on one thread
(docs/decisions/0021).
"""

from __future__ import annotations

from dataclasses import dataclass

from edgec.ir.compressed import GROUP
from edgec.profiles import Profile, query

REACHED = 0.75
VALUE_OPERATIONS = 330.0  # 8-bit operations that take as long as making one value
LAYER_OPERATIONS = 4e5  # as starting the kernels of a layer
CALL_OPERATIONS = 2e6  # as calling the module
_SCALING = 0.32  # what the scales of groups of 32 cost, as a part of their dot products
_FLOAT_PENALTY = 8  # float32 multiply-adds against 8-bit dot products


@dataclass(frozen=True)
class Work:
    """One pass over the weights that a token needs."""

    bytes: int  # of weights
    operations: float  # in 8-bit operations; a multiply-add is two


def matrix_work(resident_bytes: int, elements: int, bits: int, group_size: int = GROUP) -> Work:
    """The matrix-vector product with one matrix, in which `group_size` columns share a scale."""
    factor: float = {8: 2, 32: _FLOAT_PENALTY}.get(bits, 1)  # 8-bit codes are two dots
    if bits < 8:
        factor *= (1 + _SCALING * GROUP / group_size) / (1 + _SCALING)
    return Work(resident_bytes, 2.0 * elements * factor)


def total(works: list[Work]) -> Work:
    return Work(sum(work.bytes for work in works), sum(work.operations for work in works))


@dataclass(frozen=True)
class Rest:
    """What a token costs beside its products with matrices, as 8-bit operations that take as long."""

    each: float  # norms, quantization, rotations, activation functions
    call: float  # starting kernels, and the call itself, of a step of a single token


def rest(layers: int, values: int) -> Rest:
    """`values` float32 values are made in a layer for each token."""
    each = VALUE_OPERATIONS * layers * values
    return Rest(each, CALL_OPERATIONS + LAYER_OPERATIONS * layers)


def decode_tokens_per_second(profile: Profile, work: Work, other: Rest, kv_bytes: int, threads: int) -> float:
    """Each token reads all weights and `kv_bytes` of cache once."""
    matrices = seconds(profile, work.bytes + kv_bytes, work.operations, threads)
    return REACHED / (matrices + seconds(profile, 0, other.each + other.call, threads))


def prefill_tokens_per_second(
    profile: Profile, work: Work, other: Rest, attention_operations: float, chunk: int, threads: int
) -> float:
    """A chunk of `chunk` tokens reads the weights once and multiplies them `chunk` times."""
    operations = chunk * (work.operations + other.each + attention_operations) + other.call
    return REACHED * chunk / seconds(profile, work.bytes, operations, threads)


def limits(work: Work, other: Rest, attention: float, chunk: int, prefill: float, decode: float) -> tuple[float, float]:
    """(bytes, operations) per second of a machine on which the two steps take these seconds per token.

    The inverse of the functions above, for a model whose weights decide both.
    """
    rate = (work.operations + other.each + attention + other.call / chunk) / prefill / REACHED
    reading = decode - (other.each + other.call) / rate / REACHED
    return work.bytes / reading / REACHED, rate


def seconds(profile: Profile, read: float, operations: float, threads: int) -> float:
    """The slower of memory and arithmetic, at their limits."""
    key = "cpu.int8_relaxed" if query(profile, "features.relaxed_simd").value else "cpu.int8_simd128"
    bandwidth = min(
        float(query(profile, "cpu.bandwidth").value), threads * float(query(profile, "cpu.thread_bandwidth").value)
    )
    return max(read / bandwidth, operations / (threads * float(query(profile, key).value)))


__all__ = [
    "Rest",
    "Work",
    "decode_tokens_per_second",
    "limits",
    "matrix_work",
    "prefill_tokens_per_second",
    "rest",
    "seconds",
    "total",
]
