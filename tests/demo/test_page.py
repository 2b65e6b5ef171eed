"""The demo page in real browsers; the checks themselves are in `checks_*.mjs`, the same for each browser."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.demo.fake_bundles import write_bundles

HERE = Path(__file__).resolve().parent
CHECKS = [
    name
    for file in ("checks_page.mjs", "checks_tools.mjs")
    for name in re.findall(r"^export async function (\w+)", (HERE / file).read_text(encoding="utf-8"), re.MULTILINE)
]
SERVE = [sys.executable, "-c", "from edgec.cli import main; main()", "serve"]


@functools.cache
def outcome(browser: str) -> dict[str, dict[str, Any]]:
    """Name of each check -> what came of it, all of them in one run of the browser."""
    node = shutil.which("node")
    assert node, "Node is not installed"
    with tempfile.TemporaryDirectory() as folder:
        bundles = {path.stem: str(path) for path in write_bundles(Path(folder))}
        picture = Path(folder) / "red.png"
        Image.new("RGB", (32, 24), (220, 10, 10)).save(picture)
        settings = json.dumps({"serve": SERVE, "bundles": bundles, "picture": str(picture)})
        command = [node, str(HERE / "drive.mjs"), browser]
        finished = subprocess.run(command, input=settings, capture_output=True, text=True, timeout=900)
    results = [json.loads(line) for line in finished.stdout.splitlines()]
    assert results, finished.stderr
    return {result["check"]: result for result in results}


@pytest.mark.browser
@pytest.mark.parametrize("browser", ["chromium", "firefox"])
@pytest.mark.parametrize("check", CHECKS)
def test_in_browser(browser: str, check: str) -> None:
    result = outcome(browser)[check]
    assert "error" not in result, f"{result['error']}\n{result['noise']}\n{result['shown']}"


def test_all_checks_were_found() -> None:
    assert len(CHECKS) >= 19
