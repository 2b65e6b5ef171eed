from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec import bundle
from edgec.bundle import writer
from edgec.bundle.manifest import Segment
from edgec.bundle.weights import weight_files
from edgec.errors import BundleError, OutputError
from edgec.ir import WeightPlacement, planes
from edgec.ir.narrow import merge_narrow, merge_scaled
from tests.run import fake_module
from tests.run.fake_module import write_fake_bundle


def files_of(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write_fake_bundle(tmp_path / "a.edgec", report=b"<html>")
    second = write_fake_bundle(tmp_path / "sub" / "b.edgec", report=b"<html>")
    assert files_of(first.path) == files_of(second.path)
    assert bundle.verify(first.path) == []


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    written = write_fake_bundle(tmp_path / "a.edgec", report=b"<html>")
    opened = bundle.read(tmp_path / "a.edgec")
    assert opened == written
    assert opened.manifest.dump() == (tmp_path / "a.edgec" / "manifest.json").read_bytes()
    assert set(opened.manifest.files) == set(files_of(tmp_path / "a.edgec")) - {"manifest.json"}
    assert opened.module("relaxed") == fake_module.wasm(fake_module._DECODER, threads=False)
    assert opened.tokenizer_json() == fake_module.make_tokenizer()
    assert opened.manifest.generation == {"temperature": 0.7, "top_p": 0.9}
    assert opened.file_bytes("report.html") == b"<html>"


def test_accuracy_may_hold_numpy_numbers_and_what_json_lacks(tmp_path: Path) -> None:
    accuracy = {"rmse": np.float32(0.5), "count": np.int64(3), "worst": float("inf"), "list": (1, np.float64("nan"))}
    lowered, model, plan = fake_module.make_lowered(), fake_module.make_model(), fake_module.make_plan()
    written = bundle.write(lowered, model=model, plan=plan, accuracy=accuracy, out=tmp_path / "a.edgec")
    assert written.manifest.accuracy == {"rmse": 0.5, "count": 3, "worst": None, "list": [1, None]}


def test_a_lowering_that_breaks_the_format_is_not_written(tmp_path: Path) -> None:
    lowered = fake_module.make_lowered()
    wrong = dataclasses.replace(lowered, memory=dataclasses.replace(lowered.memory, maximum_bytes=65536))
    with pytest.raises(BundleError, match="maximum_bytes"):
        bundle.write(
            wrong, model=fake_module.make_model(), plan=fake_module.make_plan(), accuracy={}, out=tmp_path / "a"
        )
    assert list(tmp_path.iterdir()) == []


# what is in the way


def test_a_bundle_or_an_empty_directory_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "a.edgec"
    out.mkdir()
    write_fake_bundle(out)
    write_fake_bundle(out, seed=1)
    write_fake_bundle(tmp_path / "b.edgec", seed=1)
    assert files_of(out) == files_of(tmp_path / "b.edgec")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.edgec", "b.edgec"]


def write_with_force(out: Path) -> None:
    lowered, model, plan = fake_module.make_lowered(), fake_module.make_model(), fake_module.make_plan()
    bundle.write(lowered, model=model, plan=plan, accuracy={}, out=out, force=True)


def test_other_things_are_replaced_with_force_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "manifest.json").write_text('{"format": "web app"}')
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for name in ("file", "folder", "link"):
        with pytest.raises(OutputError) as caught:
            write_fake_bundle(tmp_path / name)
        assert caught.value.hint
    assert (tmp_path / "file").read_text() == "precious"
    for name in ("file", "folder"):
        write_with_force(tmp_path / name)
        assert bundle.verify(tmp_path / name) == []
    with pytest.raises(OutputError, match="is a link"):
        write_with_force(tmp_path / "link")


def test_force_does_not_remove_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "notes").write_text("x")
    monkeypatch.chdir(tmp_path / "work")
    for out in (tmp_path / "work", tmp_path):
        with pytest.raises(OutputError, match="working or home directory"):
            write_with_force(out)
    assert (tmp_path / "work" / "notes").exists()


# failures


