"""A device class, read from TOML: what it can hold, how fast it is, and where each number comes from."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgec.errors import ProfileError
from edgec.profiles.schema import problems
from edgec.profiles.units import parse_quantity
from edgec.resources import profiles_directory

Tier = Literal["tested", "supported", "experimental"]
Basis = Literal["measured", "published", "estimate"]


@dataclass(frozen=True)
class Fact:
    """One number (or yes or no) of a profile."""

    key: str  # "memory.usable"
    value: int | float | bool  # bytes, bytes per second, operations per second, a count, or yes/no
    text: str  # as the file writes it, "1400 MiB"
    basis: Basis
    source: str


@dataclass(frozen=True)
class Profile:
    """`facts` holds every number; read them with `query`."""

    name: str
    title: str
    tier: Tier
    missing: str  # for the next tier
    platform: Literal["browser", "node"]
    facts: Mapping[str, Fact]


def query(profile: Profile, key: str) -> Fact:
    """The fact `key`, such as `cpu.threads`. Raises `ProfileError` for keys that profiles do not have."""
    fact = profile.facts.get(key)
    if fact is None:
        raise ProfileError(f"profiles have no key `{key}`", hint=_did_you_mean(key, list(profile.facts)))
    return fact


def names() -> tuple[str, ...]:
    """Names of the profiles that edgec brings along, in alphabetical order."""
    return tuple(sorted(path.stem for path in profiles_directory().glob("*.toml")))


def load(name_or_path: str | Path) -> Profile:
    """The profile of this name, or in this `.toml` file.

    Raises `ProfileError` for an unknown name (with the closest ones) and for a file that cannot be
    read or breaks the schema (with file, key and what is allowed).
    """
    text = str(name_or_path)
    if text.endswith(".toml"):
        return _read(Path(text))
    if text not in names():
        raise ProfileError(f"there is no profile `{text}`", hint=_did_you_mean(text, list(names())))
    return _read(profiles_directory() / f"{text}.toml")


def _did_you_mean(word: str, known: list[str]) -> str:
    parts = [name for name in known if word and word in name]  # difflib overrates what has the same length
    close = parts[:3] or difflib.get_close_matches(word, known, 3, 0.5)
    if close:
        return f"did you mean {' or '.join(f'`{name}`' for name in close)}?"
    return f"choose one of {', '.join(known)}"


def _read(path: Path) -> Profile:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProfileError(f"cannot read the profile `{path}`: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"the profile `{path}` is not valid TOML: {error}") from error
    schema = json.loads((profiles_directory() / "schema.json").read_text(encoding="utf-8"))
    found = list(problems(schema, data))
    if not found:
        found = _contradictions(path, data)
    if found:
        raise ProfileError(
            f"in the profile `{path}`, {'; '.join(found)}", hint="device_profiles/README.md explains each key"
        )
    facts = {
        f"{group}.{key}": _fact(f"{group}.{key}", entry) for group in _GROUPS for key, entry in data[group].items()
    }
    return Profile(data["name"], data["title"], data["tier"], data["missing"], data["platform"], facts)


_GROUPS = ("memory", "cpu", "features", "budget")


def _fact(key: str, entry: Mapping[str, Any]) -> Fact:
    value = entry["value"]
    number = parse_quantity(value) if isinstance(value, str) else value
    if key.startswith(("memory.", "budget.")):
        number = int(number)
    text = ("yes" if value else "no") if isinstance(value, bool) else str(value)
    return Fact(key, number, text, entry["basis"], entry["source"])


def _contradictions(path: Path, data: Mapping[str, Any]) -> list[str]:
    """What a schema cannot say."""
    found = []
    if data["name"] != path.stem:
        found.append(f"`name` is `{data['name']}`, expected the file's name `{path.stem}`")
    cpu = {key: entry["value"] for key, entry in data["cpu"].items()}
    if cpu["threads"] > cpu["cores"]:
        found.append(f"`cpu.threads.value` is `{cpu['threads']}`, more than the `{cpu['cores']}` cores")
    if parse_quantity(cpu["thread_bandwidth"]) > parse_quantity(cpu["bandwidth"]):
        found.append("`cpu.thread_bandwidth.value` is above `cpu.bandwidth.value`, that of all threads")
    if parse_quantity(data["memory"]["wasm_maximum"]["value"]) > 4 << 30:
        found.append("`memory.wasm_maximum.value` is above `4 GiB`, the most that wasm32 can address")
    if not data["features"]["simd128"]["value"]:
        found.append("`features.simd128.value` is `False`, but every module of edgec needs it")
    return found


__all__ = ["Basis", "Fact", "Profile", "Tier", "load", "names", "query"]
