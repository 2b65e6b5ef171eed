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

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.demo.fake_bundles import write_bundles
from tests.run.fake_module import SAMPLE_RATE
from tests.run.tasks.waves import wav_bytes
from tests.videos import write_video

HERE = Path(__file__).resolve().parent
CHECKS = [
    name
    for file in ("checks_page.mjs", "checks_tools.mjs", "checks_media.mjs")
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
        settings = json.dumps({"serve": SERVE, "bundles": bundles, **write_media(Path(folder))})
        command = [node, str(HERE / "drive.mjs"), browser]
        finished = subprocess.run(command, input=settings, capture_output=True, text=True, timeout=900)
    results = [json.loads(line) for line in finished.stdout.splitlines()]
    assert results, finished.stderr
    return {result["check"]: result for result in results}


def write_media(folder: Path) -> dict[str, str]:
    """Pictures, a video and sounds by name."""
    files = {name: folder / name for name in ("red.png", "page.png", "red and blue.webm", "speech.wav", "silence.wav")}
    Image.new("RGB", (32, 24), (220, 10, 10)).save(files["red.png"])
    page = Image.new("RGB", (128, 96), "white")
    for box in ((20, 20, 100, 34), (20, 60, 70, 74)):
        ImageDraw.Draw(page).rectangle(box, fill="black")
    page.save(files["page.png"])
    write_video(files["red and blue.webm"], ["#dc0a0a", "#0a0adc"], seconds=2)
    loud = np.where(np.arange(2 * SAMPLE_RATE) // (SAMPLE_RATE // 2) % 2 == 0, 0.9, 0.0)[:, np.newaxis]
    files["speech.wav"].write_bytes(wav_bytes(loud, "i2", SAMPLE_RATE, extra=b"INFO"))
    # Its empty list is too much for Chromium, so that the runtime alone reads it.
    files["silence.wav"].write_bytes(wav_bytes(0 * loud, "i2", SAMPLE_RATE))
    names = ("picture", "page", "video", "speech", "silence")
    return {name: str(path) for name, path in zip(names, files.values(), strict=True)}


@pytest.mark.browser
@pytest.mark.parametrize("browser", ["chromium", "firefox"])
@pytest.mark.parametrize("check", CHECKS)
def test_in_browser(browser: str, check: str) -> None:
    result = outcome(browser)[check]
    assert "error" not in result, f"{result['error']}\n{result['noise']}\n{result['shown']}"


def test_all_checks_were_found() -> None:
    assert len(CHECKS) >= 25
