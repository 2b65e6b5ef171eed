"""The functions of `kernels/math.py` against double precision, as scalars and as vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import wasmtime
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.abi import compile_kernels
from edgec.lower.wasm.kernels import math as functions
from edgec.lower.wasm.kernels.builder import KernelBuilder, PrimFunc, load, store
from edgec.lower.wasm.linker import link
from edgec.lower.wasm.target import RELAXED, SIMD128

NAMES = (
    *("exp", "exp_below_zero", "log", "sigmoid", "silu", "near_sigmoid", "near_silu"),
    *("tanh", "erf", "gelu", "gelu_tanh", "sin", "cos"),
)
COUNT = 1 << 14
SOURCE, TARGET = 1 << 17, 1 << 18
Floats = np.ndarray


def _kernel(name: str, width: int) -> PrimFunc:
    with KernelBuilder() as k:
        source, output = k.buffer("source", "float32"), k.buffer("output", "float32")
        with T.serial(0, COUNT // width) as i:
            value = load(source, i * width, width) if width > 1 else source[i]
            store(output, i * width, getattr(functions, name)(value), width)
    return k.func


@pytest.fixture(scope="module")
def compiled() -> dict[str, bytes]:
    kernels = {f"{name}_{width}": _kernel(name, width) for name in NAMES for width in (1, 4)}
    modules = {}
    for isa in (SIMD128, RELAXED):
        content, _ = compile_kernels(kernels, isa)
        modules[isa.name] = link([content], [], list(kernels), static_limit=65536, maximum_pages=8, shared=False)
    return modules


def _run(module: bytes, name: str, values: Floats) -> Floats:
    store_ = wasmtime.Store()
    memory = wasmtime.Memory(store_, wasmtime.MemoryType(wasmtime.Limits(8, 8)))
    instance = wasmtime.Instance(store_, wasmtime.Module(store_.engine, module), [memory])
    memory.write(store_, values.tobytes(), SOURCE)
    function = instance.exports(store_)[name]
    assert isinstance(function, wasmtime.Func)
    function(store_, SOURCE, TARGET)
    return np.frombuffer(bytes(memory.read(store_, TARGET, TARGET + 4 * COUNT)), np.float32)


_erf = np.vectorize(math.erf)


def _reference(name: str, x: Floats) -> Floats:
    x = x.astype(np.float64)
    with np.errstate(over="ignore", divide="ignore"):
        table = {
            "exp": lambda: np.exp(x),
            "exp_below_zero": lambda: np.exp(x),
            "log": lambda: np.log(x),
            "sigmoid": lambda: 1 / (1 + np.exp(-x)),
            "silu": lambda: x / (1 + np.exp(-x)),
            "near_sigmoid": lambda: 1 / (1 + np.exp(-x)),
            "near_silu": lambda: x / (1 + np.exp(-x)),
            "tanh": lambda: np.tanh(x),
            "erf": lambda: _erf(x),
            "gelu": lambda: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
            "gelu_tanh": lambda: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
            "sin": lambda: np.sin(x),
            "cos": lambda: np.cos(x),
        }
        return np.asarray(table[name]())


@pytest.mark.parametrize(
    ("name", "low", "high", "bound", "kind"),
    [
        ("exp", -86.0, 88.7, 1e-7, "relative"),
        ("exp", -1.0, 1.0, 1e-7, "relative"),
        ("exp_below_zero", -86.0, 0.0, 1e-7, "relative"),
        ("log", 1e-30, 1e30, 1e-7, "of max(1, |y|)"),
        ("log", 0.5, 2.0, 1e-7, "relative"),
        ("sigmoid", -80.0, 80.0, 2e-7, "relative"),
        ("silu", -80.0, 80.0, 2e-7, "relative"),
        ("near_sigmoid", -80.0, 80.0, 8e-6, "relative"),
        ("near_sigmoid", -8.0, 8.0, 4e-6, "relative"),
        ("near_silu", -80.0, 80.0, 8e-6, "relative"),
        ("near_silu", -8.0, 8.0, 4e-6, "relative"),
        ("tanh", -10.0, 10.0, 1.5e-7, "relative"),
        ("tanh", -0.7, 0.7, 1.5e-7, "relative"),
        ("erf", -5.0, 5.0, 1.5e-7, "relative"),
        ("erf", -1.0, 1.0, 1.5e-7, "relative"),
        ("gelu", -8.0, 8.0, 3e-7, "of max(1, |x|)"),
        ("gelu_tanh", -8.0, 8.0, 2e-7, "of max(1, |x|)"),
        ("sin", -8192.0, 8192.0, 2e-7, "absolute"),
        ("cos", -8192.0, 8192.0, 2e-7, "absolute"),
    ],
)
def test_errors(compiled: dict[str, bytes], name: str, low: float, high: float, bound: float, kind: str) -> None:
    if name == "log" and low < 0.1:
        x = np.geomspace(low, high, COUNT).astype(np.float32)
    else:
        x = np.linspace(low, high, COUNT).astype(np.float32)
    expected = _reference(name, x)
    vector, scalar = _run(compiled["simd128"], f"{name}_4", x), _run(compiled["simd128"], f"{name}_1", x)
    np.testing.assert_array_equal(vector.view(np.int32), scalar.view(np.int32))
    scale = {
        "relative": np.abs(expected),
        "absolute": np.ones_like(expected),
        "of max(1, |y|)": np.maximum(1, np.abs(expected)),
        "of max(1, |x|)": np.maximum(1, np.abs(x)),
    }[kind]
    scale = np.where(scale == 0, 1, scale)
    assert (np.abs(vector - expected) / scale).max() <= bound


def test_exponentials_below_zero_are_the_same(compiled: dict[str, bytes]) -> None:
    x = np.linspace(-86.0, 0.0, COUNT).astype(np.float32)
    x[:3] = -1e30, -np.inf, -0.0
    general, below = (_run(compiled["simd128"], f"{name}_4", x) for name in ("exp", "exp_below_zero"))
    np.testing.assert_array_equal(general.view(np.int32), below.view(np.int32))


@pytest.mark.parametrize("name", NAMES)
def test_instruction_sets_agree_to_the_bit(compiled: dict[str, bytes], name: str) -> None:
    x = np.random.default_rng(1).normal(0, 10, COUNT).astype(np.float32)
    x = np.abs(x) if name == "log" else -np.abs(x) if name == "exp_below_zero" else x
    first, second = (_run(compiled[isa], f"{name}_4", x) for isa in ("simd128", "relaxed"))
    np.testing.assert_array_equal(first.view(np.int32), second.view(np.int32))


def test_limits(compiled: dict[str, bytes]) -> None:
    x = np.zeros(COUNT, np.float32)
    x[:6] = [0.0, np.inf, -np.inf, 1000.0, -1000.0, 88.8]
    run = lambda name: _run(compiled["simd128"], f"{name}_4", x)[:6].tolist()  # noqa: E731
    assert run("exp") == [1.0, np.inf, 0.0, np.inf, 0.0, np.inf]
    smallest = pytest.approx(0.0, abs=2e-38)  # of the normal numbers, see `_exp_negative`
    assert run("sigmoid") == [0.5, 1.0, smallest, 1.0, smallest, 1.0]
    assert run("near_sigmoid") == [0.5, 1.0, smallest, 1.0, smallest, 1.0]
    assert run("tanh") == [0.0, 1.0, -1.0, 1.0, -1.0, 1.0]
    assert run("erf") == [0.0, 1.0, -1.0, 1.0, -1.0, 1.0]
    assert run("log")[0] == -np.inf and run("log")[2] == -np.inf


def test_no_instruction_rounds_differently_with_relaxed_simd(compiled: dict[str, bytes]) -> None:
    relaxed_madd, relaxed_nmadd = bytes([0xFD, 0x85, 0x02]), bytes([0xFD, 0x86, 0x02])
    assert relaxed_madd not in compiled["relaxed"] and relaxed_nmadd not in compiled["relaxed"]
