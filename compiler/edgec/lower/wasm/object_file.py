"""Reader for relocatable wasm objects as LLVM writes them (tool-conventions/Linking.md)."""

from __future__ import annotations

from dataclasses import dataclass, field

FUNCTION, DATA, GLOBAL, SECTION, TABLE = 0, 1, 2, 3, 5
UNDEFINED, LOCAL, WEAK, EXPLICIT_NAME = 0x10, 0x02, 0x01, 0x40
FUNCTION_INDEX = 0  # kind of relocation: what a call names

# Relocations that carry an addend.
_WITH_ADDEND = {3, 4, 5, 8, 9, 11, 14, 15, 16}


class ObjectError(ValueError):
    """The object file is not what LLVM writes."""


class Reader:
    def __init__(self, data: bytes, position: int = 0) -> None:
        self.data = data
        self.position = position

    def byte(self) -> int:
        self.position += 1
        return self.data[self.position - 1]

    def unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    def signed(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value - (1 << shift) if byte & 0x40 else value

    def take(self, length: int) -> bytes:
        self.position += length
        return self.data[self.position - length : self.position]

    def name(self) -> str:
        return self.take(self.unsigned()).decode()


@dataclass(frozen=True)
class Relocation:
    kind: int
    offset: int  # in the function body or data segment
    symbol: int  # index of a symbol, of a type for kind 6
    addend: int


@dataclass(frozen=True)
class Symbol:
    kind: int
    flags: int
    name: str
    index: int = 0  # function, or data segment
    offset: int = 0  # data: in its segment

    @property
    def defined(self) -> bool:
        return not self.flags & UNDEFINED


@dataclass
class Segment:
    name: str
    alignment: int
    data: bytes
    start: int  # in the section
    relocations: list[Relocation] = field(default_factory=list)


@dataclass
class Function:
    type: bytes
    body: bytes
    start: int
    relocations: list[Relocation] = field(default_factory=list)


@dataclass
class ObjectFile:
    types: list[bytes] = field(default_factory=list)
    imported_functions: list[str] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    symbols: list[Symbol] = field(default_factory=list)


def _imports(reader: Reader, result: ObjectFile) -> dict[int, list[str]]:
    by_kind: dict[int, list[str]] = {FUNCTION: [], GLOBAL: [], TABLE: []}
    for _ in range(reader.unsigned()):
        reader.name()
        name, kind = reader.name(), reader.byte()
        if kind == 0:
            reader.unsigned()
            by_kind[FUNCTION].append(name)
        elif kind in (1, 2):
            if kind == 1:
                reader.byte()
                by_kind[TABLE].append(name)
            if reader.unsigned() & 1:
                reader.unsigned()
            reader.unsigned()
        elif kind == 3:
            reader.take(2)
            by_kind[GLOBAL].append(name)
        else:
            raise ObjectError(f"import of kind {kind}")
    result.imported_functions = by_kind[FUNCTION]
    return by_kind


def _symbols(reader: Reader, imports: dict[int, list[str]]) -> list[Symbol]:
    symbols = []
    for _ in range(reader.unsigned()):
        kind, flags = reader.byte(), reader.unsigned()
        if kind in (FUNCTION, GLOBAL, TABLE):
            index = reader.unsigned()
            named = not flags & UNDEFINED or flags & EXPLICIT_NAME
            name = reader.name() if named else imports[kind][index]
            symbols.append(Symbol(kind, flags, name, index))
        elif kind == DATA:
            name = reader.name()
            place = (reader.unsigned(), reader.unsigned(), reader.unsigned()) if not flags & UNDEFINED else (0, 0, 0)
            symbols.append(Symbol(kind, flags, name, place[0], place[1]))
        elif kind == SECTION:
            symbols.append(Symbol(kind, flags, "", reader.unsigned()))
        else:
            raise ObjectError(f"symbol of kind {kind}")
    return symbols


def parse(data: bytes) -> ObjectFile:
    """Read an object file; raises `ObjectError`."""
    if data[:8] != b"\0asm\1\0\0\0":
        raise ObjectError("not a wasm file")
    result = ObjectFile()
    imports: dict[int, list[str]] = {}
    function_types: list[int] = []
    sections: list[int] = []
    relocations: list[tuple[int, list[Relocation]]] = []
    segment_information: list[tuple[str, int]] = []
    reader = Reader(data, 8)
    while reader.position < len(data):
        section, length = reader.byte(), reader.unsigned()
        start = reader.position
        end = start + length
        sections.append(section)
        if section == 1:
            for _ in range(reader.unsigned()):
                begin = reader.position
                reader.byte()
                reader.take(reader.unsigned())
                reader.take(reader.unsigned())
                result.types.append(data[begin : reader.position])
        elif section == 2:
            imports = _imports(reader, result)
        elif section == 3:
            function_types = [reader.unsigned() for _ in range(reader.unsigned())]
        elif section == 10:
            for index in range(reader.unsigned()):
                size = reader.unsigned()
                offset = reader.position - start
                result.functions.append(Function(result.types[function_types[index]], reader.take(size), offset))
        elif section == 11:
            for _ in range(reader.unsigned()):
                if reader.unsigned() == 0:  # active: i32.const address end
                    reader.byte(), reader.signed(), reader.byte()
                size = reader.unsigned()
                offset = reader.position - start
                result.segments.append(Segment("", 1, reader.take(size), offset))
        elif section == 0:
            name = reader.name()
            if name == "linking":
                reader.unsigned()  # version
                while reader.position < end:
                    kind = reader.byte()
                    following = reader.unsigned() + reader.position
                    if kind == 8:
                        result.symbols = _symbols(reader, imports)
                    elif kind == 5:
                        for _ in range(reader.unsigned()):
                            segment_information.append((reader.name(), 1 << reader.unsigned()))
                            reader.unsigned()
                    elif kind == 6 and reader.unsigned():
                        raise ObjectError("static constructors are not supported")
                    reader.position = following
            elif name.startswith("reloc."):
                target = sections[reader.unsigned()]
                entries = []
                for _ in range(reader.unsigned()):
                    kind, offset, symbol = reader.byte(), reader.unsigned(), reader.unsigned()
                    entries.append(Relocation(kind, offset, symbol, reader.signed() if kind in _WITH_ADDEND else 0))
                relocations.append((target, entries))
        reader.position = end
    for segment, (name, alignment) in zip(result.segments, segment_information, strict=True):
        segment.name, segment.alignment = name, alignment
    for target, entries in relocations:
        if target == 10:
            _distribute(entries, [(f.start, f.start + len(f.body), f.relocations) for f in result.functions])
        elif target == 11:
            _distribute(entries, [(s.start, s.start + len(s.data), s.relocations) for s in result.segments])
    return result


def _distribute(entries: list[Relocation], ranges: list[tuple[int, int, list[Relocation]]]) -> None:
    """Both lists are in address order; offsets become relative to their range."""
    position = 0
    for entry in sorted(entries, key=lambda entry: entry.offset):
        while entry.offset >= ranges[position][1]:
            position += 1
        start, _, target = ranges[position]
        target.append(Relocation(entry.kind, entry.offset - start, entry.symbol, entry.addend))
