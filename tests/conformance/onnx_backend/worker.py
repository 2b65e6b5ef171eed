"""Classifies the cases named on standard input, one JSON line each, in a process that may die of one."""

from __future__ import annotations

import dataclasses
import json
import sys

from tests.conformance.onnx_backend.suite import cases, classify


def main() -> None:
    known = cases()
    print("ready", flush=True)
    for line in sys.stdin:
        outcome = classify(known[line.strip()])
        print(json.dumps(dataclasses.asdict(outcome)), flush=True)


if __name__ == "__main__":
    main()
