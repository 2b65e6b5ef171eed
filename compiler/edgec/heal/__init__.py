"""Healing slimmed and rounded models with torch, the extra `edgec[heal]`. Only the pipeline imports this package."""

from __future__ import annotations

import importlib.util

from edgec.errors import MissingDependencyError


def check_installed() -> None:
    """Raises `MissingDependencyError` before any work is done."""
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError(
            "healing needs torch, which is not installed", hint="install it with `pip install 'edgec[heal]'`"
        )


__all__ = ["check_installed"]
