"""The public names of the package. Adding one is a decision, removing one breaks users."""

from __future__ import annotations

import subprocess
import sys

import pytest

import edgec


def test_public_names() -> None:
    assert sorted(edgec.__all__) == ["CompileOptions", "EdgecError", "Model", "__version__", "compile", "load"]
    assert all(getattr(edgec, name) is not None for name in edgec.__all__)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="has no attribute `compille`"):
        edgec.compille  # noqa: B018


def test_importing_edgec_is_cheap() -> None:
    code = "import sys, edgec; print('numpy' in sys.modules, 'tvm' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
