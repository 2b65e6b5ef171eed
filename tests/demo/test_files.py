"""The demo page's files: their types, and that none is forgotten where they are listed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edgec.bundle.json_input import Node
from edgec.bundle.task import check_task
from edgec.cli.server import MIME_TYPES
from edgec.resources import demo_directory

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "web_demo"
NOT_LOADED = {"README.md", "index.html", "sw.js"}  # index.html is kept as "./"


def files() -> set[str]:
    return {path.relative_to(DEMO).as_posix() for path in DEMO.rglob("*") if path.is_file()}


class Links(HTMLParser):
    """Everything a page loads, and its inline scripts, styles and handlers."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.inline += [f"{tag} {name}" for name in values if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in values):
            self.inline.append(tag)
        if tag in ("script", "link", "img"):
            self.loaded.append(values.get("src") or values.get("href") or "")


def test_this_is_the_page_that_is_served() -> None:
    assert demo_directory() == DEMO


def test_the_service_worker_keeps_every_file() -> None:
    worker = (DEMO / "sw.js").read_text(encoding="utf-8")
    (listed,) = re.findall(r"const PAGE = (\[.*?\]);", worker, re.DOTALL)
    kept = json.loads(re.sub(r",\s*\]", "]", listed))
    assert kept == sorted(kept, key=str)
    expected = {name for name in files() if not name.startswith("tasks/")} - NOT_LOADED | {"./", "bundles.json"}
    assert set(kept) == expected


def test_the_page_loads_its_own_files_only() -> None:
    links = Links()
    links.feed((DEMO / "index.html").read_text(encoding="utf-8"))
    assert links.inline == []
    assert set(links.loaded) - {""} <= files()
    for name in files() - {"README.md", "icon.svg"}:
        text = (DEMO / name).read_text(encoding="utf-8")
        assert not re.search(r"https?://(?!www\.w3\.org/)", text), name


def test_the_server_knows_every_type() -> None:
    assert {Path(name).suffix for name in files() if name != "README.md"} <= MIME_TYPES.keys()


def test_tasks_are_valid() -> None:
    classes = {"efficientnet-lite0.json": 1000, "yolox-nano.json": 80}
    assert {path.name for path in (DEMO / "tasks").iterdir()} == set(classes)
    for name, count in classes.items():
        task = json.loads((DEMO / "tasks" / name).read_bytes())
        check_task(Node(task, name))
        assert len(task["labels"]) == len(set(task["labels"])) == count


def test_the_page_obeys_its_policy_in_the_server_too() -> None:
    from edgec.cli.server import _POLICY

    page = (DEMO / "index.html").read_text(encoding="utf-8")
    (policy,) = re.findall(r'content="(default-src[^"]*)"', page)
    assert f"{policy}; frame-ancestors 'none'" == _POLICY


@pytest.mark.node
def test_types() -> None:
    node = shutil.which("node")
    assert node, "Node is not installed"
    compiler = ROOT / "runtime_wasm/node_modules/typescript/bin/tsc"
    command = [node, str(compiler), "-p", str(ROOT / "tests/demo")]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stdout
