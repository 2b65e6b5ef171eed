"""Upper bounds of a graph's symbolic dimensions."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from edgec.errors import UsageError
from edgec.ir.model import ModelIR
from edgec.passes.computed_dims import COMPUTED, DECLARED
from edgec.passes.dims import Dim

_DEFAULT_SEQUENCE = 256
_DEFAULT_LINE = 160  # steps of 8 pixels: a line of some 80 letters
_PATTERNS = (
    (re.compile(r"^det_(rows|columns)$"), "steps"),
    (re.compile(r"^rec_columns$"), "line"),
    (re.compile(r"^samples$"), "samples"),
    (re.compile(r"^past$"), "past"),
    (re.compile(r"batch|^n$", re.I), "batch"),
    (re.compile(r"seq|length|token|past|^s$|^l$", re.I), "sequence"),
    (re.compile(r"height|^h$", re.I), "height"),
    (re.compile(r"width|^w$", re.I), "width"),
)


def symbols(model: ModelIR) -> tuple[str, ...]:
    """Symbolic dimensions of the graph's inputs, in order of appearance."""
    found: dict[str, None] = {}
    for value in model.model.graph.inputs:
        for dim in value.shape.dims if value.shape is not None else ():
            if not isinstance(dim, int) and dim.value is not None:
                found.update(dict.fromkeys(sorted(dim.free_symbols())))
    return tuple(found)


def bounds(model: ModelIR, given: Mapping[str, int] | None) -> tuple[dict[str, int], list[str]]:
    """Bound of each symbol and the reasons; `given` wins, then the task, then the dimension's name.

    Raises `UsageError` for names that the graph does not have and for symbols that say nothing.
    """
    names, computed = symbols(model), _computed(model)
    for name, size in (given or {}).items():
        if name not in names and name not in computed:
            close = difflib.get_close_matches(name, [*names, *computed], 1)
            known = ", ".join(f"`{known}`" for known in (*names, *computed)) or "none"
            hint = f"did you mean `{close[0]}`?" if close else f"symbolic dimensions of this model: {known}"
            raise UsageError(f"`{model.facts.name}` has no dimension `{name}`", hint=hint)
        if size < 1:
            raise UsageError(f"the dimension `{name}` cannot be at most {size}")
    result: dict[str, int] = {}
    reasons: list[str] = []
    for name in names:
        if given and name in given:
            result[name], why = given[name], "asked for"
        else:
            result[name], why = _default(name, model.task or {}, model.facts.name)
        reasons.append(f"`{name}` is at most {result[name]}: {why}")
    reasons += _bound_computed(model, computed, given or {}, result)
    return result, reasons


def _computed(model: ModelIR) -> dict[str, tuple[Dim, ...]]:
    """The dimensions that follow from values, in the order in which they are computed."""
    found: dict[str, tuple[Dim, ...]] = {}
    for node in model.model.graph:
        found |= node.meta.get(COMPUTED, {})
    return found


def _bound_computed(
    model: ModelIR, computed: Mapping[str, tuple[Dim, ...]], given: Mapping[str, int], result: dict[str, int]
) -> list[str]:
    """Adds the bounds of computed dimensions to `result`: what was asked for, else the tightest that is known."""
    declared = _declared(model)
    reasons: list[str] = []
    missing: list[str] = []
    for name, expressions in computed.items():
        sizes = [size for dim in expressions if (size := _value(dim, result)) is not None]
        every = len(sizes) == len(expressions) > 0
        candidates = [(max(sizes), "as many as there are elements")] if every else []
        if name in declared:
            candidates.append((declared[name], "the model declares it for its output"))
        if name in given:
            candidates = [(given[name], "asked for")]
        if not candidates:
            missing.append(name)
            continue
        size, why = min(candidates)
        result[name] = max(1, size)
        reasons.append(f"`{name}`, which is computed, is at most {result[name]}: {why}")
    if missing:
        listed = " and ".join(f"`{name}`" for name in missing)
        flags = " ".join(f"--max-dim {name}=NUMBER" for name in missing)
        raise UsageError(
            f"`{model.facts.name}` computes the size of {listed} from values, which have no bound",
            hint=f"give an upper bound: `{flags}`",
            dims=tuple(missing),
        )
    return reasons


def _value(dim: Dim, bounds: Mapping[str, int]) -> int | None:
    value = dim if isinstance(dim, int) else dim.evaluate(dict(bounds))
    return value if isinstance(value, int) else None


def _declared(model: ModelIR) -> dict[str, int]:
    """Computed dimensions that are, as they are, a dimension of an output for which the model declares a number."""
    graph = model.model.graph
    shapes = graph.meta.get(DECLARED, {})
    found: dict[str, int] = {}
    for value in graph.outputs:
        for own, dim in zip(value.shape.dims if value.shape else (), shapes.get(value.name) or (), strict=False):
            if isinstance(dim, int) and not isinstance(own, int) and own.value in own.free_symbols():
                found[str(own)] = max(dim, found.get(str(own), 0))
    return found


def _default(name: str, task: Mapping[str, Any], model: str) -> tuple[int, str]:
    kind = next((kind for pattern, kind in _PATTERNS if pattern.search(name)), None)
    image = task.get("image") or {}
    longest = task.get("max_length") or (task.get("text") or {}).get("max_length")
    if kind == "batch":
        return 1, "one input at a time on a device"
    if kind == "steps":
        return -(-int(task["detect"]["longest"]) // 32), "the longest side in steps of 32 pixels"
    if kind == "line":
        return _DEFAULT_LINE, "a line of text in steps of 8 pixels; `max_dims` changes it"
    if kind == "samples" and task.get("window_seconds"):
        return int(task["window_seconds"] * task["sample_rate"]), f"{task['window_seconds']} seconds at a time"
    if kind == "past" and task.get("max_tokens"):
        return int(task["max_tokens"]) - 1, "the model's own longest answer"
    if kind in ("sequence", "samples", "past") and longest:
        return int(longest), "the model's own longest input"
    if kind in ("sequence", "samples", "past"):
        return _DEFAULT_SEQUENCE, "a page of text; `max_dims` changes it"
    if kind in ("height", "width") and image.get(kind):
        return int(image[kind]), "the model's own image size"
    raise UsageError(
        f"`{model}` has a dimension `{name}` of unknown size", hint=f"give it an upper bound: `--max-dim {name}=NUMBER`"
    )


__all__ = ["bounds", "symbols"]
