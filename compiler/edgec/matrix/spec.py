"""`matrix.toml`: models x profiles, with options for all, for a model, or for one cell.

output = "bundles"                       # beside this file
profiles = ["phone-4gb", "laptop-8gb"]
quantizer = "gptq"                       # an option of every cell

[models.smollm2]
source = "./SmolLM2-135M-Instruct"       # or a file, or a hub id
eval = { text = "wikitext.txt", tokens = 2048 }

[models.minilm]
source = "./all-MiniLM-L6-v2"
profiles = ["phone-4gb"]                 # instead of those above
task = "feature-extraction"

[[cells]]                                # options of one cell
model = "smollm2"
profile = "phone-4gb"
target_size = "60MB"
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from edgec import profiles
from edgec.errors import EdgecError, UsageError
from edgec.ir.plan import LARGEST_GROUP, NESTED_DEPTHS, TARGET_BPW, TERNARY, WEIGHT_BITS
from edgec.matrix.cell import Cell
from edgec.profiles.units import parse_size

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MEASURES = {"text": str, "pairs": str, "images": str, "tokens": int, "context": int}


class _Wrong(Exception):
    """What is allowed, for a value that is not."""


def _one_of(*allowed: Any) -> Callable[[Any, Path], Any]:
    def read(value: Any, _folder: Path) -> Any:
        if isinstance(value, bool) or value not in allowed:
            raise _Wrong(", ".join(f"`{choice}`" for choice in allowed))
        return value

    return read


def _depths(value: Any, _folder: Path) -> tuple[int, ...]:
    if not isinstance(value, list) or tuple(value) not in NESTED_DEPTHS:
        raise _Wrong("`[3]`, `[2]` or `[3, 2]`")
    return tuple(value)


def _flag(value: Any, _folder: Path) -> bool:
    if not isinstance(value, bool):
        raise _Wrong("`true` or `false`")
    return value


def _group_size(value: Any, folder: Path) -> Any:
    return LARGEST_GROUP if value == "row" else _one_of(32, 64, 128, "row")(value, folder)


def _count(value: Any, _folder: Path) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _Wrong("a whole number from 1")
    return value


def _bits_per_weight(value: Any, _folder: Path) -> float:
    least, most = TARGET_BPW
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise _Wrong(f"a number from {least} to {most}")
    return float(value)


def _bytes(value: Any, _folder: Path) -> int:
    try:
        return parse_size(value)
    except (ValueError, TypeError, AttributeError):
        raise _Wrong('a size such as "60MB"') from None


def _text(value: Any, _folder: Path) -> str:
    if not isinstance(value, str) or not value:
        raise _Wrong("a text")
    return value


def _file(value: Any, folder: Path) -> str:
    return str(folder / _text(value, folder))


def _sizes(value: Any, folder: Path) -> dict[str, int]:
    if not isinstance(value, dict):
        raise _Wrong("a table of whole numbers")
    return {name: _count(size, folder) for name, size in value.items()}


def _numbers(value: Any, _folder: Path) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(numbers, list) for numbers in value.values()):
        raise _Wrong("a table of lists of numbers")
    return value


# key -> (field of CompileOptions, how its value is read)
_OPTIONS: dict[str, tuple[str, Callable[[Any, Path], Any]]] = {
    "bits": ("bits", _one_of(TERNARY, *WEIGHT_BITS, 32)),
    "calibration": ("calibration", _file),
    "context": ("context_length", _count),
    "fix_input": ("fixed_inputs", _numbers),
    "group_size": ("group_size", _group_size),
    "kv_bits": ("kv_bits", _one_of(16, 32)),
    "max_dim": ("max_dims", _sizes),
    "nested": ("nested", _depths),
    "precision": ("precision", _one_of("auto", "float32")),
    "rotate": ("rotate", _flag),
    "quantizer": ("quantizer", _one_of("rtn", "irtn", "hqq", "awq", "gptq")),
    "target_bpw": ("target_bpw", _bits_per_weight),
    "target_size": ("target_bytes", _bytes),
    "task": ("task", _text),
}


def read_matrix(file: Path, cache: Path | None) -> list[Cell]:
    """The cells of `file`, model by model. Raises `UsageError` naming the key that is wrong."""
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"`{file}` cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"`{file}` is not valid TOML: {error}") from error
    return _Reader(file, cache).cells(document)


class _Reader:
    def __init__(self, file: Path, cache: Path | None) -> None:
        self._file = file
        self._folder = file.resolve().parent
        self._cache = None if cache is None else str(cache.resolve())

    def cells(self, document: Mapping[str, Any]) -> list[Cell]:
        self._check_keys(document, "", {"models", "profiles", "output", "eval", "cells"})
        models = document.get("models")
        if not isinstance(models, dict) or not models:
            raise self._wrong("models", "lists no model", "add a table such as [models.small] with a `source`")
        output = self._folder / self._read("output", document.get("output", "bundles"), _text)
        common, single = self._options(document, ""), self._single_cells(document, models)
        found = []
        for name, model in models.items():
            where = f"models.{name}"
            if not _NAME.fullmatch(name):
                raise self._wrong(where, "is no name for files", "take letters, digits, `.`, `_` and `-`")
            if not isinstance(model, dict):
                raise self._wrong(where, "is not a table")
            self._check_keys(model, f"{where}.", {"source", "profiles", "eval"})
            source = self._source(self._read(f"{where}.source", model.get("source"), _text))
            key = f"{where}.profiles" if "profiles" in model else "profiles"
            own = self._options(model, f"{where}.")
            measure = self._measure(f"{where}.eval", model.get("eval", document.get("eval", {})))
            for profile in self._profiles(key, model.get("profiles", document.get("profiles"))):
                options = {**common, **own, **single.pop((name, profile), {})}
                target = str(output / f"{name}-{Path(profile).stem}.edgec")
                cell = Cell(name, profile, source, target, {"name": name, **options}, measure, self._cache)
                found.append(cell)
        for name, profile in single:
            raise self._wrong("cells", f"has `{name}` for `{profile}`, which is not in the matrix")
        outputs = [cell.output for cell in found]
        twice = next((cell for cell in found if outputs.count(cell.output) > 1), None)
        if twice is not None:
            raise self._wrong("profiles", f"give `{twice.model}` the output `{twice.output}` twice")
        return found

    def _single_cells(
        self, document: Mapping[str, Any], models: Iterable[str]
    ) -> dict[tuple[str, str], dict[str, Any]]:
        cells = document.get("cells", [])
        if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
            raise self._wrong("cells", "is not a list of tables")
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for index, cell in enumerate(cells):
            where = f"cells[{index}]."
            self._check_keys(cell, where, {"model", "profile"})
            model = self._read(f"{where}model", cell.get("model"), _one_of(*models))
            profile = self._profile(f"{where}profile", cell.get("profile"))
            if (model, profile) in found:
                raise self._wrong("cells", f"has `{model}` for `{profile}` twice")
            found[model, profile] = self._options(cell, where)
        return found

    def _options(self, table: Mapping[str, Any], where: str) -> dict[str, Any]:
        return {
            field: self._read(f"{where}{key}", table[key], read)
            for key, (field, read) in _OPTIONS.items()
            if key in table
        }

    def _measure(self, where: str, table: Any) -> dict[str, Any]:
        if not isinstance(table, dict):
            raise self._wrong(where, "is not a table", 'for example `eval = { text = "wikitext.txt" }`')
        for key, value in table.items():
            if key not in _MEASURES:
                raise self._unknown(f"{where}.{key}", key, _MEASURES)
            self._read(f"{where}.{key}", value, _text if _MEASURES[key] is str else _count)
        return {key: str(self._folder / v) if _MEASURES[key] is str else v for key, v in table.items()}

    def _profiles(self, where: str, names: Any) -> list[str]:
        if not isinstance(names, list) or not names:
            raise self._wrong(where, "lists no device", f"choose among {', '.join(profiles.names())}")
        return [self._profile(where, name) for name in names]

    def _profile(self, where: str, name: Any) -> str:
        text = self._read(where, name, _text)
        known = str(self._folder / text) if text.endswith(".toml") else text
        try:
            profiles.load(known)
        except EdgecError as error:
            raise self._wrong(where, f"names a profile that cannot be used: {error.message}", error.hint) from error
        return known

    def _source(self, text: str) -> str:
        """A path beside the file if there is one, else a hub id, which the frontend looks at."""
        path = self._folder / text
        return str(path) if path.exists() or text.startswith((".", "/")) else text

    def _read(self, where: str, value: Any, read: Callable[[Any, Path], Any]) -> Any:
        if value is None:
            raise self._wrong(where, "is missing")
        try:
            return read(value, self._folder)
        except _Wrong as allowed:
            raise self._wrong(where, f"is `{value}`, allowed is {allowed}") from None

    def _check_keys(self, table: Mapping[str, Any], where: str, others: set[str]) -> None:
        known = {*_OPTIONS, *others}
        for key in table:
            if key not in known:
                raise self._unknown(f"{where}{key}", key, known)

    def _unknown(self, where: str, key: str, known: Iterable[str]) -> UsageError:
        close = difflib.get_close_matches(key, list(known), 1)
        allowed = ", ".join(f"`{name}`" for name in sorted(known))
        return self._wrong(where, "is not a key", f"did you mean `{close[0]}`?" if close else f"known are {allowed}")

    def _wrong(self, where: str, problem: str, hint: str | None = None) -> UsageError:
        return UsageError(f"in `{self._file}`, `{where}` {problem}", hint=hint)


__all__ = ["read_matrix"]
