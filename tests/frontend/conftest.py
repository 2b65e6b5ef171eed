from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def tiny_llama_copy(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy that the test may change."""
    folder = tmp_path / "tiny-llama"
    shutil.copytree(tiny_llama, folder)
    return folder
