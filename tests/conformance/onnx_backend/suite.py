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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper as onh
from onnx.backend.test import loader
from onnx.backend.test.case.test_case import TestCase

from edgec import bundle, frontend, profiles
from edgec.compress import compress
from edgec.errors import EdgecError, UnsupportedError, UsageError
from edgec.lower.wasm import lower
from edgec.passes import fix_inputs, simplify
from edgec.pipeline import supported_operators
from edgec.plan import make_plan
from edgec.run import load
from tests.conformance.onnx_backend import lists

Fixed = dict[str, Any]
Bounds = dict[str, int]
T = TypeVar("T")

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")  # "real" models would be downloaded
PROFILE = "node-server"
BOUND = 32  # of a dimension that is computed from values, where neither the model nor the operator gives one
STATED = f"<={BOUND}"


@dataclass(frozen=True)
class Outcome:
    name: str
    status: str  # PASS, REFUSED, WRONG or CRASH
    reason: str = ""  # of a PASS: the inputs that were fixed, and STATED where bounds were stated


def cases() -> dict[str, TestCase]:
    """Every case by name, in the order of names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [case for kind in KINDS for case in loader.load_model_tests(kind=kind)]
    return {case.name: case for case in sorted(found, key=lambda case: case.name)}


def classify(case: TestCase) -> Outcome:
    """With bounds stated, and else with inputs fixed while compiling, where the refusal asks for that."""
    fixed: Fixed = {}
    bounds: Bounds = {}
    try:
        problem = as_asked(lambda *asked: _run(case, *asked), case, fixed, bounds)
    except EdgecError as error:
        return Outcome(case.name, "REFUSED", " ".join(str(error).split()))
    except Exception as error:  # noqa: BLE001  # whatever it is, it is no answer for a user
        return Outcome(case.name, "CRASH", " ".join(f"{type(error).__name__}: {error}".split())[:500])
    if problem:
        return Outcome(case.name, "WRONG", problem)
    return Outcome(case.name, "PASS", " ".join([*fixed, *([STATED] if bounds else [])]))


def as_asked(attempt: Callable[[Fixed, Bounds], T], case: TestCase, fixed: Fixed, bounds: Bounds) -> T:
    """`attempt(fixed, bounds)` with what refusals ask for, which is added to the two."""
    try:
        return attempt({}, {})
    except UsageError as error:
        bounds.update(dict.fromkeys(error.dims, BOUND))
        if not bounds:
            raise
    except UnsupportedError as error:
        fixed.update(_first_values(case, error.inputs))
        if not fixed:
            raise
    try:
        return attempt(fixed, bounds)
    except UnsupportedError as error:
        if fixed or not error.inputs:
            raise
        bounds.clear()
        fixed.update(_first_values(case, error.inputs))
    return attempt(fixed, bounds)


def _first_values(case: TestCase, names: Sequence[str]) -> Fixed:
    inputs, _ = next(data_sets(case))
    return {name: inputs[name] for name in names}


def _run(case: TestCase, fixed: Fixed, bounds: Bounds) -> str | None:
    """What is wrong with the result, or None."""
    with tempfile.TemporaryDirectory() as directory:
        compiled = compile_case(case, Path(directory) / "model.edgec", fixed, bounds)
        try:
            return _check(case, compiled)
        except EdgecError as error:
            return f"fails while running: {' '.join(str(error).split())}"


def _check(case: TestCase, written: bundle.Bundle) -> str | None:
    with load(written, variant="simd128", threads=1) as compiled:
        wanted = {slot.name for slot in compiled.manifest.inputs}
        for inputs, expected in data_sets(case):
            got = compiled.run({name: array for name, array in inputs.items() if name in wanted})
            for name, array in expected.items():
                atol = lists.loosened().get(case.name, case.atol)
                problem = difference(np.asarray(array), got[name], case.rtol, atol)
                if problem:
                    return f"output `{name}` {problem}"
    return None


def compile_case(case: TestCase, output: Path, fixed: Fixed, bounds: Bounds) -> bundle.Bundle:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.onnx"
        path.write_bytes(_model(case).SerializeToString())
        return compile_small(path, output, fixed, bounds)


def compile_small(source: Path, output: Path, fixed: Fixed, bounds: Bounds | None = None) -> bundle.Bundle:
    """A bundle of float32 weights with the plain module alone, without a report."""
    model = simplify(fix_inputs(frontend.load(source, supported_ops=supported_operators()), fixed))
    plan = make_plan(model, profiles.load(PROFILE), precision="float32", max_dims=bounds)
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


def operator_of(case: TestCase) -> str:
    """The operator that the case is about: the only one, or the one that its name starts with."""
    names = {node.op_type for node in _model(case).graph.node}
    words = case.name.removeprefix("test_").lower().replace("_", "")
    fitting = [name for name in names if words.startswith(name.lower())]
    return max(fitting or names, key=lambda name: (len(name), name))


def data_sets(case: TestCase) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Inputs and expected outputs by name."""
    model = _model(case)
    names, outputs = [v.name for v in model.graph.input], [v.name for v in model.graph.output]
    if case.data_sets is not None:
        sets = [([_array(v) for v in given], [_array(v) for v in wanted]) for given, wanted in case.data_sets]
    else:
        assert case.model_dir is not None
        folders = sorted(Path(case.model_dir).glob("test_data_set_*"))
        sets = [(_read_all(f, "input", len(names)), _read_all(f, "output", len(outputs))) for f in folders]
    for given, wanted in sets:
        yield dict(zip(names, given, strict=False)), dict(zip(outputs, wanted, strict=True))


def _array(value: Any) -> Any:
    return onh.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _read_all(folder: Path, kind: str, most: int) -> list[Any]:
    files = [folder / f"{kind}_{i}.pb" for i in range(most)]
    return [onh.to_array(onnx.TensorProto.FromString(file.read_bytes())) for file in files if file.exists()]
