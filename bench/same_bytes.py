"""Real models, compiled again elsewhere, and killed on the way: are the bundles the same bytes?

    python bench/same_bytes.py --models DIR --data DIR --work DIR [--only NAME ...] [--plain] [--report PAGE]

The models are those of `real_models.toml`; each is also compiled for a target (`--target-bpw 5`), which measures
sensitivities, rounds by GPTQ and searches, and language models with nested codes (`--bits 4 --nested 3,2`). A
compilation is done

    as it is        in one folder, with one thread for each library, in the C locale
    elsewhere       in another folder, with two threads, another locale, time zone and hash seed, all its processes on
                    one processor, the model's files copied
    killed          with SIGKILL for the whole process group, again and again, at moments chosen by a seed; then once
                    more to the end, on what the earlier ones have finished

without sharing a cache, and the files of the bundles are compared by SHA-256. What a killed compilation leaves at the
output is nothing or the whole bundle. What is finished is kept in --work.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from real_models import EDGEC, PROFILE, Entry, entries

from edgec.whole_file import whole_file

HERE = Path(__file__).resolve().parent
# What follows the name of the folder of --work, and the options.
NO_OPTIONS: dict[str, tuple[str, ...]] = {"": ()}
TARGET = {"-target": ("--target-bpw", "5")}
NESTED = {"-nested": ("--bits", "4", "--nested", "3,2")}
_PLAIN = {"LC_ALL": "C", "TZ": "UTC", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "1"}
_OTHER = {
    "LC_ALL": "C.utf8",
    "TZ": "Pacific/Auckland",
    "OMP_NUM_THREADS": "2",
    "OPENBLAS_NUM_THREADS": "2",
    "PYTHONHASHSEED": "77",
}


@dataclass(frozen=True)
class Found:
    """What became of one model and one set of options."""

    model: str
    options: str
    files: int
    bytes: int
    sha256: str  # over names and contents of the files
    elsewhere: bool  # the same
    killed: bool  # the same
    kills: int
    reused: int  # finished pieces of work that the last run after the kills found
    made: int  # and those that it had to make
    seconds: float  # of one compilation from nothing
    last_seconds: float  # of the last run after the kills


def content(bundle: Path) -> tuple[int, int, str]:
    """Number of files, bytes and a SHA-256 over names and contents."""
    digest, size = hashlib.sha256(), 0
    files = sorted(path for path in bundle.rglob("*") if path.is_file())
    for path in files:
        data = path.read_bytes()
        size += len(data)
        digest.update(f"{path.relative_to(bundle).as_posix()}\0{len(data)}\0".encode() + data)
    return len(files), size, digest.hexdigest()


def compilation(source: Path, options: Sequence[str], work: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Begin one in the folder `work`, with a cache of its own there."""
    work.mkdir(parents=True, exist_ok=True)
    arguments = [
        "compile",
        str(source),
        "--profile",
        PROFILE,
        *options,
        "-o",
        "out.edgec",
        "--cache",
        "cache",
        "--json",
        "--force",
    ]
    return subprocess.Popen(
        [*EDGEC, *arguments],
        cwd=work,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(process: subprocess.Popen[str]) -> dict[str, dict[str, int]]:
    """The JSON that it printed; fails as it does."""
    out, error = process.communicate()
    if process.returncode:
        raise SystemExit(f"edgec compile ended with {process.returncode}\n{error}")
    found: dict[str, dict[str, int]] = json.loads(out)
    return found


def on_one_processor(process: subprocess.Popen[str]) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})


