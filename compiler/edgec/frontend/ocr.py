"""Text readers of two ONNX files (PP-OCR): one finds lines of text in a picture, one reads a line.

The names of the parts are `detect` and `recognize`. Sides of pictures stay open, in steps that halve evenly.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir

from edgec.errors import ModelError, UnsupportedError
from edgec.frontend import onnx as onnx_frontend
from edgec.frontend.files import model_card_license, source_sha256
from edgec.frontend.problems import Problem
from edgec.frontend.side_by_side import side_by_side
from edgec.ir.model import GraphPart, ModelFacts, ModelIR

TASK = "ocr"
_CHARACTERS = "character"  # key of the recogniser's metadata: one a line, blank and space not among them
DETECT_STEP, RECOGNIZE_STEP = 32, 8  # pixels; both networks halve their input until so much is one

# How PP-OCR was trained to see pictures, and its own settings (Du et al., "PP-OCR", 2020; Liao et al., "Real-time
# Scene Text Detection with Differentiable Binarization", 2019).
_PIXELS: Mapping[str, Any] = {"channels": "BGR", "mean": [127.5] * 3, "std": [127.5] * 3}
_DETECT: Mapping[str, Any] = {
    **_PIXELS, "longest": 960, "threshold": 0.3, "box_threshold": 0.6, "unclip": 1.6, "shortest": 3,
}  # fmt: skip
_RECOGNIZE: Mapping[str, Any] = {**_PIXELS, "height": 48, "least_width": 320}


@dataclass(frozen=True)
class Files:
    detector: Path
    recognizer: Path
    characters: tuple[str, ...]


def find(folder: Path) -> Files:
    """The detector (it gives a map, rank 4 with one channel) and the recogniser (its metadata has its characters).

    Raises `ModelError` when there is not exactly one of each.
    """
    detectors, recognizers = list[Path](), dict[Path, tuple[str, ...]]()
    for path in sorted(folder.glob("*.onnx")):
        proto = onnx_frontend.read_proto(path)
        characters = _characters(proto)
        if characters:
            recognizers[path] = characters
        elif _gives_a_map(proto):
            detectors.append(path)
    for found, what in ((detectors, "finds text (its output is a map)"), (recognizers, "has `character` metadata")):
        if len(found) != 1:
            names = ", ".join(f"`{path.name}`" for path in found) or "no file"
            raise ModelError(
                f"`{folder}` is no text reader: {names} {what}",
                hint="it is one ONNX file that finds lines and one that reads them, in a folder of their own",
            )
    [(recognizer, characters)] = recognizers.items()
    return Files(detectors[0], recognizer, characters)


def _characters(proto: onnx.ModelProto) -> tuple[str, ...]:
    texts = [entry.value for entry in proto.metadata_props if entry.key == _CHARACTERS]
    return tuple(line.rstrip("\r") for line in texts[0].rstrip("\n").split("\n")) if texts else ()


def _gives_a_map(proto: onnx.ModelProto) -> bool:
    dims = [list(value.type.tensor_type.shape.dim) for value in proto.graph.output]
    return len(dims) == 1 and len(dims[0]) == 4 and dims[0][1].dim_value == 1


def check(folder: Path, *, supported_ops: Collection[str] | None = None) -> list[Problem]:
    """What stands against it."""
    files = find(folder)
    both = (files.detector, files.recognizer)
    return [problem for path in both for problem in onnx_frontend.check(path, supported_ops=supported_ops)]


def load(
    folder: Path,
    *,
    name: str | None = None,
    description: Mapping[str, Any] | None = None,
    supported_ops: Collection[str] | None = None,
) -> ModelIR:
    """One model with the parts `detect` and `recognize`; `description` replaces what is known of PP-OCR."""
    files = find(folder)
    described: dict[str, Any] = {"type": TASK, "min_score": 0.5, **(description or {})}
    detect, recognize = {**_DETECT, **described.get("detect", {})}, {**_RECOGNIZE, **described.get("recognize", {})}
    recognize.setdefault("characters", ["", *files.characters, " "])  # the first is no character
    described |= {"detect": detect, "recognize": recognize}
    shapes = {
        "detect": ["3", f"{DETECT_STEP}*det_rows", f"{DETECT_STEP}*det_columns"],
        "recognize": ["3", str(recognize["height"]), f"{RECOGNIZE_STEP}*rec_columns"],
    }
    models: dict[str, onnx_ir.Model] = {}
    parameters = 0
    for part, path in (("detect", files.detector), ("recognize", files.recognizer)):
        loaded = onnx_frontend.load(path, supported_ops=supported_ops)
        parameters += loaded.facts.parameters
        models[part] = loaded.model
        _open(loaded.model.graph, path, shapes[part])
    merged = side_by_side(models)
    parts = {
        part: GraphPart(*(tuple(_of(part, values)) for values in (merged.graph.inputs, merged.graph.outputs)))
        for part in models
    }
    sources = [files.detector, files.recognizer]
    facts = ModelFacts(
        name=name or folder.resolve().name,
        architecture="ocr",
        source_format="onnx",
        source_sha256=source_sha256(sources),
        parameters=parameters,
        license=model_card_license(folder),
    )
    model = ModelIR(model=merged, kind="graph", facts=facts, task=described, parts=parts)
    model.verify()
    return model


def _of(part: str, values: Any) -> list[str]:
    return [value.name for value in values if value.name.startswith(f"{part}.")]


def _open(graph: onnx_ir.Graph, path: Path, sides: list[str]) -> None:
    """Batch 1 and the steps of the sides; an `UnsupportedError` where the input is no picture."""
    [*inputs] = graph.inputs
    if len(inputs) != 1 or inputs[0].shape is None or len(inputs[0].shape) != 4:
        raise UnsupportedError(f"`{path.name}` does not have one input of four dimensions, a picture")
    inputs[0].shape = onnx_ir.Shape(
        [1, *(int(side) if side.isdigit() else onnx_ir.SymbolicDim(side) for side in sides)]
    )
