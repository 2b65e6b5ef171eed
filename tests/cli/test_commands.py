"""Every command on a tiny compiled model."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgec.errors import UnsupportedError, UsageError
from tests.cli.conftest import Edgec, command, environment


@pytest.fixture
def bundle(tiny_bundle: Path) -> Path:
    return tiny_bundle


def parsed(text: str) -> dict[str, object]:
    document = json.loads(text)
    assert isinstance(document, dict)
    return document


def test_compile_prints_its_result_as_json(edgec: Edgec, tiny_llama: Path, working_folder: Path) -> None:
    planned = edgec("compile", tiny_llama, "-p", "phone-8gb", "--context", "64", "--dry-run", "--json")
    plan = parsed(planned.stdout) | {"variants": ["simd128"]}
    (working_folder / "plan.json").write_text(json.dumps(plan))
    result = edgec("compile", tiny_llama, "--plan", "plan.json", "--name", "parrot", "--json")
    assert (result.code, result.stderr) == (0, "")
    document = parsed(result.stdout)
    assert document["bundle"] == "parrot.edgec"
    assert (document["model"], document["profile"], document["context_length"]) == ("parrot", "phone-8gb", 64)
    assert [stage["stage"] for stage in document["stages"]][-1] == "bundle"  # type: ignore[attr-defined]
    assert sorted(path.name for path in working_folder.iterdir()) == ["parrot.edgec", "plan.json"]
    assert [path.name for path in (working_folder / "parrot.edgec").glob("*.wasm")] == ["module.simd128.wasm"]


def test_a_dry_run_writes_nothing_and_its_plan_can_be_used(
    edgec: Edgec, tiny_llama: Path, working_folder: Path
) -> None:
    shown = edgec("compile", tiny_llama, "-p", "phone-4gb", "--bits", "4", "--dry-run")
    assert shown.code == 0 and "download" in shown.stdout
    plan = edgec("compile", tiny_llama, "-p", "phone-4gb", "--bits", "4", "--dry-run", "--json")
    assert list(working_folder.iterdir()) == []
    (working_folder / "plan.json").write_text(plan.stdout)
    stopped = edgec("compile", tiny_llama, "--plan", "plan.json", "--stop-after", "compress")
    assert (stopped.code, stopped.stdout) == (0, "stopped after compress\n")
    other = edgec("compile", tiny_llama, "--plan", "plan.json", "-p", "phone-8gb")
    assert other.code == 2 and "phone-4gb" in other.stderr
    (working_folder / "plan.json").write_text('{"model": 5}')
    assert edgec("compile", tiny_llama, "--plan", "plan.json").code == 2


def test_quiet_means_quiet(edgec: Edgec, tiny_llama: Path) -> None:
    result = edgec("compile", tiny_llama, "-p", "phone-8gb", "--stop-after", "plan", "-q")
    assert (result.code, result.stdout, result.stderr) == (0, "", "")


def test_run_answers_and_repeats_itself(edgec: Edgec, bundle: Path) -> None:
    options = ("--max-tokens", "8", "--temperature", "0", "--threads", "1")
    first = edgec("run", bundle, "hello", *options, "--json", "--hash-logits")
    assert first.code == 0, first.stderr
    document = parsed(first.stdout)
    assert len(document["ids"]) <= 8  # type: ignore[arg-type]
    assert document["finish_reason"] in ("stop", "length")
    assert len(str(document["logits_sha256"])) == 64
    plain = edgec("run", bundle, "hello", *options, "--variant", "simd128")
    assert plain.stdout == f"{document['text']}\n"
    same = edgec("run", bundle, "hello", *options, "--json", "--hash-logits", "--variant", "simd128")
    assert parsed(same.stdout)["logits_sha256"] == document["logits_sha256"]


def test_run_without_the_template_and_with_a_seed(edgec: Edgec, bundle: Path) -> None:
    options = ("--raw", "Once", "--max-tokens", "6", "--temperature", "1", "--json", "--threads", "1")
    seeds = [parsed(edgec("run", bundle, *options, "--seed", seed).stdout)["ids"] for seed in ("1", "1", "2")]
    assert seeds[0] == seeds[1] != seeds[2]
    raw = parsed(edgec("run", bundle, *options).stdout)
    templated = parsed(edgec("run", bundle, *options[1:]).stdout)
    assert len(templated["prompt_ids"]) > len(raw["prompt_ids"]) == 4  # type: ignore[arg-type]


def test_run_reads_a_pipe(edgec: Edgec, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    piped = edgec("run", bundle, "--max-tokens", "4", "--temperature", "0", "--threads", "1")
    argument = edgec("run", bundle, "hello", "--max-tokens", "4", "--temperature", "0", "--threads", "1")
    assert piped.code == 0 and piped.stdout == argument.stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--variant", "sse2", "hello"), 2),
        (("--temperature", "-1", "hello"), 2),
        (("--raw", "x" * 5000), 11),
    ],
)
def test_run_refuses(edgec: Edgec, bundle: Path, arguments: tuple[str, ...], code: int) -> None:
    result = edgec("run", bundle, "--threads", "1", *arguments)
    assert result.code == code
    assert result.stderr.startswith("error: ") and "Traceback" not in result.stderr


def test_chat_remembers_obeys_and_leaves(edgec: Edgec, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "hello\nand now?\n/stats\n/help\n/system Be brief.\n/reset\nhello\n/quit\nnot read\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    result = edgec("chat", bundle, "--max-tokens", "3", "--temperature", "0", "--threads", "1")
    assert result.code == 0, result.stderr
    assert "tokens at" in result.stdout and "/reset starts anew" in result.stdout


def test_inspect_a_bundle(edgec: Edgec, bundle: Path, working_folder: Path) -> None:
    shown = edgec("inspect", bundle, "--tensors")
    assert shown.code == 0, shown.stderr
    assert "model.layers.1.mlp.down_proj.weight" in shown.stdout and "workspace" in shown.stdout
    document = parsed(edgec("inspect", bundle, "--json").stdout)
    assert document["profile"] == "phone-8gb"
    assert {"0", "1", "embedding"} <= {layer["name"] for layer in document["layers"]}  # type: ignore[attr-defined]
    assert edgec("inspect", bundle, "--html", "page.html").stdout == "wrote page.html\n"
    assert (working_folder / "page.html").read_bytes() == (bundle / "report.html").read_bytes()
    assert [path.name for path in working_folder.iterdir()] == ["page.html"]


def test_inspect_a_model(edgec: Edgec, tiny_llama: Path) -> None:
    shown = edgec("inspect", tiny_llama)
    assert shown.code == 0, shown.stderr
    assert "RMSNormalization" in shown.stdout and "raspberry-pi-5" in shown.stdout
    document = parsed(edgec("inspect", tiny_llama, "-p", "phone-4gb", "--json").stdout)
    assert document["compiles"] is True
    assert list(document["profiles"]) == ["phone-4gb"]  # type: ignore[call-overload]
    assert document["decoder"]["kv_heads"] == 2  # type: ignore[index]
    assert edgec("inspect", tiny_llama, "--html", "x.html").code == 2


def test_inspect_says_what_stands_against_a_model(edgec: Edgec, tiny_llama: Path, tmp_path: Path) -> None:
    model = tmp_path / "odd"
    shutil.copytree(tiny_llama, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"hidden_act": "quadratic", "model_type": "llama"}))
    shown = edgec("inspect", model)
    assert shown.code == 4
    assert "hidden_act" in shown.stdout
    document = parsed(edgec("inspect", model, "--json").stdout)
    assert document["compiles"] is False
    assert document["problems"][0]["subject"] == "hidden_act"  # type: ignore[index]


def test_verify(edgec: Edgec, bundle: Path, tmp_path: Path) -> None:
    sound = edgec("verify", bundle)
    assert sound.code == 0 and sound.stdout.startswith("sound")
    damaged = tmp_path / "damaged.edgec"
    shutil.copytree(bundle, damaged)
    module = damaged / "module.simd128.wasm"
    module.write_bytes(module.read_bytes()[:-1] + b"\0")
    (damaged / "extra.txt").write_text("x")
    result = edgec("verify", damaged, "--json")
    assert result.code == 7
    document = parsed(result.stdout)
    assert document["sound"] is False
    findings = {finding["code"] for finding in document["findings"]}  # type: ignore[attr-defined]
    assert "file-unexpected" in findings
    assert edgec("verify", damaged, "-q").stdout == ""
    assert edgec("run", damaged, "hello").code == 7


def test_eval_against_the_float_model(edgec: Edgec, bundle: Path, tiny_llama: Path, working_folder: Path) -> None:
    (working_folder / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 4)
    options = ("--text", "text.txt", "--tokens", "120", "--context", "64", "--threads", "1")
    result = edgec("eval", bundle, tiny_llama, *options, "--json")
    assert result.code == 0, result.stderr
    document = parsed(result.stdout)
    assert abs(document["loss"]) < 0.05 and document["kl_mean"] < 0.05  # type: ignore[operator,arg-type]
    alone = parsed(edgec("eval", bundle, *options, "--json").stdout)
    assert alone["perplexity"] == pytest.approx(document["perplexity"])
    strict = edgec("eval", bundle, tiny_llama, *options, "--max-loss", "-1")
    assert strict.code == 8 and "loss" in strict.stderr
    assert edgec("eval", bundle, tiny_llama, *options, "--report", "page.html").code == 0
    page = (working_folder / "page.html").read_text()
    assert "float model" in page and "KL divergence" in page and 'class="heat"' in page
    assert edgec("eval", bundle, *options, "--report", "nowhere/page.html").code == 10
    assert edgec("eval", bundle).code == 2
    assert edgec("eval", bundle, *options, "--max-loss", "0").code == 2


def test_bench_in_wasmtime(edgec: Edgec, bundle: Path) -> None:
    options = ("--engine", "wasmtime", "--prompt-tokens", "16", "--max-tokens", "4", "--repeat", "1", "--threads", "1")
    shown = edgec("bench", bundle, *options)
    assert shown.code == 0 and "wasmtime" in shown.stdout
    (row,) = parsed(edgec("bench", bundle, *options, "--json").stdout)["results"]  # type: ignore[misc]
    assert row["engine"] == "wasmtime" and row["threads"] == 1
    assert row["prefill_tokens_per_second"] > 0 and row["memory_bytes"] > 1 << 20


@pytest.mark.node
def test_bench_in_node(edgec: Edgec, bundle: Path) -> None:
    options = ("--engine", "node", "--prompt-tokens", "16", "--max-tokens", "4", "--repeat", "1", "--threads", "1")
    (row,) = parsed(edgec("bench", bundle, *options, "--json").stdout)["results"]  # type: ignore[misc]
    assert row["engine"] == "node" and row["decode_tokens_per_second"] > 0


def test_profiles(edgec: Edgec) -> None:
    assert "phone-8gb" in edgec("profiles").stdout
    assert edgec("profiles").stdout == edgec("profiles", "list").stdout
    assert "cpu.threads" in edgec("profiles", "show", "laptop-8gb").stdout
    document = parsed(edgec("profiles", "list", "--json").stdout)
    assert document["phone-8gb"]["facts"]["cpu.threads"]["source"]  # type: ignore[index]
    assert parsed(edgec("profiles", "show", "tablet", "--json").stdout) == document["tablet"]
    unknown = edgec("profiles", "show", "toaster")
    assert unknown.code == 5


def test_doctor(edgec: Edgec) -> None:
    result = edgec("doctor", "--json")
    assert result.code == 0
    checks = {check["name"]: check["state"] for check in parsed(result.stdout)["checks"]}  # type: ignore[attr-defined]
    assert checks["Python"] == checks["apache-tvm"] == checks["wasmtime"] == "ok"
    assert "apache-tvm" in edgec("doctor").stdout


@pytest.mark.node
def test_serve_shows_bundles_and_stops_on_interrupt(bundle: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("serve", bundle, "--port", "0", "--quiet"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment() | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with urllib.request.urlopen(f"{address}bundles.json", timeout=10) as response:
            listing = json.load(response)
        assert [entry["name"] for entry in listing["bundles"]] == ["tiny-llama"]
        with urllib.request.urlopen(
            f"{address}{listing['bundles'][0]['url'][1:]}manifest.json", timeout=10
        ) as response:
            assert json.load(response)["model"]["name"] == "tiny-llama"
    finally:
        process.send_signal(2)
        _, complaints = process.communicate(timeout=20)
    assert process.returncode == 0
    assert complaints == ""


def test_serve_refuses_what_is_no_bundle(edgec: Edgec, bundle: Path, tmp_path: Path) -> None:
    assert edgec("serve", tmp_path).code == 2
    damaged = tmp_path / "damaged.edgec"
    shutil.copytree(bundle, damaged)
    (damaged / "manifest.json").write_text('{"format":')
    refused = edgec("serve", damaged)
    assert refused.code == 7 and "manifest.json" in refused.stderr and "bug" not in refused.stderr
    twin = tmp_path / "twin" / bundle.name
    shutil.copytree(bundle, twin)
    assert "two bundles" in edgec("serve", bundle, twin).stderr


def graph_file(folder: Path) -> Path:
    """y = x @ w, with x of up to `rows` rows."""
    weight = numpy_helper.from_array(np.arange(64, dtype=np.float32).reshape(8, 8) / 64, "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 8])],
        [weight],
    )
    file = folder / "product.onnx"
    file.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)]).SerializeToString())
    return file


def test_a_graph_from_onnx_to_arrays(edgec: Edgec, working_folder: Path) -> None:
    compiled = edgec(
        "compile", graph_file(working_folder), "-p", "node-server", "--max-dim", "rows=5", "--precision", "float32"
    )
    assert compiled.code == 0, compiled.stderr
    x = np.arange(24, dtype=np.float32).reshape(3, 8)
    np.save(working_folder / "x.npy", x)
    shown = edgec("run", "product.edgec", "--input", "x=x.npy", "--output", "y.npz", "--threads", "1")
    assert shown.code == 0 and "3 x 8" in shown.stdout, shown.stderr
    expected = x @ (np.arange(64, dtype=np.float32).reshape(8, 8) / 64)
    with np.load(working_folder / "y.npz") as outputs:
        np.testing.assert_allclose(outputs["y"], expected, rtol=1e-6)
    document = parsed(edgec("run", "product.edgec", "--input", "x=x.npy", "--json", "--threads", "1").stdout)
    np.testing.assert_allclose(document["y"], expected, rtol=1e-6)  # type: ignore[arg-type]

    (working_folder / "bad.npy").write_bytes(b"no array")
    for inputs in (("--input", "x=bad.npy"), ("--input", "x"), ("--input", "z=x.npy"), (), ("a text",)):
        refused = edgec("run", "product.edgec", "--threads", "1", *inputs)
        assert refused.code in (2, 4) and "Traceback" not in refused.stderr
    (row,) = parsed(edgec("bench", "product.edgec", "--engine", "wasmtime", "--threads", "1", "--json").stdout)[
        "results"
    ]  # type: ignore[misc]
    assert row["run_seconds"] > 0 and row["decode_tokens_per_second"] is None
    assert edgec("eval", "product.edgec").code == 2


def test_a_language_model_takes_no_tensors(edgec: Edgec, bundle: Path) -> None:
    assert edgec("run", bundle, "--input", "x=x.npy").code == 2


def test_verify_runs_every_variant(edgec: Edgec, bundle: Path, working_folder: Path) -> None:
    shown = edgec("verify", "--run", bundle)
    assert (
        shown.code == 0
        and shown.stdout.startswith("sound")
        and "same bits  wasmtime, simd128, 1 thread, 3 compared" in shown.stdout
    )
    tests = parsed(edgec("verify", "--run", bundle, "--json").stdout)["self_tests"]
    assert {"simd128", "simd128-threads"} <= {test["variant"] for test in tests}  # type: ignore[attr-defined]
    assert all(test["passed"] for test in tests)  # type: ignore[attr-defined]
    other = working_folder / "other.edgec"
    shutil.copytree(bundle, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["golden"]["steps"][0]["sha256"] = "0" * 64
    (other / "manifest.json").write_text(json.dumps(manifest))
    assert edgec("verify", other).code == 0
    differing = edgec("verify", "--run", other)
    assert (
        differing.code == 11
        and "differs  wasmtime, simd128, 1 thread: logits after 9 tokens, by 0 among" in differing.stdout
    )
    manifest["golden"] = None
    (other / "manifest.json").write_text(json.dumps(manifest))
    untested = edgec("verify", "--run", other)
    assert untested.code == 0 and "untested  wasmtime, simd128" in untested.stdout


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param("node", marks=pytest.mark.node),
        pytest.param("chromium", marks=pytest.mark.browser),
        pytest.param("firefox", marks=pytest.mark.browser),
    ],
)
def test_verify_runs_in_other_engines(edgec: Edgec, bundle: Path, working_folder: Path, engine: str) -> None:
    assert edgec("verify", "--engine", engine, bundle).code == 2
    (test,) = parsed(edgec("verify", "--run", "--engine", engine, bundle, "--json").stdout)["self_tests"]  # type: ignore[misc]
    assert test["engine"] == engine and test["passed"] and test["compared"] == 3
    other = working_folder / "other.edgec"
    shutil.copytree(bundle, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["golden"]["steps"][1]["sha256"] = "0" * 64
    (other / "manifest.json").write_text(json.dumps(manifest))
    differing = edgec("verify", "--run", "--engine", engine, other)
    assert differing.code == 11 and f"differs  {engine}, " in differing.stdout
    assert "logits after 10 tokens, by 0 among" in differing.stdout


def test_a_graph_that_stops_on_the_test_has_no_golden_outputs(edgec: Edgec, working_folder: Path) -> None:
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT32, [64]) for name in ("a", "b")]
    output = helper.make_tensor_value_info("c", TensorProto.INT32, [64])
    graph = helper.make_graph([helper.make_node("Div", ["a", "b"], ["c"])], "division", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (working_folder / "division.onnx").write_bytes(model.SerializeToString())
    shown = edgec("compile", "division.onnx", "-p", "phone-8gb")
    assert shown.code == 0 and "no self-test" in shown.stdout
    assert parsed(edgec("compile", "division.onnx", "-p", "phone-8gb", "--json").stdout)["golden"] is False
    assert "untested" in edgec("verify", "--run", "division.edgec").stdout


def test_compile_keeps_finished_stages_unless_told_otherwise(
    edgec: Edgec, tiny_llama: Path, working_folder: Path
) -> None:
    line = ("compile", tiny_llama, "-p", "phone-8gb", "-o", "a.edgec", "--json")
    counts = [parsed(edgec(*line, "--cache", "kept").stdout)["cache"] for _ in range(2)]
    assert counts[0]["reused"] == 0 and counts[1]["missing"] == 0  # type: ignore[index]
    assert counts[0]["saved"] == counts[1]["reused"] > 0  # type: ignore[index]
    assert "cache" not in parsed(edgec(*line, "--no-cache").stdout)
    both = edgec(*line, "--no-cache", "--cache", "kept")
    assert both.code == 2 and "exclude each other" in both.stderr
    (working_folder / "file").write_text("")
    assert edgec(*line, "--cache", "file").code == 2


def test_inspect_a_graph(edgec: Edgec, tmp_path: Path) -> None:
    """Operands that cannot be computed are named, and so are sizes without a bound; then it says how fast."""

    def value(name: str, kind: int, shape: list[int | str]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    nodes = [
        helper.make_node("DFT", ["x", "", "axis"], ["y"], "spectrum"),
        helper.make_node("Range", ["a", "b", "a"], ["r"], "steps"),
    ]
    inputs = [value("x", 1, [1, 4, 1]), *(value(name, 7, []) for name in ("axis", "a", "b"))]
    graph = helper.make_graph(nodes, "g", inputs, [value("y", 1, [1, 4, 2]), value("r", 7, ["k"])])
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)]).SerializeToString())
    shown = edgec("inspect", path)
    assert shown.code == UnsupportedError.exit_code
    assert "`axis` of `DFT` (spectrum)" in shown.stdout
    assert "--fix-input axis=VALUE" in shown.stdout
    shown = edgec("inspect", path, "--fix-input", "axis=1")
    assert shown.code == UsageError.exit_code
    assert "--max-dim r.dim0=NUMBER" in shown.stderr
    shown = edgec("inspect", path, "--fix-input", "axis=1", "--max-dim", "r.dim0=9", "-p", "laptop-8gb", "--json")
    prediction = parsed(shown.stdout)["profiles"]["laptop-8gb"]["prediction"]  # type: ignore[index]
    assert prediction["run_seconds"] > 0
