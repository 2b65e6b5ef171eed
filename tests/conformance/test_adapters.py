"""Adapters that are swapped give the same logits, to the bit, on every engine; damaged ones the same verdict."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import edgec.run
from edgec import resources
from edgec.adapters import make_adapter
from edgec.errors import BundleError
from edgec.pipeline import CompileOptions, compile_model
from tests.adapters import write_adapter
from tests.conformance.runtimes import Runtime, in_javascript

PROMPT = "Name a synonym of happy."
ORDER = (None, "one", "two", "one", None)
SHAPES = {
    f"model.layers.{layer}.{name}": shape
    for layer in range(2)
    for name, shape in {
        "self_attn.q_proj": (64, 64), "self_attn.v_proj": (32, 64), "self_attn.o_proj": (64, 64),
        "mlp.gate_proj": (96, 64), "mlp.down_proj": (64, 96),
    }.items()
}  # fmt: skip


@dataclass(frozen=True)
class Files:
    bundle: Path
    adapters: Mapping[str, Path]


@pytest.fixture(scope="module")
def files(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("adapters")
    bundle = folder / "tiny.edgec"
    compile_model(tiny_llama, "phone-8gb", bundle, CompileOptions(adapter_rank=16))
    adapters = {}
    for seed, (name, rank) in enumerate((("one", 4), ("two", 16))):
        write_adapter(folder / name, SHAPES, seed=seed, rank=rank)
        adapters[name] = folder / f"{name}.lora"
        adapters[name].write_bytes(make_adapter(folder / name, bundle))
    return Files(bundle, adapters)


def in_python(files: Files, variant: str, threads: int) -> list[str | None]:
    """Hashes of the logits of one prompt with one adapter after the other."""
    hashes = []
    with edgec.run.load(files.bundle, variant=variant, threads=threads) as model:
        for name in ORDER:
            model.use_adapter(name and model.load_adapter(files.adapters[name]))
            answer = model.chat([{"role": "user", "content": PROMPT}], max_tokens=12, temperature=0, hash_logits=True)
            answer.text()
            hashes.append(answer.logits_sha256)
            assert model.self_test().passed and model.adapter == name
    return hashes


@pytest.fixture(scope="module")
def wanted(files: Files) -> list[str | None]:
    hashes = in_python(files, "simd128", 1)
    assert len(set(hashes)) == 3 and hashes[0] == hashes[4] and hashes[1] == hashes[3]
    return hashes


def test_wasmtime(files: Files, wanted: list[str | None]) -> None:
    assert in_python(files, "relaxed-threads", 2) == wanted


@pytest.mark.node
@pytest.mark.parametrize(
    "runtime",
    [
        Runtime("node", "simd128-threads", 2),
        pytest.param(Runtime("chromium", "relaxed16-threads", 2), marks=pytest.mark.browser),
        pytest.param(Runtime("firefox", "simd128", 1), marks=pytest.mark.browser),
        pytest.param(Runtime("firefox", "relaxed-threads", 2), marks=pytest.mark.browser),
    ],
    ids=str,
)
def test_javascript(runtime: Runtime, files: Files, wanted: list[str | None]) -> None:
    def encoded(name: str | None) -> str | None:
        return None if name is None else base64.b64encode(files.adapters[name].read_bytes()).decode()

    jobs = [{"adapter": encoded(name), "text": PROMPT} for name in ORDER]
    found = in_javascript(runtime, files.bundle, jobs, "--max-tokens", "12")
    assert [result["logitsSha256"] for result in found] == wanted


Header = dict[str, Any]


def damaged(content: bytes, change: Callable[[Header], object]) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def _metadata(**values: str) -> Callable[[Header], object]:
    return lambda header: header["__metadata__"].update(values)


FIRST = "model.layers.0.self_attn.q_proj"
CHANGES: dict[str, tuple[str | None, Callable[[Header], object]]] = {
    "other-format": ("manifest-invalid", _metadata(format="pt")),
    "later-version": ("version-unsupported", _metadata(version="2")),
    "other-model": (None, _metadata(base="0" * 64)),
    "too-much": (None, _metadata(rank="32")),
    "no-rank": ("manifest-invalid", _metadata(rank="16.0")),
    "odd-rank": ("manifest-invalid", _metadata(rank="12")),
    "other-rank": ("manifest-invalid", _metadata(rank="8")),
    "no-metadata": ("manifest-invalid", lambda header: header.pop("__metadata__")),
    "more-metadata": ("manifest-invalid", _metadata(more="1")),
    "no-up": ("manifest-invalid", lambda header: header.pop(f"{FIRST}.up")),
    "foreign": ("manifest-invalid", lambda header: header.update({"lm_head.up": header.pop(f"{FIRST}.up")})),
    "dtype": ("manifest-invalid", lambda header: header[f"{FIRST}.up"].update(dtype="BF16")),
    "shape": ("manifest-invalid", lambda header: header[f"{FIRST}.up"].update(shape=[8, 8, 16])),
    "past-the-end": (
        "manifest-invalid",
        lambda header: header[f"{FIRST}.up"].update(data_offsets=[10**6, 10**6 + 2048]),
    ),
    "too-short": ("manifest-invalid", lambda header: header[f"{FIRST}.up"].update(data_offsets=[0, 2])),
    "text": ("manifest-invalid", lambda header: header.update({f"{FIRST}.up": "text"})),
    "hash": ("hash-mismatch", _metadata(sha256="0" * 64)),
}


@pytest.fixture(scope="module")
def broken(files: Files, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str | None, Path]]:
    folder = tmp_path_factory.mktemp("broken")
    sound = files.adapters["two"].read_bytes()
    contents = {name: (code, damaged(sound, change)) for name, (code, change) in CHANGES.items()}
    contents["empty"] = ("manifest-invalid", b"")
    contents["header-too-long"] = ("manifest-invalid", b"\xff" * 8 + sound[8:])
    contents["truncated"] = ("manifest-invalid", sound[:-4000])
    contents["a-bit"] = ("hash-mismatch", sound[:-1] + bytes([sound[-1] ^ 1]))
    contents["more-bytes"] = ("hash-mismatch", sound + b"\0")
    contents["pickle"] = ("manifest-invalid", b"PK\x03\x04" + bytes(100))
    found = {}
    for name, (code, content) in contents.items():
        found[name] = code, folder / f"{name}.lora"
        found[name][1].write_bytes(content)
    return found


def test_damaged_files_are_refused(files: Files, broken: dict[str, tuple[str | None, Path]]) -> None:
    with edgec.run.load(files.bundle, threads=1) as model:
        for name, (code, file) in broken.items():
            with pytest.raises(BundleError) as caught:
                model.load_adapter(file)
            assert (name, caught.value.finding) == (name, code)
        assert model.adapters == ()


@pytest.mark.node
def test_damaged_files_in_javascript(files: Files, broken: dict[str, tuple[str | None, Path]]) -> None:
    script = """
        const [runtime, bundle, ...files] = process.argv.slice(1);
        const edgec = await import(runtime);
        const model = await edgec.load(bundle, { worker: false, threads: 1 });
        const codes = [];
        for (const file of files) codes.push(await model.loadAdapter(file).then(() => "loaded", (error) => error.code));
        console.log(JSON.stringify(codes));
        await model.dispose();
    """
    runtime = resources.runtime_directory() / "edgec.js"
    paths = [str(path) for _, path in broken.values()] + [str(files.adapters["one"])]
    command = ["node", "--input-type=module", "-e", script, str(runtime), str(files.bundle), *paths]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    expected = {name: code or "invalid-argument" for name, (code, _) in broken.items()} | {"sound": "loaded"}
    assert dict(zip(expected, json.loads(result.stdout), strict=True)) == expected