def failing_after(count: int, error: BaseException) -> Callable[..., None]:
    """A replacement of `_FileWriter.add` that fails at the n-th file, half-written."""
    original = writer._FileWriter.add
    calls = 0

    def add(self: Any, name: str, content: bytes) -> None:
        nonlocal calls
        calls += 1
        original(self, name, content)
        if calls == count:
            raise error

    return add


@pytest.mark.parametrize("count", [1, 3, 6])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), OutputError),
        (OSError(errno.EIO, "input/output error"), OutputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (MemoryError(), MemoryError),
    ],
)
def test_nothing_half_written_stays(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    error: BaseException,
    expected: type[BaseException],
) -> None:
    out = tmp_path / "a.edgec"
    write_fake_bundle(out)
    before = files_of(out)
    monkeypatch.setattr(writer._FileWriter, "add", failing_after(count, error))
    with pytest.raises(expected):
        write_fake_bundle(out, seed=1)
    assert files_of(out) == before
    with pytest.raises(expected):
        monkeypatch.setattr(writer._FileWriter, "add", failing_after(count, error))
        write_fake_bundle(tmp_path / "b.edgec")
    assert [path.name for path in tmp_path.iterdir()] == ["a.edgec"]


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(writer._FileWriter, "add", failing_after(2, full))
    with pytest.raises(OutputError, match="no space is left") as caught:
        write_fake_bundle(tmp_path / "a.edgec")
    assert caught.value.hint


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"):
        write_fake_bundle(tmp_path / "file" / "a.edgec")


