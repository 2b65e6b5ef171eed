"""Bad input: a clear message, the right exit code, no traceback, and nothing left behind."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import load_file, save_file

from edgec import errors
from tests.cli.conftest import Edgec, Result, command, environment
from tests.conftest import write_tiny_llama

Spoil = Callable[[Path], None]


def edit_tensors(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def edit_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps(config))


def missing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def truncated(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def not_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"<!doctype html><title>404</title>" * 40)


def swapped(folder: Path) -> None:
    """Two shards whose contents were exchanged."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    halves = [names[: len(names) // 2], names[len(names) // 2 :]]
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {name: file for file, half in zip(files, halves, strict=True) for name in half}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    for file, half in zip(reversed(files), halves, strict=True):
        save_file({name: tensors[name] for name in half}, folder / file)
    (folder / "model.safetensors").unlink()


def wrong_shape(folder: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"] = np.zeros((95, 64), np.float32)

    edit_tensors(folder, change)


def not_a_number(folder: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors["model.layers.0.self_attn.o_proj.weight"][3, 5] = np.nan

    edit_tensors(folder, change)


def lost_tensor(folder: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        del tensors["model.layers.1.self_attn.k_proj.weight"]

    edit_tensors(folder, change)


def unknown_architecture(folder: Path) -> None:
    edit_config(folder, model_type="warp9", architectures=["Warp9ForCausalLM"])


def unsupported_field(folder: Path) -> None:
    edit_config(folder, hidden_act="quadratic")


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama", ')


def escaping_shard(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors, folder.parent / "outside.safetensors")
    index = dict.fromkeys(tensors, "../outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("spoil", "error", "mentions"),
    [
        (missing, errors.ModelError, "safetensors"),
        (truncated, errors.CorruptFileError, "model.safetensors"),
        (not_safetensors, errors.CorruptFileError, "model.safetensors"),
        (swapped, errors.ModelError, "model-0000"),
        (wrong_shape, errors.ModelError, "model.layers.1.mlp.up_proj.weight"),
        (not_a_number, errors.ModelError, "model.layers.0.self_attn.o_proj.weight"),
        (lost_tensor, errors.ModelError, "model.layers.1.self_attn.k_proj.weight"),
        (unknown_architecture, errors.UnsupportedError, "warp9"),
        (unsupported_field, errors.UnsupportedError, "hidden_act"),
        (broken_config, errors.ModelError, "config.json"),
        (escaping_shard, errors.UnsafePathError, "outside.safetensors"),
    ],
)
def test_spoiled_folders(
    tmp_path: Path, edgec: Edgec, spoil: Spoil, error: type[errors.EdgecError], mentions: str
) -> None:
    model = tmp_path / "models" / "tiny"
    model.mkdir(parents=True)
    write_tiny_llama(model)
    spoil(model)
    refused(edgec("compile", model, "-p", "phone-8gb", "-o", "out.edgec"), error, mentions)
    assert_nothing_left(tmp_path)


def test_corrupt_gguf(tmp_path: Path, edgec: Edgec) -> None:
    header = b"GGUF" + struct.pack("<IQQ", 3, 5, 7)
    for name, content in {
        "cut.gguf": header,
        "garbage.gguf": header + bytes(range(256)) * 8,
        "page.gguf": b"<html>404</html>" * 9,
        "empty.gguf": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
        refused(edgec("compile", tmp_path / name, "-p", "phone-8gb"), errors.ModelError, name)
    assert_nothing_left(tmp_path)


def onnx_file(folder: Path, operator: str, **external: str) -> Path:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 4], np.eye(4, dtype=np.float32).tobytes(), raw=True)
    if external:
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in external.items():
            weight.external_data.add(key=key, value=value)
    domain = "" if operator in ("MatMul", "Det") else "com.example"
    node = helper.make_node(operator, ["x", "w"] if operator != "Det" else ["x"], ["y"], domain=domain)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [] if operator == "Det" else [4, 4])],
        [weight],
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.example", 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    file = folder / "model.onnx"
    file.write_bytes(model.SerializeToString())
    return file


@pytest.mark.parametrize("operator", ["Warp", "NonZero"])
def test_unknown_operator(tmp_path: Path, edgec: Edgec, operator: str) -> None:
    model = onnx_file(tmp_path, operator)
    refused(edgec("compile", model, "-p", "phone-8gb"), errors.UnsupportedError, operator)
    assert_nothing_left(tmp_path)


def test_onnx_external_data_outside_the_folder(tmp_path: Path, edgec: Edgec) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    for location in ("../secret.bin", str(tmp_path / "secret.bin")):
        model = onnx_file(folder, "MatMul", location=location, offset="0", length="64")
        refused(edgec("compile", model, "-p", "phone-8gb"), errors.UnsafePathError, "secret.bin")
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    model = onnx_file(folder, "MatMul", location="link.bin", offset="0", length="64")
    refused(edgec("compile", model, "-p", "phone-8gb"), errors.UnsafePathError, "link.bin")
    assert_nothing_left(tmp_path)


def test_damaged_onnx(tmp_path: Path, edgec: Edgec) -> None:
    model = onnx_file(tmp_path, "MatMul")
    model.write_bytes(model.read_bytes()[:-40])
    refused(edgec("compile", model, "-p", "phone-8gb"), errors.ModelError, "model.onnx")


