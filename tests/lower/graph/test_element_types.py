"""Element types: every code of the small floats, transcendental functions of float64, exact integers."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx.helper as oh
import pytest

from edgec.ir.model import ModelIR
from edgec.lower.wasm.graph_values import _SMALL_FLOATS
from tests.lower.graph.harness import Arrays, WasmGraph, lowered, make_model
from tests.passes.graphs import graph_model

SMALL = sorted(_SMALL_FLOATS.items(), key=lambda item: item[1])


def cast_model(source: int, target: int, size: int, **attributes: int) -> ModelIR:
    graph = oh.make_graph(
        [oh.make_node("Cast", ["x"], ["y"], to=target, **attributes)],
        "g",
        [oh.make_tensor_value_info("x", source, [size])],
        [oh.make_tensor_value_info("y", target, [size])],
    )
    return graph_model(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 23)], ir_version=11))


def run(model: ModelIR, feed: Arrays) -> list[np.ndarray]:
    return WasmGraph(lowered(model, variants=["simd128"]), "simd128")(feed)


@pytest.mark.parametrize(("onnx_type", "name"), SMALL, ids=[name for _, name in SMALL])
def test_every_code_is_decoded(onnx_type: int, name: str) -> None:
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    codes = np.arange(2 ** (8 * dtype.itemsize) if "4_" not in name else 16)
    values = codes.astype(np.uint16 if dtype.itemsize == 2 else np.uint8).view(dtype)
    (got,) = run(cast_model(onnx_type, onnx.TensorProto.FLOAT, values.size), {"x": values})
    assert np.array_equal(got, values.astype(np.float32), equal_nan=True)
    assert np.array_equal(np.signbit(got), np.signbit(values.astype(np.float32))) or "fnuz" in name


@pytest.mark.parametrize(("onnx_type", "name"), SMALL, ids=[name for _, name in SMALL])
def test_rounding_is_to_nearest_even(onnx_type: int, name: str) -> None:
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    random = np.random.default_rng(5)
    codes = np.arange(2 ** (8 * dtype.itemsize) if "4_" not in name else 16)
    exact = codes.astype(np.uint16 if dtype.itemsize == 2 else np.uint8).view(dtype).astype(np.float32)
    exact = np.unique(exact[np.isfinite(exact)])
    ties = (exact[1:].astype(np.float64) + exact[:-1]) / 2
    wide = random.normal(0, 1, 4001) * 10.0 ** random.uniform(-9, 6, 4001)
    largest = float(ml_dtypes.finfo(dtype).max)
    x = np.concatenate([exact, ties, np.clip(wide, -largest, largest), [0.0, -0.0]]).astype(np.float32)
    (got,) = run(cast_model(onnx.TensorProto.FLOAT, onnx_type, x.size), {"x": x})
    assert got.dtype == dtype
    assert np.array_equal(got.astype(np.float32), x.astype(dtype).astype(np.float32))


@pytest.mark.parametrize(("onnx_type", "name"), [item for item in SMALL if "float8" in item[1]])
@pytest.mark.parametrize("saturate", [0, 1])
def test_what_is_too_large_saturates_or_not(onnx_type: int, name: str, saturate: int) -> None:
    dtype = np.dtype(getattr(ml_dtypes, name))
    x = np.array([1e9, -1e9, np.inf, -np.inf, np.nan], np.float32)
    (got,) = run(cast_model(onnx.TensorProto.FLOAT, onnx_type, 5, saturate=saturate), {"x": x})
    largest = float(ml_dtypes.finfo(dtype).max)
    beyond = np.inf if name == "float8_e5m2" else np.nan
    expected = (
        [largest, -largest, largest, -largest, np.nan] if saturate else [beyond, -beyond, beyond, -beyond, np.nan]
    )
    assert np.array_equal(got.astype(np.float32), np.array(expected, np.float32), equal_nan=True)


@pytest.mark.parametrize(
    ("onnx_type", "dtype"),
    [
        (onnx.TensorProto.INT4, ml_dtypes.int4),
        (onnx.TensorProto.UINT4, ml_dtypes.uint4),
        (onnx.TensorProto.INT2, ml_dtypes.int2),
        (onnx.TensorProto.UINT2, ml_dtypes.uint2),
    ],
)
def test_small_integers_wrap(onnx_type: int, dtype: type) -> None:
    x = np.arange(-40, 41, dtype=np.float32)
    (got,) = run(cast_model(onnx.TensorProto.FLOAT, onnx_type, x.size), {"x": x})
    bits = ml_dtypes.iinfo(dtype).bits
    wrapped = x.astype(np.int64) % 2**bits
    wrapped = np.where(wrapped > int(ml_dtypes.iinfo(dtype).max), wrapped - 2**bits, wrapped)
    assert np.array_equal(got.astype(np.int64), wrapped)


def test_float64_has_its_own_precision() -> None:
    random = np.random.default_rng(7)
    x, positive = random.normal(0, 40, 301), np.exp(random.uniform(-300, 300, 301))
    x[:6] = [709.7, -708.0, -744.0, 0.0, 800.0, -800.0]
    nodes = [
        oh.make_node("Exp", ["x"], ["exp"]),
        oh.make_node("Log", ["p"], ["log"]),
        oh.make_node("MatMul", ["a", "b"], ["product"]),
    ]
    inputs = {"x": ("d", [301]), "p": ("d", [301]), "a": ("d", [2, 3, 5]), "b": ("d", [5, 7])}
    a, b = random.normal(0, 1, (2, 3, 5)), random.normal(0, 1, (5, 7))
    model = make_model(nodes, inputs, {"exp": "d", "log": "d", "product": "d"})
    exp, log, product = run(model, {"x": x, "p": positive, "a": a, "b": b})
    with np.errstate(over="ignore", under="ignore"):
        expected = np.exp(x)
    normal = (expected > 1e-300) & np.isfinite(expected)
    assert np.abs(exp[normal] / expected[normal] - 1).max() < 1e-15
    tiny = ~normal & np.isfinite(expected)
    assert np.abs(exp[tiny] - expected[tiny]).max() < 1e-300
    assert np.array_equal(np.isinf(exp), np.isinf(expected))
    assert np.abs(log - np.log(positive)).max() < 1e-13
    assert np.allclose(product, a @ b, rtol=1e-14, atol=1e-14)


def test_inverse_and_hyperbolic_functions() -> None:
    functions = {
        "Acos": (np.arccos, -1, 1),
        "Acosh": (np.arccosh, 1, 50),
        "Asin": (np.arcsin, -1, 1),
        "Asinh": (np.arcsinh, -50, 50),
        "Atan": (np.arctan, -50, 50),
        "Atanh": (np.arctanh, -0.999, 0.999),
        "Cosh": (np.cosh, -20, 20),
        "Sinh": (np.sinh, -20, 20),
        "Tan": (np.tan, -1.5, 1.5),
    }
    nodes = [oh.make_node(name, [f"x_{name}"], [f"y_{name}"]) for name in functions]
    model = make_model(
        nodes, {f"x_{name}": ("f", [2003]) for name in functions}, {f"y_{name}": "f" for name in functions}
    )
    feed = {}
    for name, (_, low, high) in functions.items():
        x = np.linspace(low, high, 2003, dtype=np.float32)
        small = np.geomspace(1e-6, 0.4, 500, dtype=np.float32)
        x[100:600] = np.clip(small, low, high)
        feed[f"x_{name}"] = x
    for (name, (function, _, _)), got in zip(functions.items(), run(model, feed), strict=True):
        expected = function(feed[f"x_{name}"].astype(np.float64))
        assert np.abs(got - expected).max() <= 1e-30 + (2e-6 * np.maximum(np.abs(expected), 1e-6)).max(), name
        bound = 4e-6 * np.abs(expected) + 4e-7 * (name in ("Acos", "Acosh"))
        assert (np.abs(got - expected) <= bound + 1e-12).all(), name
