"""Who may import whom. ARCHITECTURE.md draws the same picture."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import edgec

PACKAGE = Path(edgec.__file__).parent

GROUND = {"errors", "resources", "whole_file"}
SHARED = GROUND | {"ir", "passes", "profiles"}
# part of edgec -> the other parts that it may import
MAY_IMPORT = {
    "errors": set(),
    "whole_file": set(),
    "resources": set(),
    "memory": set(),
    "cache": SHARED,
    "pictures": {"errors"},
    "ir": GROUND,
    "profiles": GROUND,
    "passes": GROUND | {"ir"},
    "frontend": SHARED,
    "plan": SHARED,
    "compress": SHARED | {"pictures"},
    "lower": SHARED,
    "report": SHARED,
    "bundle": SHARED | {""},  # writes the version into the manifest
    "slim": SHARED | {"plan", "compress"},  # searches over what both can do
    "heal": SHARED | {"compress"},  # trains what was slimmed
    "run": SHARED | {"bundle", "pictures"},  # what it reads
    "eval": SHARED | {"frontend", "compress", "bundle", "run"},  # compares a bundle with its source
    "dumps": SHARED | {"pipeline", "bundle"},
    "pipeline": SHARED
    | {"frontend", "slim", "plan", "heal", "compress", "lower", "bundle", "run", "report", "dumps", "memory", "cache"}
    | {"adapters"},
    "matrix": SHARED | {"pipeline"},  # many compilations
    "adapters": SHARED | {"frontend", "bundle"},  # an adapter's folder as a file for a bundle
    "cli": None,  # everything
    "": {"errors", "pipeline", "run"},  # edgec/__init__.py
}
# third-party packages that only one part may import, because they are large, fragile or optional
ONLY_IN = {
    "tvm": {"lower"},
    "tvm_ffi": {"lower"},
    "wasmtime": {"run", "cli"},
    "av": {"run"},
    "onnxruntime": {"passes", "eval", "frontend", "compress"},
    "gguf": {"frontend"},
    "safetensors": {"frontend", "heal"},
    "torch": {"frontend", "heal"},
    "transformers": {"frontend"},
    "optimum": {"frontend"},
    "huggingface_hub": {"frontend"},
    "distributed": {"matrix"},
    "click": {"cli"},
    "rich": {"cli"},
}
NEVER = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


def part_of(file: Path) -> str:
    first = file.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import, also those inside functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} is a relative import"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def imported_part(name: str) -> str | None:
    """The part of edgec behind a dotted name, None for other packages."""
    package, _, rest = name.partition(".")
    if package != "edgec":
        return None
    first = rest.partition(".")[0]
    return first if (first and (PACKAGE / first).exists()) or (PACKAGE / f"{first}.py").exists() else ""


def test_every_part_is_in_the_table() -> None:
    parts = {part_of(file) for file in PACKAGE.rglob("*.py")}
    assert parts - set(MAY_IMPORT) == set()


def test_parts_import_only_what_lies_below_them() -> None:
    wrong = []
    for file in sorted(PACKAGE.rglob("*.py")):
        part = part_of(file)
        allowed = MAY_IMPORT[part]
        for line, name in imports(file):
            other = imported_part(name)
            if other is not None and other != part and allowed is not None and other not in allowed:
                wrong.append(f"{file.relative_to(PACKAGE)}:{line}: `{part or 'edgec'}` may not import `{name}`")
    assert wrong == []


def test_some_packages_stay_in_their_corner() -> None:
    wrong = []
    for file in sorted(PACKAGE.rglob("*.py")):
        part = part_of(file)
        for line, name in imports(file):
            package = name.partition(".")[0]
            if package in NEVER or part not in ONLY_IN.get(package, {part}):
                wrong.append(f"{file.relative_to(PACKAGE)}:{line}: `{part}` may not import `{package}`")
    assert wrong == []
