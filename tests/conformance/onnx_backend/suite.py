"""The cases of `onnx.backend.test`, and what edgec makes of one: the model compiled and run, or refused.

PASS      every output has the type and shape of the expected one, and its values within the case's tolerance
REFUSED   an `EdgecError` while compiling
WRONG     another result, or a failure while running
CRASH     any other exception
"""

from __future__ import annotations

import dataclasses
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper as onh
from onnx.backend.test import loader
from onnx.backend.test.case.test_case import TestCase

from edgec import bundle, frontend, profiles
from edgec.compress import compress
from edgec.errors import EdgecError, UnsupportedError
from edgec.lower.wasm import lower
from edgec.passes import fix_inputs, simplify
from edgec.pipeline import supported_operators
from edgec.plan import make_plan
from edgec.run import load
from tests.conformance.onnx_backend import lists

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")  # "real" models would be downloaded
PROFILE = "node-server"


@dataclass(frozen=True)
class Outcome:
    name: str
    status: str  # PASS, REFUSED, WRONG or CRASH
    reason: str = ""


def cases() -> dict[str, TestCase]:
    """Every case by name, in the order of names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [case for kind in KINDS for case in loader.load_model_tests(kind=kind)]
    return {case.name: case for case in sorted(found, key=lambda case: case.name)}


def classify(case: TestCase) -> Outcome:
    """With inputs fixed while compiling where the refusal asks for it; `reason` of a PASS says which."""
    fixed: dict[str, Any] = {}
    try:
        try:
            problem = _run(case, fixed)
        except UnsupportedError as error:
            if not error.inputs:
                raise
            fixed = _first_values(case, error.inputs)
            problem = _run(case, fixed)
    except EdgecError as error:
        return Outcome(case.name, "REFUSED", " ".join(str(error).split()))
    except Exception as error:  # noqa: BLE001  # whatever it is, it is no answer for a user
        return Outcome(case.name, "CRASH", " ".join(f"{type(error).__name__}: {error}".split())[:500])
    return Outcome(case.name, "WRONG", problem) if problem else Outcome(case.name, "PASS", " ".join(fixed))


def _first_values(case: TestCase, names: Sequence[str]) -> dict[str, Any]:
    model = _model(case)
    inputs, _ = next(_data_sets(case, model))
    values = {value.name: array for value, array in zip(model.graph.input, inputs, strict=False)}
    return {name: values[name] for name in names}


def _run(case: TestCase, fixed: Mapping[str, Any]) -> str | None:
    """What is wrong with the result, or None."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.onnx"
        model = _model(case)
        path.write_bytes(model.SerializeToString())
        output = Path(directory) / "model.edgec"
        compile_small(path, output, fixed)
        try:
            return _check(case, model, output)
        except EdgecError as error:
            return f"fails while running: {' '.join(str(error).split())}"


def _check(case: TestCase, model: onnx.ModelProto, bundle_folder: Path) -> str | None:
    with load(bundle_folder, variant="simd128", threads=1) as compiled:
        names = [value.name for value in model.graph.input]
        wanted = {slot.name for slot in compiled.manifest.inputs}
        for inputs, expected in _data_sets(case, model):
            feed = {name: array for name, array in zip(names, inputs, strict=False) if name in wanted}
            got = compiled.run(feed)
            for value, array in zip(model.graph.output, expected, strict=True):
                atol = lists.loosened().get(case.name, case.atol)
                problem = difference(np.asarray(array), got[value.name], case.rtol, atol)
                if problem:
                    return f"output `{value.name}` {problem}"
    return None


def compile_small(source: Path, output: Path, fixed: Mapping[str, Any]) -> bundle.Bundle:
    """A bundle of float32 weights with the plain module alone, without a report."""
    model = simplify(fix_inputs(frontend.load(source, supported_ops=supported_operators()), fixed))
    plan = make_plan(model, profiles.load(PROFILE), precision="float32")
    plan = dataclasses.replace(plan, variants=("simd128",), max_threads=1)
    compressed = compress(model, plan)
    lowered = lower(compressed)
    return bundle.write(lowered, model=compressed.model, plan=plan, accuracy={}, out=output)


def difference(expected: npt.NDArray[Any], got: npt.NDArray[Any], rtol: float, atol: float) -> str | None:
    if expected.dtype != got.dtype:
        return f"is {got.dtype} instead of {expected.dtype}"
    if expected.shape != got.shape:
        return f"has the shape {list(got.shape)} instead of {list(expected.shape)}"
    if expected.dtype.kind in "biu":
        different = np.count_nonzero(expected != got)
        return f"differs in {different} of {got.size} values" if different else None
    if expected.dtype.name == "bfloat16":
        rtol = max(rtol, 2**-6)  # as the suite's own runner has it
    a, b = got.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):
        close = np.isclose(a, b, rtol, atol, equal_nan=True)
    if close.all():
        return None
    largest = np.nanmax(np.abs(np.where(close, 0, a - b)), initial=0.0)
    return f"differs in {np.count_nonzero(~close)} of {got.size} values, by {largest:.3g} at most"


def _model(case: TestCase) -> onnx.ModelProto:
    if case.model is not None:
        return case.model
    assert case.model_dir is not None
    return onnx.load(Path(case.model_dir) / "model.onnx")


def _data_sets(case: TestCase, model: onnx.ModelProto) -> Iterator[tuple[list[Any], list[Any]]]:
    if case.data_sets is not None:
        for inputs, outputs in case.data_sets:
            yield [_array(value) for value in inputs], [_array(value) for value in outputs]
        return
    assert case.model_dir is not None
    for folder in sorted(Path(case.model_dir).glob("test_data_set_*")):
        yield _read_all(folder, "input", len(model.graph.input)), _read_all(folder, "output", len(model.graph.output))


def _array(value: Any) -> Any:
    return onh.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _read_all(folder: Path, kind: str, most: int) -> list[Any]:
    files = [folder / f"{kind}_{i}.pb" for i in range(most)]
    return [onh.to_array(onnx.TensorProto.FromString(file.read_bytes())) for file in files if file.exists()]
