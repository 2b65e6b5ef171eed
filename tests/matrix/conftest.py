from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import write_tiny_llama

MATRIX = """
profiles = ["phone-4gb", "phone-8gb"]
bits = 4
quantizer = "gptq"
[models.one]
source = "one"
[models.two]
source = "two"
"""


@pytest.fixture
def matrix(tmp_path: Path) -> Path:
    """Two models by two profiles."""
    for seed, name in enumerate(("one", "two")):
        (tmp_path / name).mkdir()
        write_tiny_llama(tmp_path / name, seed=seed)
    file = tmp_path / "matrix.toml"
    file.write_text(MATRIX)
    return file
