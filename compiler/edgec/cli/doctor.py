"""`edgec doctor`: what this machine can do, and what to install where something is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

import click

from edgec import __version__

PROBE_SECONDS = 20.0
# The smallest module whose validity says that an engine knows relaxed SIMD: (func (result v128) ... i32x4.relaxed_dot).
_NODE_PROBE = """
const known = (...body) => WebAssembly.validate(new Uint8Array([0,97,115,109,1,0,0,0,1,5,1,96,0,1,123,3,2,1,0,
  10,body.length+4,1,body.length+2,0,...body,11]));
const zero = [253,12,...Array(16).fill(0)];
console.log(JSON.stringify({simd: known(...zero),
  relaxed: known(...zero,...zero,...zero,253,147,2), threads: typeof SharedArrayBuffer === "function"}));
"""


@dataclass(frozen=True)
class Check:
    """`required` things make the exit code 1 when they are missing, others are for a part of edgec only."""

    name: str
    state: Literal["ok", "missing", "old"]
    detail: str
    hint: str | None = None
    required: bool = False


@click.command(epilog="Example:\n\n\b\n  edgec doctor --json")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(as_json: bool) -> int:
    """Check what this machine can do: Python packages, Node, browsers, WebAssembly features."""
    from edgec.cli import console

    checks = list(examine())
    healthy = all(check.state == "ok" or not check.required for check in checks)
    if as_json:
        console.print_json({"edgec": __version__, "healthy": healthy, "checks": [asdict(check) for check in checks]})
        return 0 if healthy else 1
    out = console.stdout()
    out.print(f"\n[bold]edgec {__version__}[/] on {platform.platform(terse=True)}\n")
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark = "[green]✓[/]" if check.state == "ok" else "[red]✗[/]" if check.required else "[yellow]·[/]"
        out.print(f"  {mark} {check.name.ljust(width)}  {check.detail}")
        if check.hint and check.state != "ok":
            out.print(f"    {' ' * width}  [dim]{check.hint}[/]")
    out.print()
    return 0 if healthy else 1


def examine() -> Iterator[Check]:
    """All checks, in the order in which they are shown."""
    version = platform.python_version()
    yield Check("Python", "ok" if sys.version_info >= (3, 11) else "old", version, "3.11 or newer is needed", True)
    for package, wanted in (("apache-tvm", "0.27.0.post1"), ("onnxruntime", None), ("wasmtime", None)):
        yield _package(package, wanted)
    for package, extra, purpose in (
        ("pillow", "demo", "pictures in `edgec run --image`"),
        ("huggingface-hub", "hub", "models by their hub id"),
        ("torch", "optimum", "export through Optimum"),
    ):
        yield _optional(package, extra, purpose)
    yield from _node()
    yield _runtime()
    yield _browser("Chromium", ("chromium", "chromium-browser", "google-chrome", "chrome"), "EDGEC_CHROMIUM")
    yield _browser("Firefox", ("firefox-esr", "firefox"), "EDGEC_FIREFOX")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Check("processor", "ok", f"{platform.machine()}, {cores} core{'' if cores == 1 else 's'}")


def _package(name: str, wanted: str | None) -> Check:
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "missing", "not installed", f"pip install {name}{f'=={wanted}' if wanted else ''}", True)
    if wanted is not None and found != wanted:
        return Check(name, "old", f"{found}, edgec is made for {wanted}", f"pip install {name}=={wanted}", True)
    return Check(name, "ok", found, required=True)


def _optional(name: str, extra: str, purpose: str) -> Check:
    try:
        return Check(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "missing", f"not installed, needed for {purpose}", f"pip install 'edgec[{extra}]'")


def _node() -> Iterator[Check]:
    node = shutil.which("node")
    if node is None:
        yield Check("Node", "missing", "not found", "install Node 20 or newer to run bundles in it")
        return
    version = _output([node, "--version"]).lstrip("v")
    major = int(match[1]) if (match := re.match(r"(\d+)\.", version)) else 0
    yield Check("Node", "ok" if major >= 20 else "old", version or "unknown version", "20 or newer is needed")
    features = _output([node, "-e", _NODE_PROBE])
    simd, relaxed = '"simd":true' in features, '"relaxed":true' in features
    detail = f"SIMD {_yes(simd)}, relaxed SIMD {_yes(relaxed)}"
    if not relaxed:
        detail += ", bundles then use their plain SIMD module"
    yield Check("Node's WebAssembly", "ok" if simd else "missing", detail)


def _runtime() -> Check:
    from edgec import resources

    folder = resources.runtime_directory()
    if folder.is_dir():
        return Check("JavaScript runtime", "ok", "built")
    return Check("JavaScript runtime", "missing", "not built, needed for `edgec serve`", "make runtime")


def _browser(name: str, commands: tuple[str, ...], variable: str) -> Check:
    candidates = [os.environ[variable]] if os.environ.get(variable) else list(commands)
    for candidate in candidates:
        path = shutil.which(candidate)
        if path is not None:
            return Check(name, "ok", _output([path, "--version"]) or path)
    return Check(name, "missing", "not found, needed for `edgec bench` in it", f"install it, or set {variable}")


def _output(command: list[str]) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip().splitlines()[0] if result.stdout.strip() else ""


def _yes(answer: bool) -> str:
    return "yes" if answer else "no"
