"""Room for a low-rank adapter in a decoder, and the calls that add it to its linears.

All linears of all adapters have their place in memory; an adapter is there when the word `switch` holds its rank, and
nothing more than the test of that word is done when it holds 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgec.ir.compressed import GROUP, ROWS
from edgec.ir.lowered import AdapterSlot, AdapterSlots
from edgec.lower.wasm.kernels.adapter import Outputs, activate, adapter_down, adapter_up, dequantize
from edgec.lower.wasm.kernels.epilogue import padded
from edgec.lower.wasm.program import Entry, Operand, Program, Scalar, Storage, View
from edgec.lower.wasm.work import Work, times


@dataclass(frozen=True)
class Adapted:
    """A linear of the checkpoint inside a linear of the graph: its name, and where its outputs are."""

    name: str
    outputs: Outputs


@dataclass(frozen=True)
class _Room:
    columns: int
    rows: int
    scales: Storage
    down: Storage
    up: Storage


class Adapters:
    """Of up to `rank`, for chunks of `rows` tokens."""

    def __init__(self, program: Program, rank: int, rows: int) -> None:
        self.program, self.rank, self.rows = program, rank, rows
        self.program.switch = program.reserve("adapter.rank", 4)
        self._rooms: dict[str, _Room] = {}

    def room(self, adapted: Adapted, columns: int) -> _Room:
        name, rows = adapted.name, padded(adapted.outputs.rows)
        if name not in self._rooms:
            sizes = {"scales": 4 * self.rank, "down": 2 * self.rank * columns, "up": 2 * self.rank * rows}
            storages = {part: self.program.reserve(f"{name}.{part}", size) for part, size in sizes.items()}
            self._rooms[name] = _Room(columns, adapted.outputs.rows, **storages)
        return self._rooms[name]

    def add(
        self,
        entry: Entry,
        source: tuple[tuple[Storage, ...], int, int],
        columns: int,
        parts: Sequence[Adapted],
        output: Storage,
        stride: int,
        m: Scalar,
    ) -> None:
        """Adds the adapters of `parts` to a linear's output (`stride` floats a row). `source` is the linear's input:
        its storages, floats per row, groups that share a scale (0: it is no codes)."""
        storages, input_stride, span = source
        rooms = [self.room(part, columns) for part in parts]
        floats = storages[0]
        if span:
            input_stride = -(-columns // GROUP) * GROUP
            floats = self.program.workspace("adapter_input", 4 * input_stride * self.rows)
            kernel = self.program.kernel(
                ("dequantize", columns, span), lambda isa: dequantize(isa, columns=columns, span=span)
            )
            self._call(entry, kernel, *storages, floats, m, moved=times(m, 6 * columns), macs=0, shape=f"{columns}")
        inner = self.program.workspace("adapter_inner", 4 * self.rank * len(parts) * self.rows)
        kernel = self.program.kernel(
            ("adapter_down", columns, input_stride, len(parts)),
            lambda isa: adapter_down(columns=columns, stride=input_stride, parts=len(parts)),
        )
        weights = [storage for room in rooms for storage in (room.down, room.scales)]
        width = self.rank * len(parts)
        shape = f"{width}x{columns}"
        self._call(
            entry,
            kernel,
            floats,
            *weights,
            inner,
            m,
            "rank",
            moved=times(m, 4 * columns),
            macs=width * columns,
            shape=shape,
        )
        outputs = tuple(part.outputs for part in parts)
        kernel = self.program.kernel(
            ("adapter_up", outputs, stride), lambda isa: adapter_up(outputs=outputs, stride=stride)
        )
        rows = sum(place.rows for place in outputs)
        ups = [room.up for room in rooms]
        self._call(
            entry, kernel, inner, *ups, output, m, "rank", moved=times(m, 8 * rows), macs=self.rank * rows,
            shape=f"{rows}x{self.rank}",
        )  # fmt: skip

    def activate(
        self,
        entry: Entry,
        source: Storage,
        output: Storage,
        m: Scalar,
        *,
        activation: str | None,
        gated: bool,
        rows: int,
    ) -> None:
        """`rows` outputs from the sums of a linear, gates and ups in turns when `gated`."""
        stride = padded(rows)
        kernel = self.program.kernel(
            ("activate", activation, gated, rows),
            lambda isa: activate(activation=activation, gated=gated, outputs=rows, stride=stride),
        )
        self._call(
            entry, kernel, source, output, m, moved=times(m, (12 if gated else 8) * rows), macs=0, shape=f"{rows}"
        )

    def _call(self, entry: Entry, kernel: str, *operands: Operand, moved: Scalar, macs: int, shape: str) -> None:
        m = next(operand for operand in operands if not isinstance(operand, Storage | View))
        work = Work(macs=times(m, macs), arithmetic="float32" if macs else None, activations=moved, shape=shape)
        entry.call(kernel, *operands, work=work, adapter=True)

    def slots(self) -> AdapterSlots:
        """When the program has been placed."""
        assert self.program.switch is not None
        return AdapterSlots(
            self.rank,
            self.program.switch.offset,
            tuple(
                AdapterSlot(name, room.rows, room.columns, room.scales.offset, room.down.offset, room.up.offset)
                for name, room in self._rooms.items()
            ),
        )


def gate_and_up(gate: str, up: str, rows: int) -> tuple[Adapted, Adapted]:
    """The two halves of a gated linear, whose blocks take turns."""
    return Adapted(gate, Outputs(rows, 0, 2 * ROWS)), Adapted(up, Outputs(rows, ROWS, 2 * ROWS))


__all__ = ["Adapted", "Adapters", "gate_and_up"]
