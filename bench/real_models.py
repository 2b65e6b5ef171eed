"""Real models, compiled and judged in every engine; writes docs/models.md.

    python bench/real_models.py --models DIR --data DIR --work DIR [--only NAME ...] [--report docs/models.md]

`real_models.toml` says which models, and where they lie. Each is compiled, compared with the float one (`edgec eval`),
asked once (`edgec run`), and its bundle's golden outputs are computed again in wasmtime, Node, Chromium and Firefox
(`edgec verify --run`). What is finished is kept in --work, so that a run can be interrupted; --report writes of what is
there.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgec.whole_file import whole_file

PROFILE = "phone-8gb"
EDGEC = (sys.executable, "-c", "from edgec.cli import main; main()")  # the command line of this Python
ENGINES = ("wasmtime", "node", "chromium", "firefox")
LINE = "The quick brown fox jumps over 13 lazy dogs"


@dataclass(frozen=True)
class Entry:
    """One model of the list; `source` exists."""

    name: str
    what: str
    source: Path
    options: Mapping[str, tuple[str, ...]]  # of `edgec compile`, `eval` and `run`
    expect: str | None


def entries(path: Path, models: Path, places: Mapping[str, str]) -> list[Entry]:
    """Those of the list that are here; says which are not."""
    found = []
    for row in tomllib.loads(path.read_text())["model"]:
        source = models / row["model"] if "model" in row else _in_package(row["package"])
        if source is None or not source.exists():
            print(f"{row['name']}: not here", file=sys.stderr)
            continue
        options = {
            key: tuple(text.format_map(places) for text in row.get(key, ())) for key in ("compile", "eval", "run")
        }
        found.append(Entry(row["name"], row["what"], source, options, row.get("expect")))
    return found


def _in_package(path: str) -> Path | None:
    name, _, rest = path.partition("/")
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent / rest if spec and spec.origin else None


def edgec(*arguments: str | Path) -> str:
    """What the command prints; its complaint, if it fails, ends this run."""
    done = subprocess.run([*EDGEC, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"edgec {' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}")
    return done.stdout


def judge(entry: Entry, work: Path) -> dict[str, Any]:
    """Compile it, and all that the page says of it."""
    bundle = work / f"{entry.name}.edgec"
    options = entry.options
    made = json.loads(
        edgec("compile", entry.source, "-p", PROFILE, "-o", bundle, "--force", *options["compile"], "--json")
    )
    row: dict[str, Any] = {
        "name": entry.name,
        "what": entry.what,
        "download_bytes": made["bytes"],
        "float32_bytes": _float32_bytes(bundle),
        "seconds": sum(stage["seconds"] for stage in made["stages"]),
        "loss": None,
        "said": None,
    }
    if options["eval"]:
        row["loss"] = json.loads(edgec("eval", bundle, entry.source, *options["eval"], "--json"))
    if options["run"]:
        row["said"] = edgec("run", bundle, *options["run"], "-q").strip()
        if entry.expect is not None and entry.expect not in row["said"]:
            sys.exit(f"{entry.name} says {row['said']!r}, not {entry.expect!r}")
    engines = [text for name in ENGINES for text in ("--engine", name)]
    row["engines"] = json.loads(edgec("verify", "--run", *engines, bundle, "--json"))["self_tests"]
    return row


def _float32_bytes(bundle: Path) -> int:
    """Of the weights, were they all float32."""
    found = json.loads(edgec("inspect", bundle, "--json"))
    return int(found["float_bytes"]) + 4 * sum(tensor["rows"] * tensor["columns"] for tensor in found["tensors"])


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "# Real models",
        "",
        "This page is written by `bench/real_models.py`; `bench/real_models.toml` is the list.",
        "",
        f"Compiled for `{PROFILE}` as they are, without options. *Loss* is against the float model, same data, in",
        "onnxruntime. *Same bits*: the engine computed the outputs that the bundle keeps of the compiler's run, in all",
        "of its modules that run there (wasmtime), or in the one that it chooses (others).",
        "",
        "| model | | compiled in | bundle | of float32 | loss | same bits: wasmtime | Node | Chromium | Firefox |",
        "|---|---|--:|--:|--:|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["name"], row["what"], f"{row['seconds']:.0f} s", f"{row['download_bytes'] / 1e6:.1f} MB"]
        cells.append(f"{row['download_bytes'] / row['float32_bytes']:.0%}")
        cells.append(_loss(row["loss"]) if row["loss"] else "-")
        cells += [_same(row["engines"], engine) for engine in ENGINES]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "What they say:", ""]
    lines += [f"- {row['name']}: {_quoted(row['said'])}" for row in rows if row["said"]]
    return "\n".join(lines) + "\n"


def _quoted(said: str) -> str:
    return " ".join(said.split())


def _loss(found: Mapping[str, Any]) -> str:
    measures = {
        "perplexity": "perplexity {reference_perplexity:.2f} -> {perplexity:.2f}, top-1 {top1_agreement:.1%} the same",
        "spearman": "Spearman {reference_spearman:.4f} -> {spearman:.4f}",
        "top1": "top-1 {reference_top1:.3f} -> {top1:.3f}",
        "found": "{found} of {reference_boxes} boxes, {extra} others",
    }
    text = next((form.format_map(found) for key, form in measures.items() if key in found), None)
    return text if text is not None else f"{found['loss']:.4f}"


def _same(tests: Sequence[Mapping[str, Any]], engine: str) -> str:
    here = [test for test in tests if test["engine"] == engine]
    if any(test["passed"] is None for test in here):
        return "untested"
    same = sum(bool(test["passed"]) for test in here)
    modules = here[0]["variant"] if len(here) == 1 else f"{len(here)} modules"
    return f"yes ({modules})" if same == len(here) else f"**{len(here) - same} of {len(here)} differ**"


def render_line(target: Path) -> Path:
    """A picture with one line of text."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (960, 120), "white")
    ImageDraw.Draw(picture).text((40, 36), LINE, fill="black", font=ImageFont.load_default(size=40))
    picture.save(target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="bundles and finished rows")
    parser.add_argument("--only", nargs="*", help="names of the list")
    parser.add_argument("--report", type=Path)
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    tasks = Path(__file__).parents[1] / "web_demo" / "tasks"
    places = {"data": str(arguments.data), "tasks": str(tasks), "line": str(render_line(work / "line.png"))}
    listed = entries(Path(__file__).with_suffix(".toml"), arguments.models, places)
    for entry in listed:
        kept = work / f"{entry.name}.json"
        if (arguments.only and entry.name not in arguments.only) or kept.exists():
            continue
        print(f"{entry.name} ...", file=sys.stderr)
        row = judge(entry, work)
        with whole_file(kept) as partial:
            partial.write_text(json.dumps(row, indent=1))
    if arguments.report:
        kept_rows = [work / f"{entry.name}.json" for entry in listed]
        with whole_file(arguments.report) as partial:
            partial.write_text(page([json.loads(path.read_text()) for path in kept_rows if path.exists()]))


if __name__ == "__main__":
    main()
