"""Bundles: the directories that edgec writes and its runtimes load. See docs/bundle-format.md.

Reading and verifying need the standard library only; `write` is imported when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgec.bundle.manifest import Manifest
from edgec.bundle.reader import Bundle, read
from edgec.bundle.verify import Finding, check, verify

if TYPE_CHECKING:
    from edgec.bundle.writer import check_destination, write

__all__ = ["Bundle", "Finding", "Manifest", "check", "check_destination", "read", "verify", "write"]


def __getattr__(name: str) -> Any:
    if name in ("write", "check_destination"):
        from edgec.bundle import writer

        return getattr(writer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
