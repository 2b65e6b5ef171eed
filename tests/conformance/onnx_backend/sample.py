"""A sample of the cases that pass, compiled once for the browsers."""

from __future__ import annotations

import base64
import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from onnx.backend.test.case.test_case import TestCase

from tests.conformance.onnx_backend import lists
from tests.conformance.onnx_backend.suite import (
    STATED,
    as_asked,
    cases,
    compile_case,
    data_sets,
    difference,
    operator_of,
)

_FLOATS = ("float16", "bfloat16")  # a Float32Array in JavaScript
_ARRAYS = {
    "float32": "Float32Array",
    "float64": "Float64Array",
    "int8": "Int8Array",
    "int16": "Int16Array",
    "int32": "Int32Array",
    "int64": "BigInt64Array",
    "uint8": "Uint8Array",
    "uint16": "Uint16Array",
    "uint32": "Uint32Array",
    "uint64": "BigUint64Array",
    "bool": "Uint8Array",
}


def choose(count: int, seed: int) -> list[str]:
    """Names of cases that pass with no input fixed, spread over operators: one of each, a second of each, ..."""
    known, chooser = cases(), random.Random(seed)
    groups: dict[str, list[str]] = defaultdict(list)
    for name, reason in lists.passing().items():
        if reason in ("", STATED):
            groups[operator_of(known[name])].append(name)
    rows = [chooser.sample(names, len(names)) for _, names in sorted(groups.items())]
    ordered = [row[turn] for turn in range(max(map(len, rows))) for row in rows if turn < len(row)]
    return sorted(ordered[:count])


def compile_all(names: Sequence[str], folder: Path, workers: int = 2) -> None:
    """Bundles and `jobs.json`, as `browser.mjs` wants them."""
    with ProcessPoolExecutor(workers) as pool:
        jobs = list(pool.map(_compile, names, [str(folder)] * len(names), chunksize=10))
    (folder / "jobs.json").write_text(json.dumps(jobs))


def _compile(name: str, folder: str) -> dict[str, Any]:
    case = cases()[name]
    loaded = as_asked(lambda fixed, bounds: compile_case(case, Path(folder) / name, fixed, bounds), case, {}, {})
    wanted = {slot.name for slot in loaded.manifest.inputs}
    sets = [{n: _to_json(v) for n, v in inputs.items() if n in wanted} for inputs, _ in data_sets(case)]
    return {"bundle": name, "sets": sets}


def problem_of(case: TestCase, result: Mapping[str, Any]) -> str | None:
    """What is wrong with a result of `browser.mjs`, or None."""
    if "error" in result:
        return str(result["error"])
    for (_, expected), outputs in zip(data_sets(case), result["sets"], strict=True):
        for name, array in expected.items():
            atol = lists.loosened().get(case.name, case.atol)
            problem = difference(np.asarray(array), _from_json(outputs[name]), case.rtol, atol)
            if problem:
                return f"output `{name}` {problem}"
    return None


def _to_json(value: Any) -> dict[str, Any]:
    array = np.asarray(value, order="C")
    kind = array.dtype.name
    if kind in _FLOATS:
        array = array.astype(np.float32)
    elif kind not in _ARRAYS:  # floats of 8 bits and less are their codes, integers of less have a byte each
        array = array.astype(np.int8) if kind.startswith("int") else array.view(np.uint8)
    encoded = base64.b64encode(array.tobytes()).decode()
    return {"array": _ARRAYS[array.dtype.name], "shape": list(array.shape), "data": encoded}


def _from_json(tensor: Mapping[str, Any]) -> npt.NDArray[Any]:
    kind, shape = tensor["dtype"], tensor["shape"]
    data = base64.b64decode(tensor["data"])
    dtype = np.dtype(getattr(ml_dtypes, kind, kind))
    if kind in _FLOATS:
        return np.frombuffer(data, np.float32).reshape(shape).astype(dtype)
    return np.frombuffer(data, dtype).reshape(shape)
