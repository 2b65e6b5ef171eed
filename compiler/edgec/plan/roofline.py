"""How fast a decoder can be on a profile: the slower of arithmetic and memory, and no more than that.

Both are bounds that good kernels come close to: `REACHED` is the share that ours do where they
were measured (cold weights at 23-26 of 33 GB/s, GEMM at 103-107 GOP/s with everything around it).
"""

from __future__ import annotations

from dataclasses import dataclass

from edgec.profiles import Profile, query

REACHED = 0.75
_FLOAT_PENALTY = 8  # float32 multiply-adds against 8-bit dot products


@dataclass(frozen=True)
class Work:
    """One pass over the weights that a token needs."""

    bytes: int  # of weights
    operations: float  # in 8-bit operations; a multiply-add is two


def matrix_work(resident_bytes: int, elements: int, bits: int) -> Work:
    """The matrix-vector product with one matrix."""
    factor = {8: 2, 32: _FLOAT_PENALTY}.get(bits, 1)  # 8-bit codes are two dots
    return Work(resident_bytes, 2.0 * elements * factor)


def total(works: list[Work]) -> Work:
    return Work(sum(work.bytes for work in works), sum(work.operations for work in works))


def decode_tokens_per_second(profile: Profile, work: Work, kv_bytes: int, threads: int) -> float:
    """Each token reads all weights and `kv_bytes` of cache once."""
    return REACHED / seconds(profile, work.bytes + kv_bytes, work.operations, threads)


def prefill_tokens_per_second(
    profile: Profile, work: Work, attention_operations: float, chunk: int, threads: int
) -> float:
    """A chunk of `chunk` tokens reads the weights once and multiplies them `chunk` times."""
    operations = chunk * (work.operations + attention_operations)
    return REACHED * chunk / seconds(profile, work.bytes, operations, threads)


def seconds(profile: Profile, read: float, operations: float, threads: int) -> float:
    """The slower of memory and arithmetic, at their limits."""
    key = "cpu.int8_relaxed" if query(profile, "features.relaxed_simd").value else "cpu.int8_simd128"
    bandwidth = min(
        float(query(profile, "cpu.bandwidth").value), threads * float(query(profile, "cpu.thread_bandwidth").value)
    )
    return max(read / bandwidth, operations / (threads * float(query(profile, key).value)))


__all__ = ["Work", "decode_tokens_per_second", "matrix_work", "prefill_tokens_per_second", "seconds", "total"]
