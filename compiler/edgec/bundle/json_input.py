"""Reading untrusted JSON: strict syntax, then typed access that names the offending field."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from edgec.errors import BundleError

MAX_DEPTH = 64
MAX_SAFE_INTEGER = 2**53 - 1  # what JavaScript holds exactly
_MAX_INTEGER_DIGITS = 30  # beyond that a float says as much, and Python's int() refuses thousands


def invalid(where: str, problem: str) -> BundleError:
    return BundleError(f"the manifest is invalid: `{where}` {problem}", finding="manifest-invalid")


def parse(data: bytes) -> Node:
    """The root of a strict JSON document."""
    try:
        text = data.decode("utf-8")
        root = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant, parse_int=_integer)
    except RecursionError:
        raise invalid("manifest.json", f"nests deeper than {MAX_DEPTH} levels") from None
    except (UnicodeDecodeError, ValueError) as error:
        raise invalid("manifest.json", f"is not JSON in UTF-8 ({error})") from None
    _check_depth(root)
    return Node(root, "")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object has a key twice")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_INTEGER_DIGITS else float(digits)


def _check_depth(root: Any) -> None:
    level = [root]
    for _ in range(MAX_DEPTH):
        level = [child for value in level if isinstance(value, (dict, list)) for child in _children(value)]
        if not level:
            return
    raise invalid("manifest.json", f"nests deeper than {MAX_DEPTH} levels")


def _children(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


class Node:
    """A JSON value and its path. Every accessor raises `BundleError` when the value is something else."""

    def __init__(self, value: Any, path: str) -> None:
        self.value = value
        self.path = path or "manifest.json"
        self._prefix = f"{path}." if path else ""

    def fail(self, problem: str) -> BundleError:
        return invalid(self.path, problem)

    def is_null(self) -> bool:
        return self.value is None

    # objects and lists

    def mapping(self) -> dict[str, Any]:
        if not isinstance(self.value, dict):
            raise self.fail("is not an object")
        return self.value

    def fields(self, required: Iterable[str], optional: Iterable[str] = ()) -> None:
        """The object has all of `required`, maybe some of `optional`, nothing else."""
        have, needed = self.mapping().keys(), set(required)
        for name in sorted(needed - have):
            raise self.fail(f"lacks `{name}`")
        for name in sorted(have - needed - set(optional)):
            raise self.fail(f"has an unknown field `{name}`")

    def __getitem__(self, name: str) -> Node:
        value = self.mapping()
        if name not in value:
            raise self.fail(f"lacks `{name}`")
        return Node(value[name], f"{self._prefix}{name}")

    def get(self, name: str) -> Node | None:
        return self[name] if name in self.mapping() else None

    def items(self) -> Iterator[tuple[str, Node]]:
        for name, value in self.mapping().items():
            yield name, Node(value, f"{self._prefix}{name}")

    def elements(self) -> Iterator[Node]:
        if not isinstance(self.value, list):
            raise self.fail("is not a list")
        for index, value in enumerate(self.value):
            yield Node(value, f"{self.path}[{index}]")

    # scalars

    def integer(self, low: int, high: int = MAX_SAFE_INTEGER, *, multiple: int = 1) -> int:
        value = self.value
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.fail("is not an integer")
        if not low <= value <= high:
            raise self.fail(f"is {value}, allowed are {low} to {high}")
        if value % multiple:
            raise self.fail(f"is {value}, not a multiple of {multiple}")
        return value

    def number(self) -> float:
        """A finite number."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= 1.7976931348623157e308:
            raise self.fail("is not a finite number")
        return float(value)

    def boolean(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.fail("is not true or false")
        return self.value

    def string(self, pattern: re.Pattern[str] | None = None) -> str:
        if not isinstance(self.value, str):
            raise self.fail("is not a string")
        if pattern is not None and not pattern.fullmatch(self.value):
            raise self.fail(f"is {_shown(self.value)}, which does not match `{pattern.pattern}`")
        return self.value

    def choice(self, allowed: Iterable[str]) -> str:
        names = tuple(allowed)
        if not isinstance(self.value, str) or self.value not in names:
            raise self.fail(f"is {_shown(self.value)}, allowed are {', '.join(f'`{name}`' for name in names)}")
        return self.value

    def strings(self) -> tuple[str, ...]:
        return tuple(element.string() for element in self.elements())

    def free_object(self) -> Mapping[str, Any]:
        return self.mapping()


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return f"`{text if len(text) <= 60 else text[:57] + '...'}`"
