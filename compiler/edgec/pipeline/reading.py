"""The stages `frontend` and `simplify`."""

from __future__ import annotations

import itertools
from collections.abc import Collection

from edgec.pipeline.options import rotates
from edgec.pipeline.work import Work


def read_model(work: Work) -> None:
    from edgec.frontend import load

    options = work.options
    ops = supported_operators()
    work.loaded = load(
        work.source, task=options.task, name=options.name, supported_ops=ops, lora=options.lora, store=work.cache
    )
    work.loaded.verify()


def simplify_graph(work: Work) -> None:
    from edgec.passes import PIPELINE, fix_inputs, rotate, simplify

    assert work.loaded is not None
    work.loaded = fix_inputs(work.loaded, work.options.fixed_inputs or {})
    if rotates(work.options):
        work.loaded = rotate(work.loaded)
    advance = work.advance("simplify")
    done = itertools.count(1)
    work.model = simplify(work.loaded, observer=lambda name, _graph: advance(name, next(done), len(PIPELINE)))
    work.loaded = None


def supported_operators() -> Collection[str]:
    """ONNX operators that can be compiled, so that a frontend refuses others before any work."""
    from edgec.lower.wasm.graph import SUPPORTED_OPS
    from edgec.passes import SIMPLIFIED_OPS

    return SUPPORTED_OPS | SIMPLIFIED_OPS


__all__ = ["read_model", "simplify_graph", "supported_operators"]