def test_unknown_profile_is_refused_before_the_model_is_looked_at(edgec: Edgec) -> None:
    result = edgec("compile", "no-such-model", "-p", "phone-9gb")
    refused(result, errors.ProfileError, "phone-9gb")
    assert "`phone-8gb`" in result.stderr


def test_no_profile_lists_them(edgec: Edgec, tiny_llama: Path) -> None:
    result = edgec("compile", tiny_llama)
    refused(result, errors.UsageError, "phone-8gb")


def test_missing_model(edgec: Edgec) -> None:
    refused(edgec("compile", "./no-such-model", "-p", "phone-8gb"), errors.ModelError, "no-such-model")


def test_a_model_too_large_for_the_profile(tmp_path: Path, edgec: Edgec) -> None:
    model = tmp_path / "tiny"
    model.mkdir()
    write_tiny_llama(model)
    edit_config(model, max_position_embeddings=1 << 26)
    result = edgec("compile", model, "-p", "phone-4gb", "--context", str(1 << 26))
    refused(result, errors.DoesNotFitError, "phone-4gb")
    assert "hint" in result.stderr
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--plan", "missing.json"),
        ("--max-dim", "sequence"),
        ("--max-dim", "sequence=0"),
        ("--bits", "9"),
        ("--bits", "4", "--target-bpw", "4"),
        ("--target-bpw", "1.5"),
        ("--target-size", "small"),
        ("--target-size", "60MB", "--precision", "float32"),
        ("--min-accuracy", "1"),
        ("--min-accuracy", "0.9", "--target-bpw", "4"),
        ("--min-accuracy", "0.9", "--heal-steps", "4"),
        ("--quantizer", "best"),
        ("--calibration", "missing.txt"),
        ("--stop-after", "lunch"),
        ("--dry-run", "--stop-after", "lower"),
        ("--context", "-3"),
    ],
)
def test_wrong_options(edgec: Edgec, tiny_llama: Path, arguments: tuple[str, ...]) -> None:
    refused(edgec("compile", tiny_llama, "-p", "phone-8gb", *arguments), errors.UsageError, "")


def test_a_target_that_cannot_be_met(edgec: Edgec, tiny_llama: Path) -> None:
    outcome = edgec("compile", tiny_llama, "-p", "phone-8gb", "--target-size", "100kB", "--dry-run")
    refused(outcome, errors.DoesNotFitError, "at 1.6 bits")


def test_an_accuracy_that_cannot_be_reached(edgec: Edgec, tiny_llama: Path) -> None:
    outcome = edgec("compile", tiny_llama, "-p", "phone-8gb", "--min-accuracy", "0.9999999", "--dry-run")
    refused(outcome, errors.AccuracyError, "reaches an accuracy of 0.9999")


def test_output_in_the_way(tmp_path: Path, edgec: Edgec, tiny_llama: Path) -> None:
    target = tmp_path / "important"
    target.mkdir()
    (target / "thesis.txt").write_text("all of it")
    refused(edgec("compile", tiny_llama, "-p", "phone-8gb", "-o", target), errors.OutputError, "important")
    assert (target / "thesis.txt").read_text() == "all of it"


def run_limited(tmp_path: Path, model: Path, limit: int) -> Result:
    finished = subprocess.run(
        command("compile", model, "-p", "phone-8gb", "-o", tmp_path / "out.edgec"),
        capture_output=True,
        text=True,
        # The limit holds for every file, so no half-written .pyc may come to lie beside the sources.
        env={**environment(), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path,
        timeout=120,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    return Result(finished.returncode, finished.stdout, finished.stderr)


def test_full_disk(tmp_path: Path) -> None:
    """A limit on file sizes lets the weights fail as a full disk does, while LLVM's object files still fit."""
    model, folder = tmp_path / "model", tmp_path / "folder"
    model.mkdir()
    folder.mkdir()
    write_tiny_llama(model, intermediate=8192)
    refused(run_limited(folder, model, 7 << 17), errors.OutputError, "out.edgec")
    assert list(folder.iterdir()) == []


def test_full_temporary_folder(edgec: Edgec, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    refused(edgec("compile", tiny_llama, "-p", "phone-8gb"), errors.OutputError, "TMPDIR")


@pytest.mark.parametrize(("signal_number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_in_mid_compile(tmp_path: Path, tiny_llama: Path, signal_number: int, exit_code: int) -> None:
    """While kernels are being compiled, with an older bundle in place, which must survive."""
    output, dump = tmp_path / "out" / "tiny.edgec", tmp_path / "dump"
    output.mkdir(parents=True)
    process = subprocess.Popen(
        command("compile", tiny_llama, "-p", "phone-8gb", "-o", output, "--dump", dump),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    deadline = time.monotonic() + 60
    while not (dump / "4-compress" / "report.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)
    os.kill(process.pid, signal_number)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == exit_code
    assert complaint == "interrupted, nothing was left behind\n"
    assert list(output.parent.iterdir()) == [output]
    assert list(output.iterdir()) == []


def refused(result: Result, error: type[errors.EdgecError], mentions: str) -> None:
    assert "Traceback" not in result.stderr, result.stderr
    assert result.code == error.exit_code, result.stderr
    assert result.stderr.startswith("error: ")
    assert mentions in result.stderr
    assert len(result.stderr.splitlines()) <= 2
    assert result.stdout == ""


def assert_nothing_left(tmp_path: Path) -> None:
    assert list((tmp_path / "working-folder").iterdir()) == []
