"""Quantities with units, as profiles write them: `"1400 MiB"`, `"12 GB/s"`, `"50 GOP/s"`."""

from __future__ import annotations

_FACTORS = {
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "MB/s": 10**6,
    "GB/s": 10**9,
    "GOP/s": 10**9,
    "TOP/s": 10**12,
}


def parse_quantity(text: str) -> float:
    """The number in bytes, bytes per second or operations per second. `text` follows the schema."""
    number, unit = text.split(" ")
    return float(number) * _FACTORS[unit]


__all__ = ["parse_quantity"]
