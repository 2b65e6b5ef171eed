"""Whole small networks: float32 equals onnxruntime, quantized equals the dequantized weights closely."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgec.compress.dequantize import dequantized_model
from edgec.errors import UnsupportedError
from edgec.ir.model import ModelIR
from edgec.passes import simplify
from tests.lower.graph.harness import EACH, WasmGraph, assert_close, check, compressed, lowered
from tests.passes import graphs


def test_convolutional_network() -> None:
    model, feed = graphs.convolutional_network()
    module = check(model, [feed])
    assert module.entry_points[0].parameters == ()
    assert module.kind == "graph"


def test_convolutional_network_of_any_batch() -> None:
    model, feed = graphs.convolutional_network("batch")
    one = {"image": feed["image"][:1]}
    module = check(model, [feed, one], dims={"batch": 3}, tolerance=1e-5)
    assert module.entry_points[0].parameters == ("batch",)
    assert module.dims == {"batch": 3}
    assert module.inputs[0].bytes == 3 * 3 * 16 * 16 * 4


def test_convolutional_network_as_exported() -> None:
    """Channels first: the lowering transposes by itself."""
    model, feed = graphs.convolutional_network()
    source = simplify(model, skip={"channels-last", "fold-pad"})
    check(source, [feed], simplified=False)


def test_text_detector() -> None:
    model, feed = graphs.text_detector()
    check(model, [feed])


def test_encoder_of_any_batch_and_length() -> None:
    model, feed = graphs.encoder()
    short = {name: array[:1, :1] for name, array in feed.items()}
    odd = {name: array[:, :7] for name, array in feed.items()}
    module = check(model, [feed, short, odd, feed], dims={"batch": 2, "sequence": 16})
    assert module.entry_points[0].parameters == ("batch", "sequence")


def test_encoder_as_exported() -> None:
    """Attention, norms and GELU from primitives, shapes computed on the way."""
    model, feed = graphs.encoder(1)
    fusions = {"fuse-attention", "fuse-gelu", "fuse-layer-norm", "fuse-qkv", "remove-expand", "fold-shapes"}
    source = simplify(model, skip=fusions)
    check(source, [feed], dims={"batch": 2, "sequence": 9}, simplified=False)


@pytest.mark.parametrize(
    ("make", "bits", "bound"), [(graphs.convolutional_network, 8, 0.02), (lambda: graphs.encoder(1), 4, 0.03)]
)
def test_quantized_networks(make: Callable[[], tuple[ModelIR, graphs.Arrays]], bits: int, bound: float) -> None:
    """8-bit activations cost about one percent here; all instruction sets agree to the bit."""
    model, feed = make()
    source = simplify(model)
    expected = graphs.run(dequantized_model(compressed(source, bits=bits)).model, feed)
    module = lowered(source, dims={"batch": 2, "sequence": 16}, bits=bits)
    results = [WasmGraph(module, variant)(feed) for variant in EACH]
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(first, second)
    for a, b in zip(expected, results[0], strict=True):
        assert np.linalg.norm(a - b) <= bound * np.linalg.norm(a)


def test_nothing_is_left_from_the_last_run() -> None:
    model, feed = graphs.encoder(1)
    graph = WasmGraph(lowered(simplify(model), dims={"batch": 2, "sequence": 9}, variants=["simd128"]), "simd128")
    first = graph(feed)
    graph({name: array[:1, :3] for name, array in feed.items()})
    assert_close(first, graph(feed), 0.0)


def test_same_bytes_every_time() -> None:
    model, _ = graphs.encoder(1)
    dims = {"batch": 1, "sequence": 4}
    first, second = (lowered(simplify(model), dims=dims, variants=["simd128"]) for _ in range(2))
    assert first.variants == second.variants
    assert [w.offset for w in first.weights] == [w.offset for w in second.weights]


def test_missing_upper_bound_is_refused() -> None:
    model, _ = graphs.encoder(1)
    with pytest.raises(UnsupportedError, match="`sequence` has no upper bound"):
        lowered(simplify(model), dims={"batch": 1}, variants=["simd128"])
