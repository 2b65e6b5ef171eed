"""What tests/attacks does not cover: the standard library is enough, progress, several findings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgec import bundle
from edgec.errors import BundleError
from tests.run.fake_module import write_fake_bundle

ONLY_STANDARD = """
import sys
from edgec import bundle
findings = bundle.verify(sys.argv[1])
bundle.read(sys.argv[1]).module("simd128")
third = {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names - {"edgec", "__main__"}
third = {name for name in third if not name.startswith("_")}  # editable installs
print(findings, sorted(third & {"numpy", "onnx_ir", "onnx", "wasmtime", "tvm", "click", "tokenizers"}))
"""


def test_verifying_needs_the_standard_library_only(tmp_path: Path) -> None:
    root = write_fake_bundle(tmp_path / "a.edgec").path
    command = [sys.executable, "-c", ONLY_STANDARD, str(root)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[] []"


def test_all_findings_are_listed_worst_first(tmp_path: Path) -> None:
    root = write_fake_bundle(tmp_path / "a.edgec").path
    (root / "extra").write_text("x")
    (root / "module.relaxed.wasm").unlink()
    (root / "module.simd128.wasm").write_bytes(b"short")
    tokenizer = root / "tokenizer.json"
    tokenizer.write_bytes(tokenizer.read_bytes().swapcase())
    found = [(finding.code, finding.file) for finding in bundle.verify(root)]
    assert found == [
        ("file-unexpected", "extra"),
        ("file-missing", "module.relaxed.wasm"),
        ("length-mismatch", "module.simd128.wasm"),
        ("hash-mismatch", "tokenizer.json"),
    ]
    with pytest.raises(BundleError, match="and 3 more"):
        bundle.check(root)


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    written = write_fake_bundle(tmp_path / "a.edgec")
    seen: list[int] = []
    assert bundle.verify(written.path, progress=seen.append) == []
    assert sum(seen) == written.manifest.total_bytes()


def test_what_is_no_directory_is_no_finding(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "nothing"):
        with pytest.raises(BundleError, match="is not a directory") as caught:
            bundle.verify(path)
        assert caught.value.finding is None


def test_a_file_that_changes_after_opening_is_noticed(tmp_path: Path) -> None:
    opened = bundle.read(write_fake_bundle(tmp_path / "a.edgec").path)
    for content, code in ((b"x", "length-mismatch"), (None, "file-missing")):
        file = opened.path / "module.simd128.wasm"
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        with pytest.raises(BundleError) as caught:
            opened.module("simd128")
        assert caught.value.finding == code
