"""The profiles that come along, and what happens to broken ones."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from edgec.errors import ProfileError
from edgec.profiles import load, names, query
from edgec.profiles.units import parse_size, size_text
from edgec.resources import profiles_directory

EXPECTED = (
    "iphone-safari",
    "laptop-8gb",
    "node-server",
    "phone-12gb",
    "phone-4gb",
    "phone-6gb",
    "phone-8gb",
    "raspberry-pi-5",
    "tablet",
)


def text_of(name: str) -> str:
    return (profiles_directory() / f"{name}.toml").read_text(encoding="utf-8")


def changed(tmp_path: Path, old: str, new: str) -> Path:
    text = text_of("phone-8gb")
    assert old in text
    path = tmp_path / "phone-8gb.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


def test_names() -> None:
    assert names() == EXPECTED


@pytest.mark.parametrize("name", EXPECTED)
def test_every_profile_loads_and_gives_a_source_for_every_number(name: str) -> None:
    profile = load(name)
    assert profile.name == name
    assert profile.missing or profile.tier == "tested"
    for key, fact in profile.facts.items():
        assert fact.key == key and fact.source.strip(), key
    assert query(profile, "memory.usable").value <= query(profile, "memory.wasm_maximum").value
    assert query(profile, "cpu.int8_simd128").value <= query(profile, "cpu.int8_relaxed").value


def test_more_memory_means_more_to_use() -> None:
    usable = [query(load(f"phone-{size}gb"), "memory.usable").value for size in (4, 6, 8, 12)]
    assert usable == sorted(usable)


def test_units() -> None:
    profile = load("phone-8gb")
    assert query(profile, "memory.usable").value == 1200 * 2**20
    assert query(profile, "cpu.bandwidth").value == 15e9
    assert query(profile, "cpu.int8_relaxed").value == 50e9
    assert query(profile, "features.relaxed_simd").value is True


def test_unknown_key_of_a_query() -> None:
    with pytest.raises(ProfileError, match=r"no key `cpu\.thread`") as caught:
        query(load("tablet"), "cpu.thread")
    assert "`cpu.threads`" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("name", "hint"), [("phone-8g", "`phone-8gb`"), ("iphone", "`iphone-safari`"), ("qwertz", "raspberry-pi-5")]
)
def test_unknown_names_get_the_closest_ones(name: str, hint: str) -> None:
    with pytest.raises(ProfileError, match=f"no profile `{name}`") as caught:
        load(name)
    assert hint in (caught.value.hint or "")


def test_a_path_is_read(tmp_path: Path) -> None:
    path = changed(tmp_path, 'value = "1200 MiB"', 'value = "1.5 GiB"')
    assert query(load(path), "memory.usable").value == 1536 * 2**20
    assert load(str(path)).name == "phone-8gb"


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("[cpu.threads]", "[cpu.thread]", ["`cpu.thread`", "did you mean `threads`", "`cpu.threads` is missing"]),
        ('title = "Android phone with 8 GB"\n', "", ["`title` is missing"]),
        ('value = "1200 MiB"', 'value = "1200 MB/s"', ["`memory.usable.value`", "`1200 MB/s`", "MiB, GiB"]),
        ('value = "1200 MiB"', 'value = "-1 MiB"', ["`memory.usable.value`", "positive"]),
        ('value = "1200 MiB"', 'value = "0.0 MiB"', ["`memory.usable.value`", "positive"]),
        ('value = "1200 MiB"', "value = 1200", ["`memory.usable.value`", "`1200`", "MiB"]),
        ('value = "50 GOP/s"', 'value = "50 GFLOPS"', ["`cpu.int8_relaxed.value`", "GOP/s, TOP/s"]),
        ('tier = "experimental"', 'tier = "best"', ["`tier`", "`tested`, `supported`, `experimental`"]),
        ('basis = "estimate"', 'basis = "guess"', ["`memory.usable.basis`", "`measured`, `published`, `estimate`"]),
        ("value = 8\n", "value = true\n", ["`cpu.cores.value`", "from 1 to 64"]),
        ("value = 8\n", "value = 65\n", ["`cpu.cores.value`", "from 1 to 64"]),
        ("value = 8\n", "value = 3\n", ["`cpu.threads.value` is `4`, more than the `3` cores"]),
        ("value = true\n", "value = 1\n", ["`features.simd128.value`", "true or false"]),
        ("value = true\n", "value = false\n", ["`features.simd128.value`", "every module"]),
        ('value = "10 GB/s"', 'value = "99 GB/s"', ["`cpu.thread_bandwidth.value`", "above"]),
        ('value = "4 GiB"', 'value = "5 GiB"', ["`memory.wasm_maximum.value`", "wasm32"]),
        ('name = "phone-8gb"', 'name = "phone-9gb"', ["`name` is `phone-9gb`", "`phone-8gb`"]),
        ("[cpu.threads]", "[cpu.threads", ["not valid TOML"]),
        ("about 1/7 of the memory, as for phone-4gb", " ", ["`memory.usable.source`", "where the number comes from"]),
    ],
)
def test_broken_profiles_name_file_key_and_what_is_allowed(
    tmp_path: Path, old: str, new: str, parts: list[str]
) -> None:
    path = changed(tmp_path, old, new)
    with pytest.raises(ProfileError) as caught:
        load(path)
    for part in ["phone-8gb.toml", *parts]:
        assert part in caught.value.message


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="cannot read"):
        load(tmp_path / "none.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProfileError, match="not valid TOML"):
        load(binary)


def test_the_schema_is_used_by_everyone() -> None:
    """Every key of the schema is in every file; nothing is optional."""
    keys = set(load("tablet").facts)
    for name in EXPECTED:
        data = tomllib.loads(text_of(name))
        groups = {k: v for k, v in data.items() if isinstance(v, dict)}
        assert {f"{group}.{key}" for group, entries in groups.items() for key in entries} == keys


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (4_249, "4.2 kB"), (81_300_000, "81.3 MB"), (2_500_000_000, "2.5 GB")]
)
def test_sizes_as_text(size: int, text: str) -> None:
    assert size_text(size) == text
    assert parse_size(text) == pytest.approx(size, rel=0.02)
