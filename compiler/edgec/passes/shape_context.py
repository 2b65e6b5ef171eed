"""What is known about one node while shapes are inferred."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgec.passes.dims import Dim

MAX_ELEMENTS = 64
Shape = list[Dim]
Content = tuple[Dim, ...]


@dataclass(frozen=True)
class Context:
    """One node with what is known about its inputs (`None` where nothing is)."""

    node: ir.Node
    shapes: Sequence[Shape | None]
    contents: Sequence[Content | None]

    def shape(self, index: int) -> Shape:
        shape = self.shapes[index] if index < len(self.shapes) else None
        if shape is None:
            raise Unknown
        return shape

    def content(self, index: int) -> Content:
        content = self.contents[index] if index < len(self.contents) else None
        if content is None:
            raise Unknown
        return content

    def numbers(self, index: int) -> list[int]:
        """The content as plain integers."""
        content = self.content(index)
        if not all(isinstance(dim, int) for dim in content):
            raise Unknown
        return [int(dim) for dim in content if isinstance(dim, int)]

    def array(self, index: int) -> npt.NDArray[np.float64]:
        """A constant input of any type."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        if value is None or value.const_value is None or value.const_value.size > MAX_ELEMENTS:
            raise Unknown
        return np.asarray(value.const_value.numpy(), np.float64)

    def has(self, index: int) -> bool:
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def integer(self, name: str, default: int) -> int:
        return self.node.attributes.get_int(name, default)

    def integers(self, name: str, default: Sequence[int] | None = None) -> list[int]:
        if name in self.node.attributes:
            return list(self.node.attributes[name].as_ints())
        if default is None:
            raise Unknown
        return list(default)

    def text(self, name: str, default: str) -> str:
        return self.node.attributes.get_string(name, default)


class Unknown(Exception):
    """The shape cannot be told from what is known."""


def axis_of(axis: int, rank: int) -> int:
    return axis + rank if axis < 0 else axis
