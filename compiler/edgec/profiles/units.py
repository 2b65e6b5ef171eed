"""Quantities with units, as profiles write them: `"1400 MiB"`, `"12 GB/s"`, `"50 GOP/s"`, `"20 us"`."""

from __future__ import annotations

import re

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
    "us": 1e-6,
}


def parse_quantity(text: str) -> float:
    """The number in bytes, bytes per second, operations per second or seconds. `text` follows the schema."""
    number, unit = text.split(" ")
    return float(number) * _FACTORS[unit]


def parse_size(text: str) -> int:
    """Bytes of `60MB`, `1.5 GB`, `80000000`, `4 GiB`. Raises `ValueError` for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(|k|M|G|Ki|Mi|Gi)B?", text.strip())
    if match is None:
        raise ValueError(f"`{text}` is not a size")
    return int(float(match[1]) * _FACTORS[f"{match[2]}B"])


def size_text(size: float) -> str:
    """Bytes in the largest unit of which there is one: `81.3 MB`, `4.2 kB`. `parse_size` reads it."""
    for unit in ("GB", "MB", "kB"):
        if abs(size) >= _FACTORS[unit]:
            return f"{size / _FACTORS[unit]:.1f} {unit}"
    return f"{size:.0f} B"


__all__ = ["parse_quantity", "parse_size", "size_text"]
