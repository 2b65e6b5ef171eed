"""Bundles with speech tasks: the graphs that they need, and that the task's numbers fit them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from edgec.bundle.json_input import Node
from edgec.bundle.manifest import GraphInfo, Slot


def check_transcription(
    root: Node,
    graphs: Mapping[str, GraphInfo],
    entry_points: Mapping[str, tuple[str, ...]],
    inputs: tuple[Slot, ...],
    outputs: tuple[Slot, ...],
    dims: Mapping[str, int],
) -> None:
    """Raises `BundleError`; the task's own fields are checked already."""
    task = root["task"]
    encode, decode = graphs.get("encode"), graphs.get("decode")
    if encode is None or encode.inputs != ("audio",) or decode is None or decode.inputs != ("tokens",):
        raise task.fail("needs the graphs `encode`, which reads `audio`, and `decode`, which reads `tokens`")
    if decode.outputs != ("logits",):
        raise task.fail("needs a graph `decode` that writes `logits`")
    slots = {slot.name: slot for slot in (*inputs, *outputs)}
    audio, tokens = slots["audio"], slots["tokens"]
    count = audio.shape[1] if len(audio.shape) == 2 and audio.shape[0] == 1 else None
    samples = count if isinstance(count, int) else dims.get("samples", 0) if count == "samples" else 0
    if audio.dtype != "float32" or samples < 1 or (tokens.dtype, tokens.shape) != ("int64", (1, 1)):
        raise task.fail("needs `audio`, float32 [1, samples], and `tokens`, int64 [1, 1]")
    free = () if isinstance(count, int) else ("samples",)
    if entry_points["encode"] != free or not {"past"} <= set(entry_points["decode"]) <= {"past", *free}:
        raise task.fail("needs the parameters `samples` of `encode`, `past` and `samples` of `decode`")
    logits = slots["logits"]
    vocabulary = logits.shape[-1] if len(logits.shape) == 3 and logits.shape[:2] == (1, 1) else None
    if logits.dtype != "float32" or not isinstance(vocabulary, int) or vocabulary < 1:
        raise task.fail("needs `logits`, float32 [1, 1, vocabulary]")
    for name in ("start_ids", "suppress_ids", "begin_suppress_ids"):
        if any(element.integer(0) >= vocabulary for element in task[name].elements()):
            raise task[name].fail("has an id outside the vocabulary")
    if math.floor(task["min_seconds"].number() * task["sample_rate"].integer(1)) > samples:
        raise task["min_seconds"].fail("is more than `audio` holds")
    if len(task["start_ids"].value) > dims["past"]:
        raise task["start_ids"].fail("is more than the dimension `past` holds")
    if root["tokenizer"].is_null():
        raise task.fail("needs a tokenizer")


def check_speech_detection(
    root: Node, graphs: Mapping[str, GraphInfo], inputs: tuple[Slot, ...], outputs: tuple[Slot, ...]
) -> None:
    """Raises `BundleError`; the task's own fields are checked already."""
    task = root["task"]
    heard = task["window"].integer(1) + task["context"].integer(0)
    if list(graphs) != ["run"] or len(inputs) != 2 or len(outputs) != 2:
        raise task.fail("needs one graph `run` of two inputs and two outputs")
    sound, before = inputs
    chance, after = outputs
    if any(slot.dtype != "float32" for slot in (*inputs, *outputs)):
        raise task.fail("needs float32 inputs and outputs")
    if sound.shape != (1, heard) or chance.shape != (1, 1):
        raise task.fail(f"needs an input [1, {heard}] and an output [1, 1] first")
    if before.shape != after.shape or not all(isinstance(dim, int) for dim in before.shape):
        raise task.fail("needs a state of one fixed shape as second input and output")
