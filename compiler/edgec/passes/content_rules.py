"""What ONNX operators do to the content of small integer tensors (see `shape_rules`)."""

from __future__ import annotations

import operator
from collections.abc import Callable

from edgec.passes import dims as d
from edgec.passes.dims import Dim
from edgec.passes.shape_context import MAX_ELEMENTS, Content, Context, Unknown, axis_of
from edgec.passes.shape_rules import slice_ranges


def _copy(c: Context) -> Content:
    return c.content(0)


def _shape(c: Context) -> Content:
    shape = c.shape(0)
    return tuple(shape[c.integer("start", 0) : c.integer("end", len(shape))])


def _size(c: Context) -> Content:
    return (d.product(c.shape(0)),)


def _concat(c: Context) -> Content:
    return tuple(dim for i in range(len(c.node.inputs)) for dim in c.content(i))


def _gather(c: Context) -> Content:
    data = c.content(0)
    return tuple(data[axis_of(i, len(data))] for i in c.numbers(1))


def _slice(c: Context) -> Content:
    content = list(c.content(0))
    for part in slice_ranges(c):
        if not isinstance(part.start, int) or not isinstance(part.length, int):
            raise Unknown
        content = [content[part.start + part.step * i] for i in range(part.length)]
    return tuple(content)


def _constant_of_shape(c: Context) -> Content:
    attribute = c.node.attributes.get_tensor("value")
    fill = 0 if attribute is None else int(attribute.numpy().reshape(-1)[0])
    count = d.product(c.content(0))
    if not isinstance(count, int) or count > MAX_ELEMENTS:
        raise Unknown
    return (fill,) * count


def _range(c: Context) -> Content:
    start, limit, delta = (c.numbers(i)[0] for i in range(3))
    return tuple(range(start, limit, delta))


def _pairs(c: Context) -> list[tuple[Dim, Dim]]:
    a, b = c.content(0), c.content(1)
    length = max(len(a), len(b))
    if len(a) not in (1, length) or len(b) not in (1, length):
        raise Unknown
    return list(zip(a * (length // len(a)), b * (length // len(b)), strict=True)) if a and b else []


def _binary(function: Callable[[Dim, Dim], Dim]) -> Callable[[Context], Content]:
    return lambda c: tuple(function(a, b) for a, b in _pairs(c))


def _divide(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return int(a / b)  # ONNX integer division truncates
    return d.floor_divide(a, b)


def _compare(function: Callable[[int, int], bool]) -> Callable[[Dim, Dim], Dim]:
    def compare(a: Dim, b: Dim) -> Dim:
        difference = d.subtract(a, b)
        if isinstance(difference, int):
            return int(function(difference, 0))
        # A dimension of an input is at least 1, a computed one at least 0, so it equals no constant below that.
        number = a if isinstance(a, int) else b
        least = 0 if d.computed(difference) else 1
        if function is operator.eq and isinstance(number, int) and number < least:
            return 0
        raise Unknown

    return compare


def _extreme(function: Callable[..., int]) -> Callable[[Dim, Dim], Dim]:
    def choose(a: Dim, b: Dim) -> Dim:
        if isinstance(a, int) and isinstance(b, int):
            return function(a, b)
        if d.same(a, b):
            return a
        raise Unknown

    return choose


def _where(c: Context) -> Content:
    condition, a, b = c.content(0), c.content(1), c.content(2)
    length = max(len(condition), len(a), len(b))

    def at(content: Content, i: int) -> Dim:
        return content[0] if len(content) == 1 else content[i]

    result = []
    for i in range(length):
        flag = at(condition, i)
        if not isinstance(flag, int):
            raise Unknown
        result.append(at(a, i) if flag else at(b, i))
    return tuple(result)


def _negate(c: Context) -> Content:
    return tuple(d.subtract(0, dim) for dim in c.content(0))


def _not(c: Context) -> Content:
    return tuple(int(not flag) for flag in c.numbers(0))


def _product(c: Context) -> Content:
    return (d.product(c.content(0)),)


def _expand(c: Context) -> Content:
    content, target = c.content(0), c.numbers(1)
    if len(target) != 1 or len(content) not in (1, target[0]):
        raise Unknown
    return content * (target[0] // len(content))


Rule = Callable[[Context], Content]

RULES: dict[str, Rule] = {
    "Add": _binary(d.add),
    "Cast": _copy,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _binary(_divide),
    "Equal": _binary(_compare(operator.eq)),
    "Expand": _expand,
    "Gather": _gather,
    "Greater": _binary(_compare(operator.gt)),
    "GreaterOrEqual": _binary(_compare(operator.ge)),
    "Identity": _copy,
    "Less": _binary(_compare(operator.lt)),
    "LessOrEqual": _binary(_compare(operator.le)),
    "Max": _binary(_extreme(max)),
    "Min": _binary(_extreme(min)),
    "Mul": _binary(d.multiply),
    "Neg": _negate,
    "Not": _not,
    "Range": _range,
    "ReduceProd": _product,
    "Reshape": _copy,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Squeeze": _copy,
    "Sub": _binary(d.subtract),
    "Unsqueeze": _copy,
    "Where": _where,
}