def test_a_failed_exchange_puts_the_old_bundle_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "a.edgec"
    write_fake_bundle(out)
    before = files_of(out)
    rename = Path.rename

    def fail_once(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp" and target == out:
            raise OSError(errno.EACCES, "permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(OutputError):
        write_fake_bundle(out, seed=1)
    assert files_of(out) == before and len(list(tmp_path.iterdir())) == 1


# weight files


def placements() -> list[WeightPlacement]:
    random = np.random.default_rng(0)

    def data(size: int) -> planes.Bytes:
        return random.integers(0, 256, size, dtype=np.uint8)

    return [
        WeightPlacement("a", "nibbles", 0, data(640)),
        WeightPlacement("scales", "raw", 640, data(33)),
        WeightPlacement("b", "nibbles", 704, data(192)),
        WeightPlacement("c", "bytes", 896, data(256) & 0x7F),
        WeightPlacement("late", "raw", 1152, data(5)),
        WeightPlacement("nothing", "raw", 1157, data(0)),
    ]


WrittenFile = tuple[bytearray, tuple[Segment, ...], tuple[int, ...]]


def rebuild(files: list[WrittenFile], size: int = 1157) -> planes.Bytes:
    memory = np.zeros(size, np.uint8)
    for content, segments, _ in files:
        start = 0
        for segment in segments:
            source = np.frombuffer(bytes(content[start : start + segment.length]), np.uint8)
            target = memory[segment.target : segment.target + segment.target_bytes]
            if segment.op == "copy":
                target[:] = source
            elif segment.op == "scaled8":
                merge_scaled(target, source, segment.columns)
            elif segment.op in ("upper4", "scale8", "upper16"):
                merge_narrow(target, source, segment.op)
            elif segment.op == "bits2":
                planes.merge_bits2(target, source)
            elif segment.op == "trits":
                planes.merge_trits(target, source)
            elif segment.op == "bit1":
                planes.merge_bit1(target, source, segment.shift)
            else:
                planes.merge_byte1(target, source, segment.shift)
            start += segment.length
        assert start == len(content)
    return memory


@pytest.mark.parametrize("limit", [64, 128, 192, 1 << 20])
def test_weights_are_cut_anywhere_and_come_together_again(limit: int) -> None:
    files = list(weight_files(placements(), limit=limit))
    expected = np.concatenate([placement.data for placement in sorted(placements(), key=lambda p: p.offset)])
    gap = np.zeros(31, np.uint8)  # between the scales and `b`
    expected = np.concatenate([expected[:673], gap, expected[673:]])
    assert np.array_equal(rebuild(files), expected)
    assert np.array_equal(rebuild(files[::-1]), expected)
    assert all(0 < len(content) <= limit for content, *_ in files)


def test_the_most_important_bytes_come_first() -> None:
    [(_, segments, _)] = weight_files(placements())
    order = [(segment.op, segment.shift, segment.target) for segment in segments]
    assert order == [
        ("copy", 0, 640),
        ("copy", 0, 1152),
        ("bits2", 0, 0),
        ("bits2", 0, 704),
        ("byte1", 6, 896),
        ("byte1", 5, 896),
        ("bit1", 1, 0),
        ("bit1", 1, 704),
        ("byte1", 4, 896),
        ("bit1", 0, 0),
        ("bit1", 0, 704),
        ("byte1", 3, 896),
        ("byte1", 2, 896),
        ("byte1", 1, 896),
        ("byte1", 0, 896),
    ]


@pytest.mark.parametrize("limit", [64, 192, 1 << 20])
def test_each_depth_of_nested_codes_has_its_own_files(limit: int) -> None:
    """What is at one address depends on the depth, and what no depth shares is in no common file."""
    of_depths = {4: (4,), 3: (3,), 2: (2,)}
    random = np.random.default_rng(1)
    codes, plain = (random.integers(0, 256, 640, dtype=np.uint8) for _ in range(2))
    scales = {bits: random.integers(0, 256, 100, dtype=np.uint8) for bits in of_depths}
    placed = [WeightPlacement("codes", "nibbles", 0, codes, depths=(4, 3, 2))]
    placed += [WeightPlacement("scales", "raw", 640, scales[bits], depths=depths) for bits, depths in of_depths.items()]
    placed.append(WeightPlacement("plain", "nibbles", 768, plain))
    files = list(weight_files(placed, limit=limit))
    assert {depths for *_, depths in files} == {(), (4,), (3,), (2,), (4, 3)}
    for bits in of_depths:
        memory = rebuild([file for file in files if not file[2] or bits in file[2]], 1408)
        kept = np.uint8({4: 0xFF, 3: 0xEE, 2: 0xCC}[bits])
        assert np.array_equal(memory[:640], codes & kept)
        assert np.array_equal(memory[640:740], scales[bits])
        assert np.array_equal(memory[768:], plain)


@pytest.mark.parametrize("limit", [64, 128, 1 << 20])
@pytest.mark.parametrize("size", [256, 260, 512])
def test_bits_that_are_zero_are_left_out(limit: int, size: int) -> None:
    rng = np.random.default_rng(size)
    nibbles = rng.integers(0, 16, size, dtype=np.uint8) << 4
    scales = (rng.integers(0, 256, size // 2, dtype=np.uint16) << 6).view(np.uint8)
    words = (rng.integers(0, 1 << 16, size // 4, dtype=np.uint32) << 16).view(np.uint8)
    odd = words.copy()
    odd[8] = 1
    kinds = {"upper4": nibbles, "scale8": scales, "upper16": words, "copy": odd}
    placed = [WeightPlacement(op, "raw", 512 * at, data) for at, (op, data) in enumerate(kinds.items())]
    placed.append(WeightPlacement("short", "raw", 2048, words[:252]))
    placed.append(WeightPlacement("not aligned", "raw", 2304 + 4, words))
    files = list(weight_files(placed, limit=limit))
    memory = rebuild(files, 3072)
    for placement in placed:
        data = placement.data
        assert np.array_equal(memory[placement.offset : placement.offset + data.size], data), placement.name
    stored: dict[str, int] = {}
    for _, segments, _ in files:
        for segment in segments:
            stored[segment.op] = stored.get(segment.op, 0) + segment.length
    tail = size % 32
    half = (size - tail) // 2
    assert stored == {"upper4": half, "scale8": half, "upper16": half, "copy": 3 * tail + 2 * size + 252}


@pytest.mark.parametrize(("limit", "op"), [(64, "upper16"), (720, "scaled8"), (1 << 20, "scaled8")])
def test_channels_with_scales_are_not_cut(limit: int, op: str) -> None:
    codes = np.random.default_rng(3).integers(-126, 127, (9, 64)).astype(np.float32)
    codes[4] = 127
    data = (codes * np.float32(2.0) ** np.arange(-32, 32, dtype=np.float32)).view(np.uint8).reshape(-1)
    placed = [
        WeightPlacement("filter", "raw", 128, data, 64),
        WeightPlacement("plain", "raw", 4096, data[::-1].copy(), 64),
    ]
    files = list(weight_files(placed, limit=limit))
    memory = rebuild(files, 8192)
    assert all(np.array_equal(memory[p.offset : p.offset + data.size], p.data) for p in placed)
    first = [segment for _, segments, _ in files for segment in segments if segment.target < 4096]
    assert {segment.op for segment in first} == {op}
    assert op != "scaled8" or [(s.length, s.columns) for s in first] == [(2 * 64 + 9 * 64, 64)]


@pytest.mark.parametrize("limit", [1152, 2000, 2175])
def test_long_channels_with_scales_are_cut_between_rows(limit: int) -> None:
    codes = np.random.default_rng(3).integers(-126, 127, (50, 64)).astype(np.float32)
    codes[4] = 127
    data = (codes * np.float32(2.0) ** np.arange(-32, 32, dtype=np.float32)).view(np.uint8).reshape(-1)
    files = list(weight_files([WeightPlacement("filter", "raw", 128, data, 64)], limit=limit))
    assert np.array_equal(rebuild(files, 128 + data.size)[128:], data)
    segments = [segment for _, segments, _ in files for segment in segments]
    assert {(s.op, s.columns, s.target % 64) for s in segments} == {("scaled8", 64, 0)}
    assert [s.length for s in segments] == [2 * 64 + 16 * 64] * 3 + [2 * 64 + 2 * 64]
    assert all(len(content) <= limit for content, *_ in files)


def test_equal_files_are_stored_once(tmp_path: Path) -> None:
    lowered = fake_module.make_lowered()
    region = dataclasses.replace(lowered.memory.weights, bytes=40 << 20)
    end = region.offset + region.bytes
    maximum = (end + (1 << 20)) // 65536 * 65536
    memory = dataclasses.replace(
        lowered.memory,
        weights=region,
        kv=dataclasses.replace(lowered.memory.kv, offset=end),
        maximum_bytes=maximum,
    )
    ones = WeightPlacement("ones", "raw", region.offset, np.ones(32 << 20, np.uint8))
    lowered = dataclasses.replace(lowered, memory=memory, weights=(ones,))
    model, plan = fake_module.make_model(), fake_module.make_plan()
    written = bundle.write(lowered, model=model, plan=plan, accuracy={}, out=tmp_path / "a.edgec")
    name = f"weights/{hashlib.sha256(bytes([1]) * (1 << 20)).hexdigest()}.bin"
    assert [weight.file for weight in written.manifest.weights] == [name] * 32
    assert bundle.verify(tmp_path / "a.edgec") == []


def test_planes_that_are_all_zero_are_left_out() -> None:
    codes = np.random.default_rng(6).integers(0, 256, 1024).astype(np.uint8) & 0xCC
    files = list(weight_files([WeightPlacement("low", "nibbles", 4096, codes)]))
    assert [segment.op for _, segments, _ in files for segment in segments] == ["bits2"]
    assert sum(len(content) for content, *_ in files) == codes.size // 2
    np.testing.assert_array_equal(planes.merge(np.frombuffer(bytes(files[0][0]), np.uint8)), codes)


@pytest.mark.parametrize("limit", [128, 192, 1 << 20])
@pytest.mark.parametrize("below", [False, True])
def test_ternary_codes_are_five_to_a_byte(limit: int, below: bool) -> None:
    random = np.random.default_rng(7)
    digits = random.integers(0, 3, (2, 1024))
    codes = (digits[0] << 2 | digits[1] << 6).astype(np.uint8)
    if below:
        codes |= random.integers(0, 256, 1024).astype(np.uint8) & 0x33
    files = list(weight_files([WeightPlacement("ternary", "nibbles", 0, codes)], limit=limit))
    segments = [segment for _, segments, _ in files for segment in segments if segment.op in ("trits", "bits2")]
    assert sum(segment.target_bytes for segment in segments if segment.op == "trits") == 960
    assert [segment.target_bytes for segment in segments if segment.op == "bits2"] == [64]
    assert all(segment.target % 64 == 0 for segment in segments)
    for some in (files, files[::-1]):
        assert np.array_equal(rebuild(some, 1024), codes)
