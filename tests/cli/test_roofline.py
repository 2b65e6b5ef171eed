"""`edgec bench --roofline`, from compiling to the picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Edgec
from tests.cli.test_commands import graph_file
from tests.report.test_report import Page

WORK = ("--prompt-tokens", "70", "--max-tokens", "4", "--repeat", "1")
ENGINES = [
    "wasmtime",
    pytest.param("node", marks=pytest.mark.node),
    pytest.param("chromium", marks=pytest.mark.browser),
    pytest.param("firefox", marks=pytest.mark.browser),
]


def results(edgec: Edgec, *arguments: str | Path) -> list[dict[str, Any]]:
    printed = edgec("bench", *arguments, "--roofline", "--json")
    assert printed.code == 0, printed.stderr
    found: list[dict[str, Any]] = json.loads(printed.stdout)["results"]
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_times_the_same_kernels(edgec: Edgec, tiny_marked_bundle: Path, engine: str) -> None:
    (result,) = results(edgec, tiny_marked_bundle, "--engine", engine, "--variant", "simd128", *WORK)
    assert (result["engine"], result["variant"]) == (engine, "simd128")
    assert {"memory", "weights", "cache", "float32", "simd128"} <= set(result["limits"])
    prefill, decode = result["phases"]
    assert (prefill["name"], prefill["tokens"], decode["name"], decode["tokens"]) == ("prefill", 70, "decode", 3)
    for phase in (prefill, decode):
        assert 0 < phase["kernel_seconds"] <= 1.05 * phase["seconds"]  # browsers round times
        assert sum(kernel["seconds"] for kernel in phase["kernels"]) == pytest.approx(phase["kernel_seconds"])
    linears = [kernel for kernel in decode["kernels"] if kernel["kernel"].startswith("linear")]
    assert {kernel["shape"] for kernel in linears} == {"128x64", "64x64", "192x64", "64x96", "288x64"}
    assert sum(kernel["operations"] for kernel in linears) == 3 * 2 * (2 * (128 + 64 + 3 * 96) * 64 + 288 * 64)


def test_a_table_and_a_picture(edgec: Edgec, tiny_marked_bundle: Path, working_folder: Path) -> None:
    shown = edgec("bench", tiny_marked_bundle, "--roofline", "--html", "kernels.html", *WORK)
    assert shown.code == 0, shown.stderr
    for part in ("prefill", "decode", "linear", "of limit", "GB/s from memory", "kernels.html"):
        assert part in shown.stdout
    page = Page()
    page.feed((working_folder / "kernels.html").read_text(encoding="utf-8"))
    assert page.open == page.fetched == [] and "wasmtime" in page.text
    refused = edgec("bench", tiny_marked_bundle, "--roofline", "--html", "nowhere/kernels.html", *WORK)
    assert refused.code == 10 and "nowhere" in refused.stderr


def test_a_graph(edgec: Edgec, working_folder: Path) -> None:
    options = ("-p", "node-server", "--max-dim", "rows=5", "--precision", "float32", "--profile-kernels")
    compiled = edgec("compile", graph_file(working_folder), *options)
    assert compiled.code == 0 and "bench --roofline product.edgec" in compiled.stdout
    (result,) = results(edgec, "product.edgec", "--repeat", "2")
    (phase,) = result["phases"]
    assert (phase["name"], phase["steps"], phase["tokens"]) == ("run", 1, 0)
    assert sum(kernel["operations"] for kernel in phase["kernels"]) == 2 * 5 * 8 * 8
    assert "ms," in edgec("bench", "product.edgec", "--roofline").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--html", "x.html"), "--roofline"),
        (("--roofline", "--threads", "2"), "one thread"),
        (("--roofline", "--variant", "simd1024"), "no variant"),
        (("--roofline",), "cannot be timed"),
    ],
)
def test_what_is_refused(edgec: Edgec, tiny_bundle: Path, arguments: tuple[str, ...], message: str) -> None:
    refused = edgec("bench", tiny_bundle, *arguments)
    assert refused.code == 2 and message in refused.stderr


@pytest.mark.node
def test_a_bundle_without_marks_in_node(edgec: Edgec, tiny_bundle: Path) -> None:
    refused = edgec("bench", tiny_bundle, "--roofline", "--engine", "node")
    assert refused.code != 0 and "--profile-kernels" in refused.stderr and "Traceback" not in refused.stderr


def test_a_bundle_with_marks_elsewhere(edgec: Edgec, tiny_marked_bundle: Path) -> None:
    refused = edgec("run", tiny_marked_bundle, "hello")
    assert refused.code != 0 and "--profile-kernels" in refused.stderr
