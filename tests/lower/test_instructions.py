"""Instructions that LLVM may not move."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.abi import compile_kernels
from edgec.lower.wasm.instructions import in_order, put_in_place
from edgec.lower.wasm.kernels.builder import KernelBuilder, Registers, load, store
from edgec.lower.wasm.object_file import (
    FUNCTION,
    UNDEFINED,
    Function,
    ObjectError,
    ObjectFile,
    Relocation,
    Symbol,
    parse,
)
from edgec.lower.wasm.target import RELAXED, SIMD128
from tests.lower.kernel_runner import KernelRunner

STEPS, SUMS = 3, 2
LOAD, ADD = rb"\xfd\x00", rb"\xfd\xae\x01"


def two_sums(ordered: bool) -> Any:
    """`output[s] = sum over steps of input[step, s]`, the sums added to in turns."""
    with KernelBuilder() as k:
        source = k.buffer("input", "int32")
        target = k.buffer("output", "int32")
        sums = Registers(SUMS, "int32x4")
        sums.fill(SUMS, 1)
        for step in range(STEPS):
            for number in range(SUMS):
                value = load(source, (step * SUMS + number) * 4)
                sums[number] = in_order("i32x4.add", sums[number], value) if ordered else sums[number] + value
        for number in range(SUMS):
            store(target, number * 4, sums[number])
    return k.func


@pytest.mark.parametrize("ordered", [True, False])
def test_sums_are_the_same(ordered: bool) -> None:
    values = np.arange(STEPS * SUMS * 4, dtype=np.int32)
    output = np.zeros(SUMS * 4, np.int32)
    KernelRunner(two_sums(ordered), SIMD128).run([values, output])
    np.testing.assert_array_equal(output, values.reshape(STEPS, SUMS * 4).sum(0) + 1)


def test_order_is_that_of_the_kernel() -> None:
    """LLVM alone adds to one sum after the other."""

    def order(ordered: bool) -> list[bytes]:
        obj = put_in_place(parse(compile_kernels({"kernel": two_sums(ordered)}, SIMD128)[0]))
        kernel = obj.functions[0]
        # A load names its alignment and then its offset: the place in the input.
        return re.findall(LOAD + rb"[\x00-\x04][\x00-\x7f]", kernel.body)

    places = [found[-1] // 16 for found in order(True)]
    assert places == list(range(STEPS * SUMS))
    assert sorted(places) == sorted(found[-1] // 16 for found in order(False)) and order(False) != order(True)


def test_relaxed_dot() -> None:
    with KernelBuilder() as k:
        left, right, output = (k.buffer(name, "int32") for name in ("left", "right", "output"))
        factors = [T.reinterpret("int8x16", load(buffer, 0)) for buffer in (left, right)]
        store(
            output, 0, in_order("i32x4.relaxed_dot_i8x16_i7x16_add_s", *factors, T.Broadcast(tirx.const(7, "int32"), 4))
        )
    rng = np.random.default_rng(0)
    a, b = rng.integers(-128, 128, 16).astype(np.int8), rng.integers(0, 128, 16).astype(np.int8)
    got = np.zeros(4, np.int32)
    KernelRunner(k.func, RELAXED).run([a, b, got])
    np.testing.assert_array_equal(got, (a.astype(np.int32) * b).reshape(4, 4).sum(1) + 7)


def test_relocations_behind_move() -> None:
    symbols = [Symbol(FUNCTION, UNDEFINED, "instruction.i32x4.add"), Symbol(FUNCTION, UNDEFINED, "other", 1)]
    body = b"\x01\x10\x80\x80\x80\x80\x00\x10\x81\x80\x80\x80\x00\x0b"
    function = Function(b"", body, 0, [Relocation(0, 2, 0, 0), Relocation(0, 8, 1, 0)])
    put_in_place(ObjectFile(functions=[function], symbols=symbols))
    assert function.body == b"\x01\xfd\xae\x01\x10\x81\x80\x80\x80\x00\x0b"
    assert function.relocations == [Relocation(0, 5, 1, 0)]


def test_no_pointer_to_an_instruction() -> None:
    symbols = [Symbol(FUNCTION, UNDEFINED, "instruction.i32x4.add")]
    function = Function(b"", b"\x41\x80\x80\x80\x80\x00\x0b", 0, [Relocation(0, 1, 0, 0)])
    with pytest.raises(ObjectError, match=r"`i32x4.add` is used as a function"):
        put_in_place(ObjectFile(functions=[function], symbols=symbols))
