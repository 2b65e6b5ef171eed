"""Compile a graph and run it in wasmtime, beside onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper as oh
import onnx.numpy_helper as onh
import onnx_ir as ir
import wasmtime

from edgec.compress.matrix import pack_matrix
from edgec.compress.quantize.rtn import RoundToNearest
from edgec.ir.compressed import CompressedModel
from edgec.ir.lowered import LoweredModule
from edgec.ir.model import ModelIR
from edgec.ir.plan import Plan, Prediction
from edgec.ir.weight_use import weight_uses
from edgec.lower.wasm.graph import lower_graph
from edgec.passes import simplify
from tests.passes.graphs import graph_model, run

Arrays = dict[str, npt.NDArray[Any]]
_PROTO = {
    "f": onnx.TensorProto.FLOAT,
    "i": onnx.TensorProto.INT64,
    "b": onnx.TensorProto.BOOL,
    "d": onnx.TensorProto.DOUBLE,
    "h": onnx.TensorProto.FLOAT16,
    "i1": onnx.TensorProto.INT8,
    "i4": onnx.TensorProto.INT32,
    "u1": onnx.TensorProto.UINT8,
}


def _numpy(dtype: str) -> np.dtype[Any]:
    return np.dtype(getattr(ml_dtypes, dtype, dtype))


EACH = ("simd128", "relaxed", "relaxed16")


def compressed(
    model: ModelIR, *, dims: Mapping[str, int] | None = None, bits: int = 32, variants: Sequence[str] = EACH
) -> CompressedModel:
    """All weight matrices at `bits`, or float32."""
    nothing = Prediction(0, 0, 0, 0, 0, 0.0, 0.0)
    plan = Plan("tiny", "test", (), None, 0, 0, dict(dims or {}), 1, tuple(variants), 8, nothing)
    packed = {}
    if bits != 32:
        for name, use in weight_uses(model.model).items():
            array = model.model.graph.initializers[name].const_value
            assert array is not None
            packed[name] = pack_matrix(name, use.to_matrix(array.numpy()), RoundToNearest(bits, None))
    return CompressedModel(model, plan, packed)


def lowered(
    model: ModelIR, *, dims: Mapping[str, int] | None = None, bits: int = 32, variants: Sequence[str] = EACH
) -> LoweredModule:
    return lower_graph(compressed(model, dims=dims, bits=bits, variants=variants)).build(variants)


class WasmGraph:
    """One entry point of one unthreaded variant."""

    def __init__(self, module: LoweredModule, variant: str, entry: str = "run") -> None:
        self.module = module
        [self.point] = [point for point in module.entry_points if point.name == entry]
        self.store = wasmtime.Store()
        compiled = wasmtime.Module(self.store.engine, module.variants[variant])
        assert [(item.module, item.name) for item in compiled.imports] == [("env", "memory")]
        pages = module.memory.maximum_bytes // 65536
        self.memory = wasmtime.Memory(self.store, wasmtime.MemoryType(wasmtime.Limits(pages, pages)))
        self.exports = exports = wasmtime.Instance(self.store, compiled, [self.memory]).exports(self.store)
        pointer, self.entry = exports["__stack_pointer"], exports[entry]
        assert isinstance(pointer, wasmtime.Global) and isinstance(self.entry, wasmtime.Func)
        pointer.set_value(self.store, module.memory.stacks.offset + module.memory.stack_bytes)
        for weight in module.weights:
            self.memory.write(self.store, weight.data.tobytes(), weight.offset)

    def __call__(self, feed: Arrays) -> list[npt.NDArray[Any]]:
        sizes: dict[str, int] = {}
        for slot in [slot for slot in self.module.inputs if slot.name in self.point.inputs]:
            array = np.asarray(feed[slot.name], _numpy(slot.dtype), order="C")
            sizes.update({d: n for d, n in zip(slot.shape, array.shape, strict=True) if isinstance(d, str)})
            self.memory.write(self.store, array.tobytes(), slot.offset)
        arguments = [sizes[name] for name in self.point.parameters]
        assert self.entry(self.store, 0, 1, *arguments) == 0
        results = []
        for slot in [slot for slot in self.module.outputs if slot.name in self.point.outputs]:
            shape = [d if isinstance(d, int) else ir.SymbolicDim(d).evaluate(sizes) for d in slot.shape]
            dtype = _numpy(slot.dtype)
            content = self.memory.read(self.store, slot.offset, slot.offset + math.prod(shape) * dtype.itemsize)
            results.append(np.frombuffer(bytes(content), dtype).reshape(shape))
        return results


def make_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[str, Sequence[int | str]]],
    outputs: Mapping[str, str],
    weights: Arrays | None = None,
) -> ModelIR:
    """`inputs`: name -> (type, shape), `outputs`: name -> type; types are the keys of `_PROTO`."""
    graph = oh.make_graph(
        list(nodes),
        "g",
        [oh.make_tensor_value_info(name, _PROTO[kind], shape) for name, (kind, shape) in inputs.items()],
        [oh.make_tensor_value_info(name, _PROTO[kind], None) for name, kind in outputs.items()],
        [onh.from_array(np.asarray(array), name) for name, array in (weights or {}).items()],
    )
    return graph_model(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 23)], ir_version=10))


def assert_close(expected: Sequence[npt.NDArray[Any]], got: Sequence[npt.NDArray[Any]], tolerance: float) -> None:
    """Differences at most `tolerance` times the larger of 1 and the largest magnitude."""
    assert len(expected) == len(got)
    for index, (a, b) in enumerate(zip(expected, got, strict=True)):
        assert a.shape == b.shape, index
        assert np.array_equal(np.isnan(a), np.isnan(b)) if a.dtype.kind == "f" else True
        left, right = np.nan_to_num(a.astype(np.float64)), np.nan_to_num(b.astype(np.float64))
        scale = max(1.0, float(np.abs(left).max(initial=0.0)))
        assert np.abs(left - right).max(initial=0.0) <= tolerance * scale, index


def check(
    model: ModelIR,
    feeds: Sequence[Arrays],
    *,
    dims: Mapping[str, int] | None = None,
    tolerance: float = 1e-5,
    variants: Sequence[str] = ("simd128",),
    simplified: bool = True,
) -> LoweredModule:
    """The graph in wasm equals onnxruntime for each feed, and all variants agree to the bit."""
    source = simplify(model) if simplified else model
    module = lowered(source, dims=dims, variants=variants)
    graphs = [WasmGraph(module, variant) for variant in variants]
    for feed in feeds:
        results = [graph(feed) for graph in graphs]
        assert_close(run(model.model, feed), results[0], tolerance)
        for other in results[1:]:
            assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(results[0], other, strict=True))
    return module
