"""The part of JSON Schema that `device_profiles/schema.json` uses, with messages for people.

The schema file is the only list of keys, units and allowed values; editors read the same file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

_TYPES: dict[str, type] = {"object": dict, "string": str, "boolean": bool, "integer": int}


def problems(schema: Mapping[str, Any], data: Any) -> Iterator[str]:
    """What is wrong with `data`, each as `key` and a clause; nothing when it follows the schema."""
    yield from _check(schema, schema, data, ())


def _check(root: Mapping[str, Any], schema: Mapping[str, Any], data: Any, path: tuple[str, ...]) -> Iterator[str]:
    schema = _resolve(root, schema)
    key = f"`{'.'.join(path)}`" if path else "the file"
    if "enum" in schema:
        if data not in schema["enum"]:
            yield f"{key} is {_shown(data)}, expected one of {_listed(schema['enum'])}"
        return
    kind = schema["type"]
    if not _is(kind, data) or not _allowed(schema, data):
        yield f"{key} is {_shown(data)}, expected {schema.get('description', _article(kind))}"
    elif kind == "object":
        yield from _check_object(root, schema, data, path)


def _is(kind: str, data: Any) -> bool:
    if isinstance(data, bool):  # which is an int in Python
        return kind == "boolean"
    return isinstance(data, _TYPES[kind])


def _allowed(schema: Mapping[str, Any], data: Any) -> bool:
    if "pattern" in schema:
        return re.search(schema["pattern"], data) is not None
    if "minimum" in schema:
        return bool(schema["minimum"] <= data <= schema["maximum"])
    return True


def _check_object(
    root: Mapping[str, Any], schema: Mapping[str, Any], data: dict[str, Any], path: tuple[str, ...]
) -> Iterator[str]:
    known = schema["properties"]
    where = f" in `{'.'.join(path)}`" if path else ""
    for name in data:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            guess = f", did you mean `{close[0]}`" if close else ""
            yield f"`{'.'.join((*path, name))}` is not a key{guess} (allowed{where}: {_listed(known)})"
    for name in schema["required"]:
        if name not in data:
            yield f"`{'.'.join((*path, name))}` is missing (required{where}: {_listed(schema['required'])})"
    for name, value in data.items():
        if name in known:
            yield from _check(root, known[name], value, (*path, name))


def _resolve(root: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    for part in reference.removeprefix("#/").split("/"):
        root = root[part]
    return root


def _shown(data: Any) -> str:
    return "a table" if isinstance(data, dict) else f"`{data}`"


def _article(kind: str) -> str:
    return {"object": "a table", "boolean": "true or false"}.get(kind, f"a {kind}")


def _listed(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)


__all__ = ["problems"]
