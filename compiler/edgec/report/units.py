"""Numbers for people."""

from __future__ import annotations


def mebibytes(count: float) -> str:
    """`12.3 MiB`, with a smaller or larger unit where that reads better."""
    if count < 1024:
        return f"{count:.0f} B"
    if count < 1024**2:
        return f"{count / 1024:.1f} KiB"
    if count < 10 * 1024**3:
        return f"{count / 1024**2:.1f} MiB"
    return f"{count / 1024**3:.1f} GiB"


def millions(count: int) -> str:
    """`134.5 M` parameters."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)
