"""What calls are said to do, against counts that know nothing of the lowering."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest

from edgec import profiles
from edgec.compress import compress
from edgec.frontend import load
from edgec.ir import CompressedModel, ModelIR
from edgec.ir.work import evaluate
from edgec.lower.wasm.abi import compile_kernels
from edgec.lower.wasm.decoder import lower_decoder
from edgec.lower.wasm.decoder_match import match_decoder
from edgec.lower.wasm.graph import lower_graph
from edgec.lower.wasm.kernels.dot import passes
from edgec.lower.wasm.kernels.linear import linear
from edgec.lower.wasm.program import Entry, Program
from edgec.lower.wasm.target import RELAXED, RELAXED16, SIMD128, Isa
from edgec.lower.wasm.work import Work, attended, reached, times
from edgec.passes import simplify
from edgec.plan import make_plan
from edgec.run.limits import probes
from tests.lower.families import Family
from tests.lower.graph import harness
from tests.passes import graphs

UNITS = {probe.name for probe in probes(0)}
AMOUNTS = ("macs", "weights", "cache", "activations")
HIDDEN, MLP, HEADS, KV_HEADS, DIM, LAYERS, VOCABULARY = 64, 96, 4, 2, 16, 2, 288  # of tests/conftest.py's model
LINEARS = LAYERS * (HIDDEN * (HEADS + 2 * KV_HEADS) * DIM + HIDDEN * HEADS * DIM + 3 * HIDDEN * MLP)
HEAD = VOCABULARY * HIDDEN


def totals(program: Program, name: str, isa: Isa = SIMD128, **parameters: int) -> dict[str, int]:
    """Sums over an entry point and those that it enters."""
    entry = next(entry for entry in program.entries if entry.name == name)
    sums = dict.fromkeys(AMOUNTS, 0)
    for call in entry.calls:
        if isinstance(call, str):
            inner = next(other for other in program.entries if other.name == call)
            values = [evaluate(value, parameters) for value in entry.arguments[call]]
            amounts: Mapping[str, Any] = totals(program, call, isa, **dict(zip(inner.parameters, values, strict=True)))
        else:
            amounts = call.work.to_json(isa)
        for amount in AMOUNTS:
            sums[amount] += evaluate(amounts[amount], parameters)
    return sums


@pytest.fixture(scope="module")
def source(tiny_llama: Path) -> ModelIR:
    return simplify(load(tiny_llama))


def decoder(source: ModelIR, **choices: Any) -> Program:
    plan = make_plan(source, profiles.load("phone-8gb"), **choices)
    return lower_decoder(compress(source, dataclasses.replace(plan, prefill_chunk=16)))


@pytest.mark.parametrize("choices", [{"bits": 4}, {"bits": 7}, {"bits": 8}, {"precision": "float32"}])
def test_a_decoder_multiplies_every_weight_once_a_token(source: ModelIR, choices: dict[str, Any]) -> None:
    program = decoder(source, **choices)
    for position in (0, 5, 200):
        attention = LAYERS * HEADS * 2 * DIM * (position + 1)
        assert totals(program, "decode", position=position)["macs"] == LINEARS + HEAD + attention
    for n, position in ((1, 0), (7, 64), (16, 30)):
        attention = LAYERS * HEADS * 2 * DIM * sum(position + row + 1 for row in range(n))
        assert totals(program, "prefill", n=n, position=position)["macs"] == n * LINEARS + attention


@pytest.mark.parametrize("choices", [{"bits": 4}, {"bits": 7}, {"bits": 8}, {"precision": "float32"}])
def test_a_decoder_reads_every_weight_once_and_a_row_of_the_embedding(source: ModelIR, choices: dict[str, Any]) -> None:
    program = decoder(source, **choices)
    stored = sum(weight.storage.bytes for weight in program._weights)
    table = sum(w.storage.bytes for w in program._weights if "embed" in w.storage.name)
    assert totals(program, "decode", position=3)["weights"] == stored + table // VOCABULARY


@pytest.mark.parametrize("name", ["gemma2", "gpt2", "olmo2", "stablelm"])  # every kernel that families have
@pytest.mark.parametrize("choices", [{"bits": 4}, {"precision": "float32"}])
def test_so_do_other_families(tmp_path: Path, name: str, choices: dict[str, Any]) -> None:
    model = Family(name, tmp_path).model
    program, network = decoder(model, **choices), match_decoder(model)
    stored = {weight.storage.name: weight.storage.bytes for weight in program._weights}

    def of(table: str) -> int:
        return sum(size for storage, size in stored.items() if storage.split("#")[0] == table)

    tables = [name for name in (network.embedding, network.positions) if name is not None]
    once = sum(stored.values()) - sum(of(table) for table in tables if table != network.lm_head.weight)
    rows = sum(-(-of(table) // initializer_rows(model, table)) for table in tables)
    assert all(of(table) > 0 for table in tables)
    assert totals(program, "decode", position=3)["weights"] == once + rows


@pytest.mark.parametrize("bits", [4, 8])
def test_what_is_foreseen_is_what_calls_are_said_to_do(source: ModelIR, bits: int) -> None:
    program = decoder(source, bits=bits)
    works = program.foreseen("decode", {"position": 40})
    sums = totals(program, "decode", position=40)
    assert sum(work.products for work in works) == sums["macs"]
    assert (sum(work.weights for work in works), sum(work.cache for work in works)) == (sums["weights"], sums["cache"])
    linears = [work for work in works if work.arithmetic == "codes"]
    assert {work.bits for work in linears} == {bits} and {work.kernel for work in linears} == {f"linear_w{bits}a8"}


def test_padding_is_foreseen() -> None:
    work = Work(macs=times("n", 10 * 33), arithmetic="codes", padded=times("n", 16 * 64), results=times("n", 10))
    found = work.foreseen("linear", {"n": 3})
    assert (found.products, found.results, found.moved) == (3 * 16 * 64, 30, 0)
    assert Work(activations=times("n", 8)).foreseen("copy", {"n": 3}).moved == 24


def initializer_rows(model: ModelIR, name: str) -> int:
    tensor = model.model.graph.initializers[name].const_value
    assert tensor is not None
    return int(tensor.shape[0])


@pytest.mark.parametrize("kv_bits", [16, 32])
def test_full_pages_of_the_cache_are_read_whole(source: ModelIR, kv_bits: int) -> None:
    program = decoder(source, bits=4, kv_bits=kv_bits)
    assert program.kv is not None
    pages, tokens = 3, program.kv.page_tokens
    read_and_written = totals(program, "decode", position=pages * tokens - 1)["cache"]
    assert read_and_written == pages * program.kv.page_bytes + program.kv.page_bytes // tokens


@pytest.mark.parametrize(("rows", "position"), list(itertools.product([1, 2, 7, 16], [0, 1, 5, 16, 40])))
def test_pairs_of_causal_attention(rows: int, position: int) -> None:
    names = {"n": rows, "position": position}
    for window in (None, 1, 4, 16, 100):
        keys = [set(range(max(0, p + 1 - (window or p + 1)), p + 1)) for p in range(position, position + rows)]
        assert evaluate(attended("n", "position", window), names) == sum(map(len, keys))
        assert evaluate(reached("n", "position", window), names) == len(set().union(*keys))


@pytest.mark.parametrize(("isa", "unit"), [(SIMD128, "simd128"), (RELAXED, "relaxed"), (RELAXED16, "relaxed16")])
def test_the_unit_of_codes_is_what_kernels_multiply_with(isa: Isa, unit: str) -> None:
    widening = b"\xfd\xba\x01"  # i32x4.dot_i16x8_s
    dots = {"relaxed": b"\xfd\x93\x02", "relaxed16": b"\xfd\x92\x02", "simd128": widening}[unit]

    def counts(bits: int) -> tuple[int, int]:
        compiled, _ = compile_kernels({"kernel": linear(isa, rows=16, columns=64, bits=bits)}, isa)
        return compiled.count(dots), compiled.count(widening)

    widened_unit = unit + "-widened" * (unit == "relaxed16")
    (four, widened4), (seven, widened7), (eight, _) = counts(4), counts(7), counts(8)
    # Of 7 bits each product is widened, of 4 bits only sums are.
    assert (widened7 >= seven > 0 and 0 < widened4 < four) == (unit == "relaxed16")
    assert passes(isa, 4) == passes(isa, 7) == 1 and eight == passes(isa, 8) * seven and four > 0
    for bits, name in ((4, unit), (7, widened_unit), (8, widened_unit)):
        described = Work(arithmetic="codes", bits=bits).to_json(isa)
        assert (described["unit"], described["passes"]) == (name, passes(isa, bits)) and name in UNITS


def counted_macs(model: ModelIR, feed: graphs.Arrays) -> int:
    """Multiply-adds of the products in a graph as exported, from the shapes that onnxruntime computes."""
    proto = onnx_ir.to_proto(model.model)
    inner = [name for node in proto.graph.node for name in node.output if name]
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    results = onnxruntime.InferenceSession(proto.SerializeToString()).run(inner, feed)
    shapes = {name: np.shape(value) for name, value in zip(inner, results, strict=True)}
    shapes |= {name: value.shape for name, value in feed.items()}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    count = 0
    for node in proto.graph.node:
        if node.op_type in ("MatMul", "Gemm"):
            count += math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
        elif node.op_type == "Conv":
            count += math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
        assert node.op_type not in ("Attention", "ConvTranspose", "Einsum")
    return count


def graph_program(model: ModelIR, bits: int, dims: dict[str, int]) -> Program:
    packed: CompressedModel = harness.compressed(simplify(model), bits=bits, dims=dims)
    return lower_graph(packed)


@pytest.mark.parametrize("bits", [32, 7])
def test_a_convolutional_network(bits: int) -> None:
    model, feed = graphs.convolutional_network("batch")
    wanted = counted_macs(model, feed)
    program = graph_program(model, bits, {"batch": 3})
    done = totals(program, "run", batch=len(feed["image"]))
    assert done["macs"] == wanted
    assert done["weights"] >= sum(weight.storage.bytes for weight in program._weights)  # strips read weights again
    assert done["activations"] > feed["image"].nbytes and done["cache"] == 0


@pytest.mark.parametrize("bits", [32, 4])
def test_an_encoder_of_several_sizes(bits: int) -> None:
    model, feed = graphs.encoder()
    wanted = {length: counted_macs(model, cut(feed, length)) for length in (1, 7, 9)}
    program = graph_program(model, bits, {"batch": 2, "sequence": 16})
    batch = len(next(iter(feed.values())))
    for length, macs in wanted.items():
        assert totals(program, "run", batch=batch, sequence=length)["macs"] == macs


def cut(feed: graphs.Arrays, length: int) -> graphs.Arrays:
    return {name: np.ascontiguousarray(array[:, :length]) for name, array in feed.items()}


def test_every_call_has_a_shape_of_numbers_to_add_up(source: ModelIR) -> None:
    def calls(entry: Entry) -> list[dict[str, Any]]:
        return [call.work.to_json(RELAXED) for call in entry.calls if not isinstance(call, str)]

    for entry in decoder(source, bits=4).entries:
        for amounts in calls(entry):
            values = {name: evaluate(amounts[name], {"n": 3, "position": 9, "row": 0}) for name in AMOUNTS}
            assert all(value >= 0 for value in values.values()) and values["activations"] > 0
            assert (values["macs"] > 0) == (amounts["unit"] is not None) and amounts["shape"]
