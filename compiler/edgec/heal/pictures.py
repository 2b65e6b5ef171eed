"""Healing networks that classify pictures: the rounded one learns from the original what is in views of pictures.

The codes that its quantizers found stay as they are, and so do filters of depthwise convolutions: what is trained is
the biases, through which each channel makes up for what rounding did to it (docs/decisions/0036). The first layers of
such networks have next to none of the weights and most of the work: they are left as they are, and what comes out of
them is computed once for each view. Both models go on from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx_ir
import torch

from edgec.compress import PictureViews, Sample, dequantized_model, float_rounding, stored_rows
from edgec.compress.prune.blocks import blocks
from edgec.errors import UnsupportedError
from edgec.heal.batches import PictureBatches
from edgec.heal.graph import TorchGraph, needed_nodes
from edgec.heal.loss import Distance
from edgec.heal.ops import Tensor
from edgec.heal.quantized import FloatWeight
from edgec.heal.train import SEED, Course, Healed, train
from edgec.heal.training import Distillation, Progress, fingerprint, one_thread
from edgec.ir.compressed import CompressedModel
from edgec.ir.model import ModelIR
from edgec.ir.weight_use import is_depthwise_filter, weight_uses

_FRONT = 0.05  # of the weights lie before what is trained, at most
_RATE = 1e-3  # Adam's, at its highest, of an initializer's mean magnitude


def heal_pictures(
    teacher: ModelIR,
    compressed: CompressedModel,
    views: PictureViews,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Healed:
    """Train the network as `compressed` stores it to give each view the classes that `teacher` does.

    `rows` of the result has the codes of all its matrices; they are those of `compressed` where training did not help.
    The rest is as in `edgec.heal.train.heal`.
    """
    if teacher.parts:
        raise UnsupportedError(f"`{teacher.facts.name}` is a model of several parts, which cannot be healed yet")
    with one_thread():
        course = _course(teacher, compressed, views, progress)
        healed = train(course, steps=steps, minutes=minutes, folder=folder, progress=progress)
    if healed.after < healed.before:
        return healed
    return Healed(course.model, course.rows, healed.steps, healed.before, healed.before)


def _course(teacher: ModelIR, compressed: CompressedModel, views: PictureViews, progress: Progress | None) -> Course:
    student, plan = dequantized_model(compressed), compressed.plan
    cut = _cut(teacher)
    computed = {value.name for node in _after(teacher, cut) for value in node.outputs}
    ends = [str(block.end.name) for block in blocks(teacher)]
    distance = Distance(student, [name for name in ends if name in computed])
    graph = TorchGraph(student, distance.wanted, [cut], stacked=True)
    whole = TorchGraph(teacher, distance.wanted, [cut], stacked=True)
    rows = {
        name: stored_rows(packed, planned)
        for name, packed in compressed.packed.items()
        if (planned := plan.tensor(name)) is not None
    }
    floats = {
        name: FloatWeight(tensor.clone().requires_grad_(), _RATE * float(tensor.abs().mean()), rounding)
        for name, tensor in whole.parameters.items()
        if name not in compressed.packed and not is_depthwise_filter(teacher.model.graph.initializers[name])
        for rounding in [float_rounding(plan.tensor(name))]
    }
    for name in floats:
        del graph.parameters[name]  # those that are trained stand for them
    fed = _Fed(student, teacher, cut, progress)
    digest = fingerprint(teacher, student, plan, fed.watch(views))
    batches = PictureBatches(cut, torch.stack(fed.student), torch.stack(fed.teacher), views.of_each, SEED)
    return Course(
        model=student,
        distillation=Distillation(whole, graph, distance, batches),
        quantized={},
        floats=floats,
        fingerprint=digest,
        rows=rows,
    )


class _Fed:
    """What the first layers of both models make of each view, in float16."""

    def __init__(self, student: ModelIR, teacher: ModelIR, cut: str, progress: Progress | None) -> None:
        self.student: list[Tensor] = []
        self.teacher: list[Tensor] = []
        self._graphs = [TorchGraph(model, [cut]) for model in (student, teacher)]
        self._cut, self._progress = cut, progress

    def watch(self, views: PictureViews) -> Iterator[Sample]:
        """The views, each of which was run when the next one is asked for."""
        for number, sample in enumerate(views):
            if self._progress is not None:
                self._progress("views of the pictures", number, len(views))
            feeds = {name: torch.from_numpy(array) for name, array in sample.items()}
            with torch.no_grad():
                for graph, found in zip(self._graphs, (self.student, self.teacher), strict=True):
                    found.append({**feeds, **graph(graph.parameters, feeds)}[self._cut].half())
            yield sample


def _after(model: ModelIR, cut: str) -> list[onnx_ir.Node]:
    """The nodes that are left to run when the value `cut` is known."""
    return needed_nodes(model.model.graph, Distance(model, ()).wanted, [cut])


def _cut(model: ModelIR) -> str:
    """The value from which on is trained: the last one between two blocks that has few weights before it."""
    sizes = {name: use.elements for name, use in weight_uses(model.model).items()}
    found = str(model.model.graph.inputs[0].name)
    for block in blocks(model):
        after = {value.name for node in _after(model, str(block.start.name)) for value in node.inputs if value}
        if sum(sizes[name] for name in sizes if name not in after) <= _FRONT * sum(sizes.values()):
            found = str(block.start.name)
    return found


__all__ = ["heal_pictures"]
