"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Where to write what becomes `target` when the block ends; nothing is left there on failure. Raises `OSError`."""
    partial = target.with_name(f".{target.stem}.{os.getpid()}.tmp{target.suffix}")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


__all__ = ["whole_file"]
