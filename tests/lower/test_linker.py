from __future__ import annotations

import pytest
import wasmtime

from edgec.lower.wasm.abi import compile_kernels
from edgec.lower.wasm.assembler import AssembledFunction, barrier, i32_const, local_get, signed_leb, unsigned_leb
from edgec.lower.wasm.kernels.planes import merge_bit1, merge_bits2
from edgec.lower.wasm.linker import ImportedFunction, link
from edgec.lower.wasm.object_file import ObjectError, parse
from edgec.lower.wasm.target import SIMD128


@pytest.fixture(scope="module")
def compiled() -> bytes:
    return compile_kernels({"merge_bits2": merge_bits2(), "merge_bit1": merge_bit1()}, SIMD128)[0]


def linked(compiled: bytes, exports: list[str], *assembled: AssembledFunction, shared: bool = False) -> bytes:
    return link([compiled], assembled, exports, static_limit=65536, maximum_pages=16, shared=shared)


def test_imports_memory_and_nothing_else(compiled: bytes) -> None:
    module = wasmtime.Module(wasmtime.Engine(), linked(compiled, ["merge_bits2"]))
    assert [(item.module, item.name) for item in module.imports] == [("env", "memory")]
    assert [item.name for item in module.exports] == ["merge_bits2", "__stack_pointer"]


def test_only_what_the_exports_reach(compiled: bytes) -> None:
    both, one = linked(compiled, ["merge_bits2", "merge_bit1"]), linked(compiled, ["merge_bits2"])
    assert len(one) < len(both) < len(compiled)


def test_same_input_same_bytes(compiled: bytes) -> None:
    again, _ = compile_kernels({"merge_bits2": merge_bits2(), "merge_bit1": merge_bit1()}, SIMD128)
    assert again == compiled
    assert linked(again, ["merge_bit1"]) == linked(compiled, ["merge_bit1"])


def test_assembled_functions_call_each_other(compiled: bytes) -> None:
    inner = AssembledFunction("inner", parameters=1, code=[local_get(0), i32_const(1), b"\x6a"])
    outer = AssembledFunction("outer", parameters=1, code=[local_get(0), "inner", "inner"])
    engine = wasmtime.Engine()
    store = wasmtime.Store(engine)
    memory = wasmtime.Memory(store, wasmtime.MemoryType(wasmtime.Limits(1, 16)))
    module = wasmtime.Module(engine, linked(compiled, ["outer"], outer, inner))
    outer_function = wasmtime.Instance(store, module, [memory]).exports(store)["outer"]
    assert isinstance(outer_function, wasmtime.Func)
    assert outer_function(store, 40) == 42


def test_barrier_validates_with_shared_memory(compiled: bytes) -> None:
    config = wasmtime.Config()
    config.wasm_threads = True
    wasmtime.Module(wasmtime.Engine(config), linked(compiled, ["edgec_barrier"], barrier(), shared=True))


def test_undefined_function(compiled: bytes) -> None:
    with pytest.raises(ObjectError, match="undefined function `missing`"):
        linked(compiled, ["outer"], AssembledFunction("outer", parameters=0, code=["missing"]))


def test_not_an_object_file() -> None:
    with pytest.raises(ObjectError):
        parse(b"ELF")


@pytest.mark.parametrize("value", [0, 1, 63, 64, 127, 128, 65535, 2**31 - 1, -1, -64, -65, -(2**31)])
def test_leb128(value: int) -> None:
    def decode(data: bytes, signed: bool) -> int:
        result = shift = 0
        for byte in data:
            result |= (byte & 0x7F) << shift
            shift += 7
        return result - (1 << shift) if signed and data[-1] & 0x40 else result

    assert decode(signed_leb(value), True) == value
    if value >= 0:
        assert decode(unsigned_leb(value), False) == value


def test_addresses_above_two_gibibytes_wrap() -> None:
    assert i32_const(0xFFFFFFFF) == b"\x41\x7f"


def test_named_functions_are_imported_beside_the_memory(compiled: bytes) -> None:
    told = ImportedFunction("outside", "tell", parameters=1)
    inner = AssembledFunction("inner", parameters=0, code=[i32_const(41), "tell", i32_const(1)])
    outer = AssembledFunction("outer", parameters=0, code=["inner", b"\x1a", i32_const(42), "tell", i32_const(0)])
    memory = {"static_limit": 65536, "maximum_pages": 16, "shared": False}
    data = link([compiled], [outer, inner], ["outer", "merge_bits2"], imports=[told], **memory)  # type: ignore[arg-type]
    engine = wasmtime.Engine()
    module = wasmtime.Module(engine, data)
    assert [(item.module, item.name) for item in module.imports] == [("env", "memory"), ("outside", "tell")]
    store, seen = wasmtime.Store(engine), list[int]()
    tell = wasmtime.Func(store, wasmtime.FuncType([wasmtime.ValType.i32()], []), seen.append)
    own = wasmtime.Memory(store, wasmtime.MemoryType(wasmtime.Limits(1, 16)))
    function = wasmtime.Instance(store, module, [own, tell]).exports(store)["outer"]
    assert isinstance(function, wasmtime.Func)
    assert function(store) == 0 and seen == [41, 42]


def test_custom_sections_are_at_the_end(compiled: bytes) -> None:
    plain = linked(compiled, ["merge_bits2"])
    memory = {"static_limit": 65536, "maximum_pages": 16, "shared": False}
    more = link([compiled], [], ["merge_bits2"], sections={"notes": b"text"}, **memory)  # type: ignore[arg-type]
    assert more == plain + b"\x00\x0a\x05notestext"
    wasmtime.Module(wasmtime.Engine(), more)
