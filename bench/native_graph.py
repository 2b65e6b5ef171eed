"""onnxruntime outside of any browser: answers lines of JSON from graphs.mjs, see lib/native.mjs.

Usage: native_graph.py MODEL.onnx CASE THREADS; CASE is a folder with `case.json`, see make_graphs.py.
`{"run": seconds}` gives what `measure` in pages/case.mjs gives.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


def read(slot: dict[str, Any], folder: Path) -> np.ndarray:
    return np.fromfile(folder / slot["file"], slot["dtype"]).reshape(slot["shape"])


class Engine:
    def __init__(self, model: str, folder: Path, threads: int) -> None:
        case = json.loads((folder / "case.json").read_text())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        for name, size in case["sizes"].items():
            options.add_free_dimension_override_by_name(name, size)
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.inputs = {slot["name"]: read(slot, folder) for slot in case["inputs"]}
        self.expected = {slot["name"]: read(slot, folder) for slot in case["outputs"]}

    def run(self, seconds: float) -> dict[str, Any]:
        times = []
        until = time.perf_counter() + seconds
        while len(times) < 3 or time.perf_counter() < until:
            started = time.perf_counter()
            outputs = self.session.run(list(self.expected), self.inputs)
            times.append(time.perf_counter() - started)
        errors = [error(*pair) for pair in zip(outputs, self.expected.values(), strict=True)]
        cosine, largest = min(each[0] for each in errors), max(each[1] for each in errors)
        return {
            "seconds": statistics.median_high(times),
            "fastest": min(times),
            "calls": len(times),
            "error": {"cosine": cosine, "largest": largest},
        }


def error(actual: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    a, b = actual.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    return float(a @ b / np.sqrt((a @ a) * (b @ b))), float(np.abs(a - b).max() / np.abs(b).max())


def main() -> None:
    model, folder, threads = sys.argv[1:]
    engine = Engine(model, Path(folder), int(threads))
    print(json.dumps({"version": onnxruntime.__version__}), flush=True)
    for line in sys.stdin:
        print(json.dumps(engine.run(json.loads(line)["run"])), flush=True)


if __name__ == "__main__":
    main()
