"""Link kernel objects and assembled functions to one stand-alone wasm module.

The module imports `env.memory` and what the caller names, exports the asked functions and `__stack_pointer`, and holds
just what the exports reach. Output is a function of the input: same objects, same bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgec.lower.wasm.assembler import I32, AssembledFunction, i32_const, unsigned_leb
from edgec.lower.wasm.instructions import put_in_place
from edgec.lower.wasm.object_file import (
    DATA,
    FUNCTION,
    FUNCTION_INDEX,
    LOCAL,
    WEAK,
    ObjectError,
    ObjectFile,
    Relocation,
    Symbol,
    parse,
)

STATIC_BASE = 1024  # address 0 stays unused, so that a null pointer never hits data

_ADDRESS_LEB, _ADDRESS_SLEB, _ADDRESS_I32, _TYPE_INDEX, _GLOBAL_INDEX = 3, 4, 5, 6, 7

_Reference = tuple[int, int]  # (object, function or segment); object -1 is an assembled function, -2 an imported one
_ASSEMBLED, _IMPORTED = -1, -2


@dataclass(frozen=True)
class ImportedFunction:
    """Assembled functions call it by `name`; its parameters are i32, and it has no result."""

    module: str
    name: str
    parameters: int


def _padded_leb(value: int) -> bytes:
    return bytes(((value >> (7 * i)) & 0x7F) | (0x80 if i < 4 else 0) for i in range(5))


def _vector(items: Sequence[bytes]) -> bytes:
    return unsigned_leb(len(items)) + b"".join(items)


def _section(number: int, content: bytes) -> bytes:
    return bytes([number]) + unsigned_leb(len(content)) + content


def _name(text: str) -> bytes:
    return unsigned_leb(len(text)) + text.encode()


def _function_type(parameters: int, results: int) -> bytes:
    return b"\x60" + _vector([bytes([I32])] * parameters) + _vector([bytes([I32])] * results)


class _Linker:
    def __init__(
        self, objects: Sequence[bytes], assembled: Sequence[AssembledFunction], imported: Sequence[ImportedFunction]
    ) -> None:
        self.objects: list[ObjectFile] = [put_in_place(parse(data)) for data in objects]
        self.assembled = list(assembled)
        self.imported = list(imported)
        self.functions: dict[str, _Reference] = {}
        self.data: dict[str, tuple[int, Symbol]] = {}
        for index, function in enumerate(self.assembled):
            self.functions[function.name] = (_ASSEMBLED, index)
        for index, outside in enumerate(self.imported):
            self.functions[outside.name] = (_IMPORTED, index)
        for number, obj in enumerate(self.objects):
            for symbol in obj.symbols:
                if not symbol.defined or symbol.flags & LOCAL:
                    continue
                if symbol.kind == FUNCTION and (symbol.name not in self.functions or not symbol.flags & WEAK):
                    self.functions[symbol.name] = (number, symbol.index - len(obj.imported_functions))
                elif symbol.kind == DATA and (symbol.name not in self.data or not symbol.flags & WEAK):
                    self.data[symbol.name] = (number, symbol)
        self.live: list[_Reference] = []
        self.live_segments: dict[_Reference, int] = {}  # -> address
        self.types: list[bytes] = []

    def type_index(self, signature: bytes) -> int:
        if signature not in self.types:
            self.types.append(signature)
        return self.types.index(signature)

    def function_named(self, name: str) -> _Reference:
        if name not in self.functions:
            raise ObjectError(f"undefined function `{name}`")
        return self.functions[name]

    def resolve_function(self, number: int, symbol: Symbol) -> _Reference:
        if symbol.defined and symbol.flags & LOCAL:
            return number, symbol.index - len(self.objects[number].imported_functions)
        return self.function_named(symbol.name)

    def resolve_data(self, number: int, symbol: Symbol) -> tuple[_Reference, int]:
        if not (symbol.defined and symbol.flags & LOCAL):
            if symbol.name not in self.data:
                raise ObjectError(f"undefined data `{symbol.name}`")
            number, symbol = self.data[symbol.name]
        return (number, symbol.index), symbol.offset

    def mark(self, exports: Sequence[str]) -> None:
        """Everything that the exports reach, in a depth-first order."""
        seen: set[_Reference] = set()
        pending = [self.function_named(name) for name in reversed(exports)]
        while pending:
            reference = pending.pop()
            if reference in seen:
                continue
            seen.add(reference)
            if reference[0] == _IMPORTED:
                continue
            self.live.append(reference)
            pending.extend(reversed(self._callees(reference)))

    def _callees(self, reference: _Reference) -> list[_Reference]:
        number, index = reference
        if number < 0:
            return [self.function_named(part) for part in self.assembled[index].code if isinstance(part, str)]
        return self._references(number, self.objects[number].functions[index].relocations)

    def _references(self, number: int, relocations: Sequence[Relocation]) -> list[_Reference]:
        callees = []
        for relocation in relocations:
            symbols = self.objects[number].symbols
            if relocation.kind == FUNCTION_INDEX:
                callees.append(self.resolve_function(number, symbols[relocation.symbol]))
            elif relocation.kind in (_ADDRESS_LEB, _ADDRESS_SLEB, _ADDRESS_I32):
                segment, _ = self.resolve_data(number, symbols[relocation.symbol])
                if segment not in self.live_segments:
                    self.live_segments[segment] = 0
                    content = self.objects[segment[0]].segments[segment[1]]
                    callees += self._references(segment[0], content.relocations)
        return callees

    def place_segments(self) -> int:
        address = STATIC_BASE
        for number, index in sorted(self.live_segments):
            segment = self.objects[number].segments[index]
            address = -(-address // segment.alignment) * segment.alignment
            self.live_segments[number, index] = address
            address += len(segment.data)
        return address

    def patch(
        self, number: int, content: bytes, relocations: Sequence[Relocation], index_of: dict[_Reference, int]
    ) -> bytes:
        out = bytearray(content)
        obj = self.objects[number]
        for relocation in relocations:
            at = relocation.offset
            if relocation.kind == _TYPE_INDEX:
                out[at : at + 5] = _padded_leb(self.type_index(obj.types[relocation.symbol]))
                continue
            symbol = obj.symbols[relocation.symbol]
            if relocation.kind == FUNCTION_INDEX:
                out[at : at + 5] = _padded_leb(index_of[self.resolve_function(number, symbol)])
            elif relocation.kind in (_ADDRESS_LEB, _ADDRESS_SLEB, _ADDRESS_I32):
                segment, offset = self.resolve_data(number, symbol)
                address = self.live_segments[segment] + offset + relocation.addend
                # Static data lies below 64 MiB, where the signed and unsigned padded forms agree.
                encoded = struct.pack("<I", address) if relocation.kind == _ADDRESS_I32 else _padded_leb(address)
                out[at : at + len(encoded)] = encoded
            elif relocation.kind == _GLOBAL_INDEX and symbol.name == "__stack_pointer":
                out[at : at + 5] = _padded_leb(0)
            else:
                raise ObjectError(f"relocation {relocation.kind} of `{symbol.name}` is not supported")
        return bytes(out)

    def function_type(self, reference: _Reference) -> bytes:
        number, index = reference
        if number >= 0:
            return self.objects[number].functions[index].type
        if number == _IMPORTED:
            return _function_type(self.imported[index].parameters, 0)
        function = self.assembled[index]
        return _function_type(function.parameters, function.results)

    def body(self, reference: _Reference, index_of: dict[_Reference, int]) -> bytes:
        number, index = reference
        if number >= 0:
            function = self.objects[number].functions[index]
            return self.patch(number, function.body, function.relocations, index_of)
        assembled = self.assembled[index]
        declared = _vector([unsigned_leb(assembled.locals) + bytes([I32])] if assembled.locals else [])
        parts = [
            b"\x10" + unsigned_leb(index_of[self.function_named(part)]) if isinstance(part, str) else part
            for part in assembled.code
        ]
        return declared + b"".join(parts) + b"\x0b"


def link(
    objects: Sequence[bytes],
    assembled: Sequence[AssembledFunction],
    exports: Sequence[str],
    *,
    static_limit: int,
    maximum_pages: int,
    shared: bool,
    imports: Sequence[ImportedFunction] = (),
    sections: Mapping[str, bytes] | None = None,
) -> bytes:
    """Link to a module whose data ends below `static_limit`; raises `ObjectError`.

    `shared` imports a shared memory of exactly `maximum_pages` at most. `sections` are custom ones, by name.
    """
    linker = _Linker(objects, assembled, imports)
    linker.mark(exports)
    if linker.place_segments() > static_limit:
        raise ObjectError(f"constants of the kernels do not fit in {static_limit} bytes")
    outside = [(_IMPORTED, index) for index in range(len(imports))]  # imported functions have the first indices
    index_of = {reference: index for index, reference in enumerate([*outside, *linker.live])}
    bodies = [linker.body(reference, index_of) for reference in linker.live]
    imported = [
        _name(function.module)
        + _name(function.name)
        + b"\0"
        + unsigned_leb(linker.type_index(linker.function_type(at)))
        for function, at in zip(imports, outside, strict=True)
    ]
    type_indices = [unsigned_leb(linker.type_index(linker.function_type(reference))) for reference in linker.live]
    segments = []
    for (number, index), address in sorted(linker.live_segments.items()):
        segment = linker.objects[number].segments[index]
        data = linker.patch(number, segment.data, segment.relocations, index_of)
        if any(data):  # memory starts zeroed
            segments.append(b"\0" + i32_const(address) + b"\x0b" + unsigned_leb(len(data)) + data)
    limits = bytes([3 if shared else 1]) + unsigned_leb(1) + unsigned_leb(maximum_pages)
    exported = [_name(name) + b"\0" + unsigned_leb(index_of[linker.function_named(name)]) for name in exports]
    exported.append(_name("__stack_pointer") + b"\x03" + unsigned_leb(0))
    return b"".join(
        [
            b"\0asm\1\0\0\0",
            _section(1, _vector(linker.types)),
            _section(2, _vector([_name("env") + _name("memory") + b"\x02" + limits, *imported])),
            _section(3, _vector(type_indices)),
            _section(6, _vector([bytes([I32, 1]) + i32_const(0) + b"\x0b"])),
            _section(7, _vector(exported)),
            _section(10, _vector([unsigned_leb(len(body)) + body for body in bodies])),
            _section(11, _vector(segments)) if segments else b"",
            *(_section(0, _name(name) + content) for name, content in sorted((sections or {}).items())),
        ]
    )
