"""What `--dump DIR` writes after each stage: readable files, one folder per stage."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgec.ir import ModelIR
    from edgec.pipeline import Work


def frontend(work: Work, folder: Path) -> None:
    """`facts.json`, `graph.txt`, and `model.onnx` (+ `.data`), which onnxruntime runs."""
    assert work.loaded is not None
    _model(work.loaded, folder)


def simplify(work: Work, folder: Path) -> None:
    """The same files as `frontend`."""
    assert work.model is not None
    _model(work.model, folder)


def plan(work: Work, folder: Path) -> None:
    """`plan.json`, which `--plan` reads."""
    assert work.plan is not None
    _write_json(folder / "plan.json", work.plan.to_json())


def slim(work: Work, folder: Path) -> None:
    """The same files as `frontend`, and `slim.json`."""
    assert work.model is not None and work.slim_plan is not None
    _model(work.model, folder)
    _write_json(folder / "slim.json", dataclasses.asdict(work.slim_plan))


def heal(work: Work, folder: Path) -> None:
    """`plan.json`, which now says what training did."""
    plan(work, folder)


def compress(work: Work, folder: Path) -> None:
    """`report.json`: bits, bytes and errors per tensor."""
    assert work.compressed is not None
    _write_json(folder / "report.json", dict(work.compressed.report))


def exits(work: Work, folder: Path) -> None:
    """`exits.json`: thresholds, and what they give."""
    assert work.compressed is not None
    facts = ("layer", "threshold", "agreement", "share", "tokens")
    heads = [{name: getattr(head, name) for name in facts} for head in work.compressed.exits]
    _write_json(folder / "exits.json", {"exits": heads})


def adapter(work: Work, folder: Path) -> None:
    """`adapter.json`: what the adapter gives back."""
    assert work.adapter is not None
    facts = ("steps", "before", "fitted", "after")
    _write_json(folder / "adapter.json", {name: getattr(work.adapter, name) for name in facts})


def lower(work: Work, folder: Path) -> None:
    """`module.<variant>.wasm`, and `module.json` with memory plan, entry points and statistics."""
    lowered = work.lowered
    assert lowered is not None
    folder.mkdir(parents=True, exist_ok=True)
    for variant, wasm in sorted(lowered.variants.items()):
        (folder / f"module.{variant}.wasm").write_bytes(wasm)
    weights = [
        {"name": weight.name, "kind": weight.kind, "offset": weight.offset, "bytes": weight.data.nbytes}
        for weight in lowered.weights
    ]
    _write_json(
        folder / "module.json",
        {
            "memory": dataclasses.asdict(lowered.memory),
            "entry_points": {entry.name: entry.parameters for entry in lowered.entry_points},
            "inputs": [dataclasses.asdict(slot) for slot in lowered.inputs],
            "outputs": [dataclasses.asdict(slot) for slot in lowered.outputs],
            "dims": dict(lowered.dims),
            "weights": weights,
            "statistics": dict(lowered.statistics),
        },
    )


def bundle(work: Work, folder: Path) -> None:
    """`records.json`: time and memory per stage. The bundle itself lies where `-o` says."""
    _write_json(folder / "records.json", [dataclasses.asdict(record) for record in work.records])


def _model(model: ModelIR, folder: Path) -> None:
    import onnx_ir

    facts = {
        "kind": model.kind,
        "facts": dataclasses.asdict(model.facts),
        "decoder": dataclasses.asdict(model.decoder) if model.decoder else None,
        "generation": dict(model.generation),
        "task": model.task,
    }
    _write_json(folder / "facts.json", facts)
    graph = model.model.graph
    lines = [f"input  {value}" for value in graph.inputs]
    lines += [f"weight {value}" for value in graph.initializers.values()]
    lines += [str(node) for node in graph]
    lines += [f"output {value}" for value in graph.outputs]
    (folder / "graph.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    onnx_ir.save(model.model, folder / "model.onnx", external_data="model.onnx.data")


def _write_json(file: Path, document: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=2, default=_plain) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """Numpy scalars and the like, as JSON."""
    return value.item() if hasattr(value, "item") else str(value)
