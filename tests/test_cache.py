from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import numpy as np
import pytest

from edgec import cache as caches
from edgec.cache import Cache, Counts, default_folder, limit_bytes
from edgec.errors import UsageError
from edgec.ir.store import key_of

ARRAYS = {
    "codes": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "scales": np.asarray([[0.5, -1.0]], np.float16),
    "nothing": np.zeros((0, 7), np.int64),
}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def entry(cache: Cache) -> Path:
    [path] = [path for path in cache.folder.rglob("*") if path.is_file()]
    return path


def test_what_was_saved_comes_back(cache: Cache) -> None:
    assert cache.load("key") is None
    cache.save("key", ARRAYS)
    loaded = Cache(cache.folder).load("key")
    assert loaded is not None and loaded.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape)
        assert np.array_equal(loaded[name], array) and not loaded[name].flags.writeable
    assert cache.load("other") is None
    assert cache.counts == Counts(reused=0, missing=2, saved=1, damaged=0)
    assert stat.S_IMODE(entry(cache).parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("seed", range(20))
def test_damage_anywhere_is_found_out(cache: Cache, seed: int) -> None:
    cache.save("key", ARRAYS)
    path, random = entry(cache), np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    if seed % 2:
        content[random.integers(len(content))] ^= 1 << random.integers(8)
    else:
        del content[random.integers(len(content)) :]
    path.write_bytes(content)
    assert cache.load("key") is None
    assert cache.counts == Counts(reused=0, missing=1, saved=1, damaged=1)
    assert not path.exists()


def test_an_entry_under_another_name_is_no_entry(cache: Cache) -> None:
    cache.save("key", ARRAYS)
    first = entry(cache)
    cache.save("other", {"x": np.zeros(3)})
    other = next(path for path in cache.folder.rglob("*") if path.is_file() and path != first)
    first.replace(other)
    assert cache.load("other") is None and cache.counts.damaged == 1


def test_objects_are_never_read(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.save("key", {"x": np.asarray([1, 2], np.int64)})
    name = entry(cache).name
    forged = b"".join(caches._encode(name, {"x": np.asarray([None, None], object)}))
    entry(cache).write_bytes(forged)
    assert cache.load("key") is None and cache.counts.damaged == 1


def test_a_write_that_fails_leaves_nothing_and_says_why(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    cache.save("key", ARRAYS)
    assert cache.problem == "No space left on device"
    assert [path for path in cache.folder.rglob("*") if path.is_file()] == []
    cache.save("key", ARRAYS)  # not tried again
    assert cache.counts.saved == 0


def test_a_folder_that_is_a_file_costs_the_reuse_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file")
    cache.save("key", ARRAYS)
    assert cache.problem and cache.load("key") is None
    cache.prune()


def test_the_oldest_go_first_and_rests_of_killed_processes_too(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit=3000)
    now = time.time()
    for age in range(5):
        cache.save(f"key {age}", {"x": np.zeros(1000, np.uint8)})
        os.utime(cache._path(cache._name(f"key {age}")), (now - 100 * age, now - 100 * age))
    old, new = (cache._path(cache._name("key 0")).with_name(f".{name}.tmp") for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (now - 4000, now - 4000))
    assert cache.load("key 4") is not None  # used just now
    cache.prune()
    assert [cache.load(f"key {age}") is not None for age in range(5)] == [True, False, False, False, True]
    assert new.exists() and not old.exists()


def test_code_and_libraries_are_part_of_every_key(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.save("key", ARRAYS)
    monkeypatch.setattr(caches, "identity", lambda: "another version")
    assert Cache(cache.folder).load("key") is None


def test_keys_tell_apart_what_differs() -> None:
    array = np.zeros(4, np.float32)
    parts = [(), ("a",), ("a", "b"), (["a", "b"],), (1,), ("1",), (1.5,), (None,), (array,), (array.reshape(2, 2),)]
    parts += [(array.view(np.int32),), (b"a",), ({"a": 1},)]
    assert len({key_of(*part) for part in parts}) == len(parts)
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    with pytest.raises(TypeError, match="Path"):
        key_of(Path("weights"))


def test_where_it_is_and_how_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEC_CACHE_DIR", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv("EDGEC_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert default_folder() == tmp_path / "edgec"
    assert limit_bytes() == 4 << 30
    monkeypatch.setenv("EDGEC_CACHE_SIZE", "50 MiB")
    assert limit_bytes() == 50 << 20
    monkeypatch.setenv("EDGEC_CACHE_SIZE", "much")
    with pytest.raises(UsageError, match="EDGEC_CACHE_SIZE"):
        limit_bytes()
