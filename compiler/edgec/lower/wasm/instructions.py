"""Instructions that keep their place.

LLVM moves what has no side effects to where it is used: of eight sums that a kernel adds to in turns it makes eight
chains one after the other, and all factors stay alive meanwhile. It does not move calls. So kernels call functions that
are named after instructions, and `put_in_place` puts the instructions there (docs/decisions/0033).
"""

from __future__ import annotations

from dataclasses import replace

from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.kernels.builder import Expr
from edgec.lower.wasm.object_file import FUNCTION_INDEX, ObjectError, ObjectFile, Relocation

_PREFIX = "instruction."
_CALL = 0x10
_CALL_BYTES = 6  # of a call whose function is padded to five bytes, as in all objects

_INSTRUCTIONS = {  # type of the result, code
    "i16x8.add": ("int16x8", b"\xfd\x8e\x01"),
    "i32x4.add": ("int32x4", b"\xfd\xae\x01"),
    "i32x4.relaxed_dot_i8x16_i7x16_add_s": ("int32x4", b"\xfd\x93\x02"),
}


def in_order(name: str, *operands: Expr) -> Expr:
    """One of `_INSTRUCTIONS`; it, loads and stores stay in the order in which a kernel states them."""
    dtype, _ = _INSTRUCTIONS[name]
    return T.call_extern(dtype, _PREFIX + name, *operands)


def put_in_place(obj: ObjectFile) -> ObjectFile:
    """`obj`, its calls of `in_order` replaced by instructions."""
    called = {
        index: symbol.name.removeprefix(_PREFIX)
        for index, symbol in enumerate(obj.symbols)
        if not symbol.defined and symbol.name.startswith(_PREFIX)
    }
    for function in obj.functions if called else ():
        parts: list[bytes] = []
        kept: list[Relocation] = []
        done = removed = 0
        for relocation in function.relocations:
            if relocation.kind != FUNCTION_INDEX or relocation.symbol not in called:
                kept.append(replace(relocation, offset=relocation.offset - removed))
                continue
            start = relocation.offset - 1
            if function.body[start] != _CALL:
                raise ObjectError(f"`{called[relocation.symbol]}` is used as a function")
            _, code = _INSTRUCTIONS[called[relocation.symbol]]
            parts += [function.body[done:start], code]
            done = start + _CALL_BYTES
            removed += _CALL_BYTES - len(code)
        function.body = b"".join([*parts, function.body[done:]])
        function.relocations = kept
    return obj