def measure(entry: Entry, extra: Sequence[str], work: Path, kills: int) -> Found:
    options = [*entry.options["compile"], *extra]
    plain, other, mortal = (work / name for name in ("plain", "other", "mortal"))
    for folder in (plain, other, mortal):
        shutil.rmtree(folder, ignore_errors=True)

    begin = time.perf_counter()
    finished(compilation(entry.source, options, plain, _PLAIN))
    seconds = time.perf_counter() - begin
    files, size, expected = content(plain / "out.edgec")

    copy = other / "a copy" / entry.source.name
    copy.parent.mkdir(parents=True)
    shutil.copytree(entry.source, copy) if entry.source.is_dir() else shutil.copy(entry.source, copy)
    process = compilation(copy, [*options, "--name", name_of(plain)], other, _OTHER)
    on_one_processor(process)
    finished(process)

    choice, killed = random.Random(f"{entry.name} {extra}"), 0
    for _ in range(kills):
        process = compilation(entry.source, options, mortal, _PLAIN)
        try:
            process.wait(choice.uniform(0.1, 0.9) * seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
            process.communicate()
            left = mortal / "out.edgec"
            if left.exists():  # killed after it was renamed: whole, or the write is at fault
                if content(left)[2] != expected:
                    raise SystemExit(f"{entry.name}: a killed compilation left an unfinished bundle") from None
                shutil.rmtree(left)
        else:
            finished(process)
            break  # what was finished before was enough
    begin = time.perf_counter()
    last = finished(compilation(entry.source, options, mortal, _PLAIN))["cache"]
    return Found(
        entry.name,
        " ".join(extra),
        files,
        size,
        expected,
        content(other / "out.edgec")[2] == expected,
        content(mortal / "out.edgec")[2] == expected,
        killed,
        last["reused"],
        last["missing"],
        seconds,
        time.perf_counter() - begin,
    )


def name_of(work: Path) -> str:
    """The model's name in the bundle of `work`."""
    return str(json.loads((work / "out.edgec" / "manifest.json").read_text())["model"]["name"])


def page(rows: Iterable[Found]) -> str:
    rows = list(rows)
    good = sum(row.elsewhere and row.killed for row in rows)
    lines = [
        "# The same bytes",
        "",
        "This page is written by `bench/same_bytes.py`. Every model is compiled for the profile",
        f"`{PROFILE}` three times without a common cache: as it is; elsewhere (another folder, locale, time zone",
        "and hash seed, two threads instead of one, one processor instead of two); and killed with SIGKILL at chance",
        "moments, then finished; *reused, made* are the pieces of work of the last run then.",
        f"The bundles are the same bytes in {good} of {len(rows)} rows.",
        "",
        "| model | options | files | MB | SHA-256 | elsewhere | killed | kills | reused, made | seconds, at last |",
        "|---|---|--:|--:|---|---|---|--:|--:|--:|",
    ]
    for row in rows:
        lines.append(
            f"| {row.model} | {row.options} | {row.files} | {row.bytes / 1e6:.2f} | {row.sha256[:12]} | "
            f"{'same' if row.elsewhere else '**differs**'} | {'same' if row.killed else '**differs**'} | {row.kills} | "
            f"{row.reused}, {row.made} | {row.seconds:.0f}, {row.last_seconds:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="bundles and what is finished")
    parser.add_argument("--only", action="append", metavar="NAME", help="this model; may be given again")
    parser.add_argument("--plain", action="store_true", help="without options, nothing more")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--report", type=Path, help="write the page there")
    arguments = parser.parse_args()
    places = {"data": str(arguments.data.resolve()), "tasks": str(HERE.parent / "web_demo" / "tasks"), "line": ""}
    rows = []
    for entry in entries(HERE / "real_models.toml", arguments.models.resolve(), places):
        if arguments.only and entry.name not in arguments.only:
            continue
        nested = NESTED if entry.what.startswith("language model") else {}
        for suffix, extra in (NO_OPTIONS if arguments.plain else NO_OPTIONS | TARGET | nested).items():
            work = arguments.work.resolve() / f"{entry.name}{suffix}"
            kept = work / "found.json"
            if not kept.is_file():
                found = measure(entry, extra, work, arguments.kills)
                with whole_file(kept) as partial:
                    partial.write_text(json.dumps(dataclasses.asdict(found)))
            rows.append(Found(**json.loads(kept.read_text())))
            print(rows[-1], file=sys.stderr)
    if arguments.report:
        with whole_file(arguments.report) as partial:
            partial.write_text(page(rows))
    print(page(rows))


if __name__ == "__main__":
    main()
